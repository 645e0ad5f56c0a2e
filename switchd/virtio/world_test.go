package virtio

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// The guest memory of the model drivers: guest-physical addresses, sizes, and where in the file they are. Buffers lie in two regions that
// are neighbours for the guest and apart in the file.
const (
	ringsGPA  = 1 << 32
	descOff   = 0
	driverOff = 0x80000
	deviceOff = 0xa0000
	ringsSize = 0x100000

	dataGPA   = 0x10000
	dataSplit = 0x20000 // the border between the regions
	dataEnd   = 0x28000
	highOff   = ringsSize
	lowOff    = highOff + dataEnd - dataSplit

	tablesGPA  = 2 << 32
	tableSize  = 16 * maxPieces
	tablesOff  = lowOff + dataSplit - dataGPA
	tablesSize = MaxQueueSize * tableSize
)

// world is guest memory, and a mapping of its file that owes nothing to the code under test.
type world struct {
	memory *guestmem.Memory
	file   []byte
	specs  []guestmem.RegionSpec
	hosts  []guestmem.Ptr
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	fd, err := unix.MemfdCreate("virtio-world", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, tablesOff+tablesSize); err != nil {
		tb.Fatal(err)
	}
	w := &world{specs: []guestmem.RegionSpec{
		{GuestPhysAddr: ringsGPA, Size: ringsSize, UserAddr: ringsGPA, FD: fd},
		{GuestPhysAddr: dataGPA, Size: dataSplit - dataGPA, UserAddr: dataGPA, MmapOffset: lowOff, FD: fd},
		{GuestPhysAddr: dataSplit, Size: dataEnd - dataSplit, UserAddr: dataSplit, MmapOffset: highOff, FD: fd},
		{GuestPhysAddr: tablesGPA, Size: tablesSize, UserAddr: tablesGPA, MmapOffset: tablesOff, FD: fd},
	}}
	if w.memory, err = guestmem.Map(w.specs); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(w.memory.Close)
	if w.file, err = unix.Mmap(fd, 0, tablesOff+tablesSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = unix.Munmap(w.file) })
	for _, s := range w.specs {
		for _, r := range w.memory.Regions() {
			if r.GuestPhysAddr == s.GuestPhysAddr {
				w.hosts = append(w.hosts, r.Host)
			}
		}
	}
	return w
}

func (w *world) queue(tb testing.TB, size int, f Features, receive bool, s State) *Queue {
	tb.Helper()
	q, err := NewQueue(Config{
		Size: uint32(size), Features: f, Receive: receive, Memory: w.memory, State: s, Kick: -1, Call: 1, // Call: any but none
		Desc: w.hosts[0] + descOff, Driver: w.hosts[0] + driverOff, Device: w.hosts[0] + deviceOff,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return q
}

// pieces splits guest addresses at the regions' borders, byte by byte in thought: host addresses and places in the file.
func (w *world) pieces(addr uint64, n int) (host []guestmem.Segment, offsets []int) {
	for n > 0 {
		for i, s := range w.specs {
			if addr < s.GuestPhysAddr || addr >= s.GuestPhysAddr+s.Size {
				continue
			}
			part := min(n, int(s.GuestPhysAddr+s.Size-addr))
			host = append(host, guestmem.Segment{Addr: w.hosts[i] + guestmem.Ptr(addr-s.GuestPhysAddr), Len: uint32(part)})
			offsets = append(offsets, int(s.MmapOffset+addr-s.GuestPhysAddr))
			addr, n = addr+uint64(part), n-part
			break
		}
	}
	return host, offsets
}

// bytes reads guest memory through the file.
func (w *world) bytes(addr uint64, n int) (all []byte) {
	host, offsets := w.pieces(addr, n)
	for i, s := range host {
		all = append(all, w.file[offsets[i]:offsets[i]+int(s.Len)]...)
	}
	return all
}

func (w *world) put16(off int, v uint16) { binary.LittleEndian.PutUint16(w.file[off:], v) }
func (w *world) get16(off int) uint16    { return binary.LittleEndian.Uint16(w.file[off:]) }

// put writes a descriptor: the address, then {le32 len, le16, le16}.
func (w *world) put(off int, addr uint64, n int, third, fourth uint16) {
	binary.LittleEndian.PutUint64(w.file[off:], addr)
	store64(w.file, off+8, uint64(uint32(n))|uint64(third)<<32|uint64(fourth)<<48)
}
