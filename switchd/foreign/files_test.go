package foreign

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
)

// slow gives a descriptor whose close(2) waits until the peer, which peer ends, is gone: SO_LINGER, and more data than the peer takes.
func slow(t *testing.T) (fd int, end func()) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	defer unix.Close(listener)
	must(unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(unix.Listen(listener, 1))
	address, err := unix.Getsockname(listener)
	must(err)
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	must(unix.Connect(fd, address))
	peer, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	must(err)
	must(unix.SetNonblock(fd, true))
	for junk := make([]byte, 1<<20); ; {
		if _, err := unix.Write(fd, junk); err != nil {
			break
		}
	}
	must(unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}))
	ended := false
	end = func() {
		if !ended {
			ended = true
			unix.Close(peer)
		}
	}
	t.Cleanup(end)
	return fd, end
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func ledger(threads uint64) *budget.Budget {
	var l budget.Limits
	for r := range l {
		l[r] = budget.Limit{Total: 100, User: 50, Account: 50}
	}
	l[budget.Threads] = budget.Limit{Total: 2 * threads, User: threads, Account: threads}
	return budget.New(l, nil)
}

func open(t *testing.T, b *budget.Budget, uid int, descriptors uint64) (*Files, *budget.Account) {
	t.Helper()
	a := b.Open(uid, false)
	if err := a.Take(budget.Descriptors, descriptors); err != nil {
		t.Fatal(err)
	}
	return New(a), a
}

// TestKinds: which files may be closed and asked by a caller that must not wait.
func TestKinds(t *testing.T) {
	memfd, _ := unix.MemfdCreate("x", unix.MFD_CLOEXEC)
	event, _ := unix.Eventfd(0, unix.EFD_CLOEXEC)
	shm, err := os.CreateTemp("/dev/shm", "vhostkit-test-*")
	if err != nil {
		t.Fatal(err)
	}
	defer os.Remove(shm.Name())
	disguise := filepath.Join(t.TempDir(), EventFD)
	other, err := os.Create(disguise)
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.Open("/dev/null") // on devtmpfs, which calls itself tmpfs
	if err != nil {
		t.Fatal(err)
	}
	pair, _ := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	for name, c := range map[string]struct {
		fd    int
		waits bool
	}{
		"memfd": {memfd, false}, "eventfd": {event, false}, "file on tmpfs": {int(shm.Fd()), false}, "file on a disk": {int(other.Fd()), true},
		"device on devtmpfs": {int(null.Fd()), true}, "Unix socket": {pair[0], true},
	} {
		if waits(c.fd) != c.waits {
			t.Errorf("%s: may wait is %v, want %v", name, !c.waits, c.waits)
		}
	}
	for _, fd := range []int{memfd, event, pair[0], pair[1]} {
		unix.Close(fd)
	}
	shm.Close()
	other.Close()
	null.Close()
}

// TestSlowClose: closing does not wait, and what is not closed stays counted.
func TestSlowClose(t *testing.T) {
	b := ledger(2)
	f, a := open(t, b, 1, 3)
	fd, end := slow(t)
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	pair, _ := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	defer unix.Close(pair[1])
	f.Close(fd, -1, event, pair[0])
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
	time.Sleep(50 * time.Millisecond)
	if n := a.Used(budget.Descriptors); n != 2 { // the eventfd is closed, the others are not
		t.Errorf("%d descriptors counted, want 2", n)
	}
	f.Finish()
	if err := a.Take(budget.Ports, 1); err != nil { // not before everything is closed
		t.Error(err)
	}
	a.Give(budget.Ports, 1)
	end()
	eventually(t, "everything is given back", func() bool {
		return a.Used(budget.Descriptors) == 0 && a.Used(budget.Threads) == 0
	})
	eventually(t, "the account has ended", func() bool {
		err := a.Take(budget.Ports, 1)
		if err == nil {
			a.Give(budget.Ports, 1)
		}
		return err != nil
	})
}

// TestOneUserHasNoMoreThreadsThanItsOwn: slow descriptors of one user, however many, leave another user's closes alone.
func TestOneUserHasNoMoreThreadsThanItsOwn(t *testing.T) {
	b := ledger(3)
	var ends []func()
	var hostile []*Files
	for range 8 {
		f, _ := open(t, b, 666, 1)
		fd, end := slow(t)
		ends = append(ends, end)
		f.Close(fd)
		hostile = append(hostile, f)
	}
	if n := b.Usage()[budget.Threads].Used; n != 3 {
		t.Errorf("%d threads wait, want 3", n)
	}
	refused := 0
	for _, f := range hostile {
		if f.Err() != nil {
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("%d of 8 are told that their files wait, want 5", refused)
	}
	innocent, a := open(t, b, 1, 1)
	pair, _ := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	defer unix.Close(pair[1])
	innocent.Close(pair[0])
	eventually(t, "another user's descriptor is closed", func() bool { return a.Used(budget.Descriptors) == 0 })
	for _, end := range ends {
		end()
	}
	eventually(t, "the rest is closed, too", func() bool { return b.Usage()[budget.Descriptors].Used == 0 && b.Usage()[budget.Threads].Used == 0 })
}

// TestAskIsBounded: a file system that does not answer holds up a question for a second, and a thread.
func TestAskIsBounded(t *testing.T) {
	f, a := open(t, ledger(1), 1, 0)
	pair, _ := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	release := make(chan struct{})
	if err := f.Ask(pair[0], func() error { <-release; return nil }); !errors.Is(err, ErrSlow) {
		t.Errorf("%v, want ErrSlow", err)
	}
	var exceeded *budget.ExceededError
	if _, err := f.Stat(pair[0]); !errors.As(err, &exceeded) {
		t.Errorf("another question while the only thread waits: %v", err)
	}
	close(release)
	eventually(t, "the thread is back", func() bool { return a.Used(budget.Threads) == 0 })
	if st, err := f.Stat(pair[0]); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		t.Errorf("%v, mode %o", err, st.Mode)
	}
	var none *Files
	if _, err := none.FileSystem(pair[0]); err != nil {
		t.Error(err)
	}
}
