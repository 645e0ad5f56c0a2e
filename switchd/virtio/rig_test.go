package virtio

import (
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

const (
	rigSize   = 1 << 20
	rigDriver = 0x10000
	rigDevice = 0x20000
	rigData   = 0x40000
	rigBase   = 0x100000 // guest-physical address of the rig's memory
)

// rig is guest memory with the three areas of a ring in it.
type rig struct {
	memory *guestmem.Memory
	base   guestmem.Ptr
	size   int
}

func newRig(tb testing.TB, size int) *rig {
	tb.Helper()
	fd, err := unix.MemfdCreate("virtio-test", unix.MFD_CLOEXEC)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Ftruncate(fd, rigSize); err != nil {
		tb.Fatal(err)
	}
	m, err := guestmem.Map([]guestmem.RegionSpec{{GuestPhysAddr: rigBase, Size: rigSize, UserAddr: rigBase, FD: fd}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(m.Close)
	base, _ := m.User(rigBase, rigSize)
	return &rig{memory: m, base: base, size: size}
}

func (r *rig) queue(tb testing.TB, f Features, receive bool, s State) *Queue {
	tb.Helper()
	q, err := NewQueue(Config{
		Size: uint32(r.size), Features: f, Receive: receive, Desc: r.base, Driver: r.base + rigDriver, Device: r.base + rigDevice,
		Memory: r.memory, State: s, Kick: -1, Call: -1,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return q
}

// driver is the other side of a ring, written from the specification's own words and as plainly as possible.
type driver interface {
	// offer makes a buffer available, as a chain of pieces with the given lengths.
	offer(id int, lengths []int, indirect bool)
	// collect returns the ids and lengths that the device has returned since.
	collect() (ids, lengths []int)
}

// where buffer id's bytes are.
func where(id int) uint64 { return rigBase + rigData + uint64(id)*64 }

type splitDriver struct {
	*rig
	write       uint16
	avail, used uint16
}

func (d *splitDriver) desc(table guestmem.Ptr, i int, addr uint64, n int, flags uint16, next int) {
	p := table + guestmem.Ptr(16*i)
	p.StoreU64(addr)
	(p + 8).StoreU32(uint32(n))
	(p + 12).StoreU16(flags)
	(p + 14).StoreU16(uint16(next))
}

// offer uses descriptors 4*id to 4*id+3, or a table at the end of the data.
func (d *splitDriver) offer(id int, lengths []int, indirect bool) {
	table, first := d.base, 4*id
	if indirect {
		table, first = d.base+0x80000+guestmem.Ptr(64*id), 0
		d.desc(d.base, 4*id, rigBase+0x80000+uint64(64*id), 16*len(lengths), descIndirect, 0)
	}
	at := where(id)
	for i, n := range lengths {
		flags := d.write
		if i+1 < len(lengths) {
			flags |= descNext
		}
		d.desc(table, first+i, at, n, flags, first+i+1)
		at += uint64(n)
	}
	(d.base + rigDriver + 4 + guestmem.Ptr(2*(int(d.avail)%d.size))).StoreU16(uint16(4 * id))
	d.avail++
	(d.base + rigDriver + 2).StoreU16(d.avail)
}

func (d *splitDriver) collect() (ids, lengths []int) {
	for ; d.used != (d.base + rigDevice + 2).LoadU16(); d.used++ {
		e := d.base + rigDevice + 4 + guestmem.Ptr(8*(int(d.used)%d.size))
		ids, lengths = append(ids, int(e.LoadU32())/4), append(lengths, int((e+4).LoadU32()))
	}
	return ids, lengths
}

type packedDriver struct {
	*rig
	write               uint16
	avail, used         int
	availWrap, usedWrap bool
	slots               map[int]int
}

func (d *packedDriver) offer(id int, lengths []int, indirect bool) {
	at := where(id)
	if indirect {
		table := d.base + 0x80000 + guestmem.Ptr(64*id)
		for i, n := range lengths {
			p := table + guestmem.Ptr(16*i)
			p.StoreU64(at)
			(p + 8).StoreU64(uint64(n) | uint64(d.write)<<48)
			at += uint64(n)
		}
		d.slot(id, rigBase+0x80000+uint64(64*id), 16*len(lengths), descIndirect)
		d.slots[id] = 1
		return
	}
	for i, n := range lengths {
		flags := d.write
		if i+1 < len(lengths) {
			flags |= descNext
		}
		d.slot(id, at, n, flags)
		at += uint64(n)
	}
	d.slots[id] = len(lengths)
}

func (d *packedDriver) slot(id int, addr uint64, n int, flags uint16) {
	if d.availWrap {
		flags |= packedAvail
	} else {
		flags |= packedUsed
	}
	p := d.base + guestmem.Ptr(16*d.avail)
	p.StoreU64(addr)
	(p + 8).StoreU64(uint64(n) | uint64(id)<<32 | uint64(flags)<<48)
	if d.avail++; d.avail == d.size {
		d.avail, d.availWrap = 0, !d.availWrap
	}
}

func (d *packedDriver) collect() (ids, lengths []int) {
	for {
		word := (d.base + guestmem.Ptr(16*d.used) + 8).LoadU64()
		flags := uint16(word >> 48)
		if (flags&packedAvail != 0) != d.usedWrap || (flags&packedUsed != 0) != d.usedWrap {
			return ids, lengths
		}
		id := int(uint16(word >> 32))
		ids, lengths = append(ids, id), append(lengths, int(uint32(word)))
		if d.used += d.slots[id]; d.used >= d.size {
			d.used, d.usedWrap = d.used-d.size, !d.usedWrap
		}
	}
}
