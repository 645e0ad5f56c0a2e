package unixsocket

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func modeOf(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// TestNobodyConnectsBeforeThePermissions: whatever the umask lets through, a socket that has no owner and mode yet has mode 0.
func TestNobodyConnectsBeforeThePermissions(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "s")
	l, err := bind(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if mode := modeOf(t, path); mode != os.ModeSocket {
		t.Errorf("mode %v between bind and permit", mode)
	}
	if _, err := (Access{Mode: 0o640}).permit(path); err != nil {
		t.Fatal(err)
	}
	if mode := modeOf(t, path); mode != os.ModeSocket|0o640 {
		t.Errorf("mode %v afterwards", mode)
	}
}

func TestListenKeepsToTheModeAskedFor(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o777} {
		old := syscall.Umask(umask)
		path := filepath.Join(t.TempDir(), "s")
		l, err := Listen(path, Access{Mode: 0o606})
		syscall.Umask(old)
		if err != nil {
			t.Fatal(err)
		}
		if mode := modeOf(t, path); mode != os.ModeSocket|0o606 {
			t.Errorf("umask %o: mode %v", umask, mode)
		}
		l.Close()
	}
}

// TestPermissionsDoNotFollowLinks: whoever owns the directory may put a link to another file, or another file, under the socket's temporary
// name.
func TestPermissionsDoNotFollowLinks(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	if err := os.WriteFile(precious, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link, hard := filepath.Join(dir, "link"), filepath.Join(dir, "hard")
	if err := errors.Join(os.Symlink(precious, link), os.Link(precious, hard)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{link, hard, precious} {
		if _, err := (Access{Mode: 0o666}).permit(name); err == nil {
			t.Errorf("%s was taken for the socket", name)
		}
	}
	if mode := modeOf(t, precious); mode != 0o600 {
		t.Errorf("the file that the link shows to has mode %v now", mode)
	}
}

// TestRefuseRights: descriptors are refused to their sender, also on connections that nobody has accepted yet; sending from here goes on.
func TestRefuseRights(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path, Access{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	null, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	known, err := RefuseRights(l)
	if err != nil {
		t.Fatal(err)
	}
	if !known {
		t.Log("this kernel is older than 6.16: descriptors cannot be refused, the number of connections is what bounds them")
		return
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	send := func() error {
		_, _, err := c.WriteMsgUnix([]byte("G"), unix.UnixRights(int(null.Fd())), nil)
		return err
	}
	if err := send(); !errors.Is(err, unix.EPERM) {
		t.Errorf("before accept: %v, want EPERM", err)
	}
	a, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if err := send(); !errors.Is(err, unix.EPERM) {
		t.Errorf("after accept: %v, want EPERM", err)
	}
	if _, err := c.Write([]byte("G")); err != nil {
		t.Errorf("without a descriptor: %v", err)
	}
	if _, _, err := a.WriteMsgUnix([]byte("x"), unix.UnixRights(int(null.Fd())), nil); err != nil {
		t.Errorf("a descriptor from here: %v", err)
	}
}

func TestMakeDirectory(t *testing.T) {
	shared := filepath.Join(t.TempDir(), "tmp")
	if err := errors.Join(os.Mkdir(shared, 0o700), os.Chmod(shared, 0o777|os.ModeSticky)); err != nil {
		t.Fatal(err)
	}
	prepare := func(name string, mode os.FileMode) string {
		path := filepath.Join(shared, name)
		if err := errors.Join(os.Mkdir(path, 0o700), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(path, "below")
	}
	link := filepath.Join(shared, "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	for path, good := range map[string]bool{
		filepath.Join(shared, "new", "below"): true, shared: true, prepare("own", 0o755): true, prepare("group", 0o775): true,
		prepare("open", 0o757): false, prepare("sticky", 0o777|os.ModeSticky): false, filepath.Join(link, "below"): false,
	} {
		if err := MakeDirectory(path); (err == nil) != good {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, test := range []struct {
		st   unix.Stat_t
		good bool
	}{
		{unix.Stat_t{Mode: unix.S_IFDIR | 0o755, Uid: uint32(os.Geteuid()), Gid: uint32(os.Getegid())}, true},
		{unix.Stat_t{Mode: unix.S_IFDIR | 0o755, Uid: 0}, true},
		{unix.Stat_t{Mode: unix.S_IFDIR | 0o755, Uid: uint32(os.Geteuid() + 1)}, false},
		{unix.Stat_t{Mode: unix.S_IFDIR | 0o775, Uid: 0, Gid: uint32(os.Getegid() + 1)}, false},
		{unix.Stat_t{Mode: unix.S_IFLNK | 0o777, Uid: uint32(os.Geteuid())}, false},
	} {
		if err := trusted(&test.st); (err == nil) != test.good {
			t.Errorf("%+v: %v", test.st, err)
		}
	}
}
