package pci

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// plainDMAPool is one of plain pages, which a machine without hugepages has, too.
func plainDMAPool(t *testing.T) *dmaPool {
	t.Helper()
	fd, err := unix.MemfdCreate("test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	return &dmaPool{file: fd, socket: -1}
}

func somewhere(virtual uint64) (uint64, error) { return virtual | 1<<50, nil }

// resident is how much memory a file has.
func resident(t *testing.T, fd int) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// TestMemoryStaysWhileOnBus: a device that cannot be taken off the bus keeps its memory.
func TestMemoryStaysWhileOnBus(t *testing.T) {
	name := filepath.Join(t.TempDir(), "config")
	config := make([]byte, 4096)
	config[pciCommand] = pciCommandMaster | pciCommandMemory
	if err := os.WriteFile(name, config, 0o644); err != nil {
		t.Fatal(err)
	}
	open := func(flags int) *os.File {
		f, err := os.OpenFile(name, flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	p := &physical{address: "0000:03:00.0", claim: &claim{config: open(os.O_RDONLY)}, memory: *plainDMAPool(t)}
	d, err := p.memory.take(somewhere)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err == nil || !strings.Contains(err.Error(), "bus master") || !strings.Contains(err.Error(), "kept") {
		t.Errorf("Close of a device that stays on the bus: %v", err)
	}
	if len(p.memory.pieces) != 1 || resident(t, p.memory.file) != hugepage {
		t.Fatalf("its memory was given back: %+v, %d bytes left", p.memory, resident(t, p.memory.file))
	}
	d.Addr.StoreU64(1) // still mapped
	_ = p.claim.close()
	p.claim = &claim{config: open(os.O_RDWR)}
	if err := p.Close(); err != nil || p.memory.file >= 0 || len(p.memory.pieces) != 0 {
		t.Errorf("%v, %+v", err, p.memory)
	}
	if data, _ := os.ReadFile(name); data[pciCommand] != pciCommandMemory {
		t.Errorf("command %#x", data[pciCommand])
	}
}

// TestDMAPool: what is given back is the kernel's again, though the file stays; what is not stays.
func TestDMAPool(t *testing.T) {
	h := plainDMAPool(t)
	a, err := h.take(somewhere)
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.take(somewhere)
	if err != nil {
		t.Fatal(err)
	}
	if a.Size != hugepage || a.IOVA != uint64(a.Addr)|1<<50 || a == b || resident(t, h.file) != 2*hugepage {
		t.Errorf("%+v, %+v, %d bytes", a, b, resident(t, h.file))
	}
	b.Addr.StoreU64(7)
	if err := h.give(a); err != nil || resident(t, h.file) != hugepage || b.Addr.LoadU64() != 7 {
		t.Errorf("%v, %d bytes are left", err, resident(t, h.file))
	}
	if err := h.give(a); err == nil {
		t.Error("memory was given back twice")
	}
	refused := os.ErrPermission
	if _, err := h.take(func(uint64) (uint64, error) { return 0, refused }); err == nil || resident(t, h.file) != hugepage || len(h.pieces) != 1 {
		t.Errorf("a page without an address: %v, %d bytes", err, resident(t, h.file))
	}
	if err := h.close(); err != nil || h.file != -1 {
		t.Errorf("%v, %+v", err, h)
	}
}

// TestDMAPoolHasItselfInFlight: the last one to hold the memory is the message in the socket.
func TestDMAPoolHasItselfInFlight(t *testing.T) {
	h := &dmaPool{file: -1, socket: -1}
	if err := h.open(); err != nil {
		t.Fatal(err)
	}
	var mine, theirs unix.Stat_t
	space := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(h.socket, make([]byte, 1), space, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(space[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	defer unix.Close(fds[0])
	if unix.Fstat(h.file, &mine) != nil || unix.Fstat(fds[0], &theirs) != nil || mine.Ino != theirs.Ino || mine.Dev != theirs.Dev {
		t.Errorf("another file: %v, %v", mine, theirs)
	}
	if err := h.close(); err != nil {
		t.Error(err)
	}
}
