package vhost

import (
	"encoding/binary"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// TestRingStartsWarm: when a ring starts, its areas and what its descriptors name, also in an indirect table, are mapped: touching them does not
// fault. A descriptor that names a hole, or nothing, changes nothing.
func TestRingStartsWarm(t *testing.T) {
	const size, hole = 64 << 20, 60 << 20
	r := newRig(t, nil)
	fd := r.memfd(size)
	write := func(at int64, b []byte) {
		if _, err := unix.Pwrite(fd, b, at); err != nil {
			t.Fatal(err)
		}
	}
	descriptor := func(addr uint64, n uint32, flags uint16) []byte {
		b := binary.LittleEndian.AppendUint64(nil, addr)
		b = binary.LittleEndian.AppendUint32(b, n)
		return binary.LittleEndian.AppendUint32(b, uint32(flags))
	}
	for at := int64(0); at < 0x5000; at += 0x1000 {
		write(at, []byte{0})
	}
	var buffers []uint64
	for i := range uint64(200) {
		buffers = append(buffers, 1<<20+i*0x40000) // each far from the next
		write(int64(buffers[i]), []byte{1})
	}
	for i, at := range buffers[:100] {
		write(int64(16*i), descriptor(at, 2048, 2))
	}
	for i, at := range buffers[100:] { // the others by a table
		write(int64(0x100000-0x4000+16*i), descriptor(at, 2048, 2))
	}
	write(16*100, descriptor(0x100000-0x4000, 16*100, 4))
	write(16*101, descriptor(hole, 0xffffffff, 2))
	write(16*102, descriptor(1<<60, 4096, 4))
	var before, after unix.Stat_t
	_ = unix.Fstat(fd, &before)
	d := r.device
	r.ok(d.SetFeatures(splitFeatures | 1<<28)) // INDIRECT_DESC
	r.ok(d.SetMemTable([]guestmem.RegionSpec{{GuestPhysAddr: 0, Size: size, UserAddr: userBase, FD: fd}}))
	r.ok(d.SetVringNum(0, 256))
	r.ok(d.SetVringAddr(0, addresses))
	r.ok(d.SetVringKick(0, r.eventfd()))
	r.ok(d.SetVringEnable(0, true))
	if len(r.port.running()) != 1 {
		t.Fatal("the ring does not run")
	}
	_ = unix.Fstat(fd, &after)
	if after.Blocks != before.Blocks {
		t.Errorf("the guest's memory grew from %d to %d blocks", before.Blocks, after.Blocks)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var hint guestmem.Hint
	var first, last unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &first)
	for _, at := range append(buffers, 0, 0x2000, 0x3000) {
		p, _ := d.memory.Translate(at, 64, &hint)
		p.StoreU64(7)
	}
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &last)
	if n := last.Minflt - first.Minflt; n > 20 { // the runtime has some of its own
		t.Errorf("the first look at a ring of 200 buffers faulted %d times", n)
	}
	d.Close(false)
}
