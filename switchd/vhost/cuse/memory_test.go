package cuse

import (
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// self is this process as an owner.
func self(t *testing.T) *process {
	t.Helper()
	p, err := openProcess(inHeader{TID: uint32(unix.Gettid())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

func (p *process) find(regions ...guestRegion) (*found, error) {
	return p.findMemory(regions, slog.New(slog.DiscardHandler))
}

// reserve gives addresses that are free, next to each other.
func reserve(t *testing.T, pages int) []byte {
	t.Helper()
	data, err := unix.Mmap(-1, 0, pages*pageSize, unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(data) })
	return data
}

// place maps a part of a file at an address.
func place(t *testing.T, at []byte, fd, filePage, pages, prot, flags int) {
	t.Helper()
	_, _, errno := unix.Syscall6(unix.SYS_MMAP, uintptr(guestmem.AddressOf(at)), uintptr(pages*pageSize), uintptr(prot), uintptr(flags|unix.MAP_FIXED),
		uintptr(fd), uintptr(filePage*pageSize))
	if errno != 0 {
		t.Fatal(errno)
	}
}

const (
	readWrite = unix.PROT_READ | unix.PROT_WRITE
	shared    = unix.MAP_SHARED
)

// TestPgoff: the memory is not at the beginning of its file.
func TestPgoff(t *testing.T) {
	g := newGuest(t, 0x100000, 4, 7)
	f, err := self(t).find(guestRegion{g.base, 2 * pageSize, g.at(pageSize)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	m, err := guestmem.Map(f.specs)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	copy(g.data[pageSize+5:], "here")
	p, n := m.Translate(g.base+5, 4, &guestmem.Hint{})
	if n != 4 || string(p.Bytes(4)) != "here" {
		t.Errorf("the switch sees %q", p.Bytes(4))
	}
	if f.specs[0].MmapOffset != 8*pageSize {
		t.Errorf("offset %#x", f.specs[0].MmapOffset)
	}
}

// TestSeveralFiles: a region that QEMU has put together of two files (NUMA nodes) and of a mapping in parts (mprotect, madvise).
func TestSeveralFiles(t *testing.T) {
	a, b := newGuest(t, 0, 8, 0), newGuest(t, 0, 4, 0)
	at := reserve(t, 8)
	place(t, at, a.fd, 2, 2, readWrite, shared)
	place(t, at[2*pageSize:], a.fd, 4, 2, readWrite, shared)
	place(t, at[4*pageSize:], b.fd, 0, 4, readWrite, shared)
	if err := unix.Madvise(at[pageSize:2*pageSize], unix.MADV_DONTFORK); err != nil { // makes it two mappings
		t.Fatal(err)
	}
	user := uint64(guestmem.AddressOf(at))
	f, err := self(t).find(guestRegion{0x40000000, 8 * pageSize, user})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	type part struct{ gpa, size, user, offset uint64 }
	var parts []part
	for _, s := range f.specs {
		parts = append(parts, part{s.GuestPhysAddr, s.Size, s.UserAddr, s.MmapOffset})
	}
	var files []uint64
	next := part{gpa: 0x40000000, user: user}
	for i, p := range parts {
		if p.gpa != next.gpa || p.user != next.user {
			t.Errorf("part %d is %x, want it to begin at %x", i, p, next)
		}
		next.gpa, next.user = p.gpa+p.size, p.user+p.size
		var st unix.Stat_t
		if err := unix.Fstat(f.specs[i].FD, &st); err != nil {
			t.Fatal(err)
		}
		files = append(files, st.Ino)
	}
	if next.gpa != 0x40000000+8*pageSize || len(slices.Compact(files)) != 2 || len(f.files) != 2 {
		t.Errorf("parts %x of files %v, %d descriptors", parts, files, len(f.files))
	}
	copy(at[5*pageSize:], "second node")
	m, err := guestmem.Map(f.specs)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if p, n := m.Translate(0x40000000+5*pageSize, 11, &guestmem.Hint{}); n != 11 || string(p.Bytes(11)) != "second node" {
		t.Errorf("the switch sees %q", p.Bytes(int(n)))
	}
}

// TestNotShared: what is no guest memory that the switch could see, and what is said about it.
func TestNotShared(t *testing.T) {
	g := newGuest(t, 0, 4, 0)
	at := reserve(t, 4)
	user := uint64(guestmem.AddressOf(at))
	readOnly, err := unix.Open("/proc/self/exe", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(readOnly)
	main := guestRegion{0, 4 * pageSize, user}
	for name, test := range map[string]struct {
		prepare func()
		region  guestRegion
		want    error
	}{
		"private":           {func() { place(t, at, g.fd, 0, 4, readWrite, unix.MAP_PRIVATE) }, main, errPrivate},
		"anonymous":         {func() { place(t, at, -1, 0, 4, readWrite, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS) }, main, errPrivate},
		"of a file to read": {func() { place(t, at, readOnly, 0, 4, unix.PROT_READ, shared) }, main, errPrivate},
		"partly private": {func() {
			place(t, at, g.fd, 0, 2, readWrite, unix.MAP_PRIVATE)
			place(t, at[2*pageSize:], g.fd, 2, 2, readWrite, shared)
		}, main, errPrivate},
		"not mapped": {func() { place(t, at, g.fd, 0, 4, readWrite, shared) }, guestRegion{0, 4 * pageSize, 4096}, unix.EFAULT},
		"no address": {func() {}, guestRegion{0, 4 * pageSize, 1 << 63}, unix.EFAULT},
	} {
		test.prepare()
		f, err := self(t).find(test.region)
		if err == nil {
			f.close()
		}
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if !strings.Contains(errPrivate.Error(), "share=on") || errnoOf(errPrivate) != unix.EOPNOTSUPP {
		t.Error(errPrivate)
	}
}

// TestLeftOut: the memory of a graphics card is private, and nobody minds.
func TestLeftOut(t *testing.T) {
	g := newGuest(t, 0, 4, 0)
	at := reserve(t, 4)
	place(t, at, -1, 0, 4, readWrite, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	f, err := self(t).find(g.region(), guestRegion{0xfd000000, 4 * pageSize, uint64(guestmem.AddressOf(at))})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if len(f.specs) != 1 || f.private != 4*pageSize {
		t.Errorf("%d regions, %d bytes left out", len(f.specs), f.private)
	}
}

// TestByMapping: QEMU has closed the memory's descriptor, as memory-backend-ram,share=on has none at all.
func TestByMapping(t *testing.T) {
	at := reserve(t, 4)
	place(t, at, -1, 0, 4, readWrite, shared|unix.MAP_ANONYMOUS)
	f, err := self(t).find(guestRegion{0, 4 * pageSize, uint64(guestmem.AddressOf(at))})
	if os.Geteuid() != 0 {
		if err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
			t.Errorf("without rights: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	m, err := guestmem.Map(f.specs)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	copy(at, "anonymous")
	if p, n := m.Translate(0, 9, &guestmem.Hint{}); n != 9 || string(p.Bytes(9)) != "anonymous" {
		t.Errorf("the switch sees %q", p.Bytes(int(n)))
	}
}

// TestHugeMemfd: hugepages in a memfd, with offset, where this machine has such pages.
func TestHugeMemfd(t *testing.T) {
	fd, err := unix.MemfdCreate("huge", unix.MFD_CLOEXEC|unix.MFD_HUGETLB|unix.MFD_HUGE_2MB)
	if err != nil {
		t.Logf("no hugepages of 2 MB here: %v", err)
		return
	}
	defer unix.Close(fd)
	const huge = 2 << 20
	if err := unix.Ftruncate(fd, 2*huge); err != nil {
		t.Fatal(err)
	}
	at, err := unix.Mmap(fd, huge, huge, readWrite, shared|unix.MAP_NORESERVE)
	if err != nil {
		t.Logf("no hugepages are free here: %v", err)
		return
	}
	defer func() { _ = unix.Munmap(at) }()
	f, err := self(t).find(guestRegion{0, huge, uint64(guestmem.AddressOf(at))})
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	if len(f.specs) != 1 || f.specs[0].MmapOffset != huge {
		t.Errorf("%+v", f.specs)
	}
	m, err := guestmem.Map(f.specs)
	if err != nil {
		t.Fatal(err)
	}
	m.Close()
}

// child starts a process that has an eventfd as descriptor 3 and a memfd as descriptor 4.
func child(t *testing.T) (cmd *exec.Cmd, event int) {
	t.Helper()
	event = eventFD(t)
	g := newGuest(t, 0, 1, 0)
	cmd = exec.Command("sleep", "60")
	for _, fd := range []int{event, g.fd} {
		own, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(own), "for the child")
		defer f.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	eventually(t, "the child runs", func() bool {
		comm, _ := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm")
		return string(comm) == "sleep\n"
	})
	return cmd, event
}

// TestOtherProcess: descriptors of another process, which ends in the middle.
func TestOtherProcess(t *testing.T) {
	cmd, event := child(t)
	k := boot(t)
	k.tid = cmd.Process.Pid
	h := k.open()
	k.ok(h, VHOST_SET_OWNER, nil)
	if c := k.sw.port(0).connection; c.Peer.PID != cmd.Process.Pid || c.Peer.Comm != "sleep" {
		t.Errorf("owner %+v", c.Peer)
	}
	k.ok(h, VHOST_SET_VRING_CALL, words(0, 3))
	k.wants(unix.EINVAL, h, VHOST_SET_VRING_CALL, words(0, 4)) // is memory
	k.wants(unix.EBADF, h, VHOST_SET_VRING_CALL, words(0, uint32(event)+100))

	k.tid = os.Getpid() // the descriptor was passed on
	k.wants(unix.EPERM, h, VHOST_SET_VRING_CALL, words(0, uint32(event)))
	k.wants(unix.EPERM, h, VHOST_RESET_OWNER, nil)
	k.ok(h, VHOST_GET_FEATURES, nil)

	k.tid = cmd.Process.Pid
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the child is gone", func() bool { // dead, not yet waited for: its number is still its own
		state, err := statusField(cmd.Process.Pid, "State:")
		return err != nil || strings.HasPrefix(state, "Z")
	})
	if errno, _ := k.ioctl(h, VHOST_SET_VRING_CALL, words(0, 3)); errno == 0 {
		t.Error("a dead process's descriptor was fetched")
	}
	_ = cmd.Wait()
	k.wants(unix.ENOENT, h, VHOST_SET_VRING_NUM, words(0, 16))
	k.release(h)
	eventually(t, "the port is closed", func() bool { _, closed := k.sw.port(0).state(); return closed })
}

// TestNumberReused: another process has the number of the owner now. (The owner here never had it: the pidfd is of a process that is gone.)
func TestNumberReused(t *testing.T) {
	cmd, _ := child(t)
	p, err := openProcess(inHeader{TID: uint32(cmd.Process.Pid)})
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	p.pid = os.Getpid()
	if _, err := p.take(0); err == nil {
		t.Error("a descriptor of the process that has the number now")
	}
	g := newGuest(t, 0, 1, 0)
	if f, err := p.find(g.region()); err == nil {
		f.close()
		t.Error("memory of the process that has the number now")
	}
	s := newSession(Config{Log: slog.New(slog.DiscardHandler)}, nil, nil)
	s.owner = p
	if err := s.checkOwner(inHeader{TID: uint32(os.Getpid())}); !errors.Is(err, unix.ESRCH) {
		t.Errorf("the process that has the number now counts as the owner: %v", err)
	}
}

func TestUnseenCaller(t *testing.T) {
	if _, err := openProcess(inHeader{TID: 0}); !errors.Is(err, unix.EPERM) {
		t.Errorf("a caller in another PID namespace: %v", err)
	}
}

// TestThread: FUSE tells the thread, not the process.
func TestThread(t *testing.T) {
	tids := make(chan int)
	end := make(chan struct{})
	defer close(end)
	go func() {
		runtime.LockOSThread()
		tids <- unix.Gettid()
		<-end
	}()
	select {
	case tid := <-tids:
		if pid, err := processOf(uint32(tid)); err != nil || pid != os.Getpid() {
			t.Errorf("thread %d is of process %d, %v; want %d", tid, pid, err, os.Getpid())
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no thread")
	}
}
