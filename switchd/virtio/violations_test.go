package virtio

import (
	"errors"
	"strings"
	"testing"

	"vhostkit/switchd/guestmem"
)

// outside is the first guest-physical address after the rig's memory, and tableAt a place for indirect tables in it.
const (
	outside = rigBase + rigSize
	tableAt = rigBase + 0x80000
	craft16 = 16 // size of the crafted rings
)

// crafted writes rings by hand. Its first chain is good and has 60 bytes, the bad one comes after it.
type crafted struct {
	r    *rig
	flag uint16 // the WRITE flag that the queue wants
}

func (c crafted) at(gpa uint64) guestmem.Ptr { return c.r.base + guestmem.Ptr(gpa-rigBase) }

// d writes a descriptor of either kind at a guest address: {addr, len, third, fourth} are {.., flags, next} or {.., id, flags}.
func (c crafted) d(at, addr uint64, size uint32, third, fourth uint16) {
	p := c.at(at)
	p.StoreU64(addr)
	(p + 8).StoreU64(uint64(size) | uint64(third)<<32 | uint64(fourth)<<48)
}

// split writes descriptor i of a split ring.
func (c crafted) split(i int, addr uint64, size uint32, flags, next uint16) {
	c.d(rigBase+uint64(16*i), addr, size, flags, next)
}

// packed writes slot i of a packed ring, available in the first round.
func (c crafted) packed(i int, addr uint64, size uint32, id, flags uint16) {
	c.d(rigBase+uint64(16*i), addr, size, id, flags|packedAvail)
}

// avail makes descriptor 0 and the given heads available.
func (c crafted) avail(heads ...uint16) {
	p := c.r.base + rigDriver
	for i, h := range append([]uint16{0}, heads...) {
		(p + 4 + guestmem.Ptr(2*i)).StoreU16(h)
	}
	(p + 2).StoreU16(uint16(1 + len(heads)))
}

// newCrafted gives a ring of 16 with the good chain in it.
func newCrafted(t *testing.T, packed, receive bool) crafted {
	c := crafted{r: newRig(t, craft16)}
	if receive {
		c.flag = descWrite
	}
	if packed {
		c.packed(0, rigBase+rigData, 60, 0, c.flag)
	} else {
		c.split(0, rigBase+rigData, 60, c.flag, 0)
		c.avail(1)
	}
	return c
}

func (c crafted) fetch(t *testing.T, b *Burst, packed bool, f Features) (int, error) {
	t.Helper()
	state := State{}
	if packed {
		f |= Bits(VIRTIO_F_RING_PACKED)
		state.AvailWrap = true
	}
	q := c.r.queue(t, f, c.flag != 0, state)
	b.Reset(q)
	return q.Fetch(b, BurstSize)
}

var withIndirect = Bits(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC)

// violation is what a driver must not do: chain 1 of the ring, after a good one.
type violation struct {
	name     string
	f        Features // withIndirect where 0
	split    func(c crafted)
	packed   func(c crafted)
	wantText string // part of the message, where it tells apart from another violation
}

var violations = []violation{
	{name: "head out of range", split: func(c crafted) { c.avail(craft16) }, wantText: "names descriptor 16"},
	{name: "head far out of range", split: func(c crafted) { c.avail(0xffff) }},
	{name: "next out of range", split: func(c crafted) { c.split(1, rigBase+rigData, 10, c.flag|descNext, craft16) }, wantText: "goes on"},
	{name: "next far out of range", split: func(c crafted) { c.split(1, rigBase+rigData, 10, c.flag|descNext, 0xffff) }},
	{name: "loop to itself", split: func(c crafted) { c.split(1, rigBase+rigData, 10, c.flag|descNext, 1) }, wantText: "loop"},
	{name: "loop of three", split: func(c crafted) {
		for i := range 3 {
			c.split(1+i, rigBase+rigData, 10, c.flag|descNext, uint16(1+(i+1)%3))
		}
	}, wantText: "loop"},
	{name: "loop of empty buffers", split: func(c crafted) { c.split(1, 0, 0, c.flag|descNext, 1) }, wantText: "loop"},
	{name: "loop in a table", split: func(c crafted) {
		c.split(1, tableAt, 32, descIndirect, 0)
		c.d(tableAt, rigBase+rigData, 10, c.flag|descNext, 1)
		c.d(tableAt+16, rigBase+rigData, 10, c.flag|descNext, 0)
	}, wantText: "loop"},
	{name: "next out of the table", split: func(c crafted) {
		c.split(1, tableAt, 32, descIndirect, 0)
		c.d(tableAt, rigBase+rigData, 10, c.flag|descNext, 2)
	}, wantText: "goes on at descriptor 2 of 2"},
	{name: "nested indirect", split: func(c crafted) {
		c.split(1, tableAt, 32, descIndirect, 0)
		c.d(tableAt, tableAt+64, 16, descIndirect, 0)
	}, packed: func(c crafted) {
		c.packed(1, tableAt, 32, 1, descIndirect)
		c.d(tableAt, tableAt+64, 16, 1, descIndirect)
	}, wantText: "inside an indirect table"},
	{name: "indirect with next", split: func(c crafted) {
		c.split(1, tableAt, 16, descIndirect|descNext, 2)
		c.d(tableAt, rigBase+rigData, 10, c.flag, 0)
	}, packed: func(c crafted) {
		c.packed(1, tableAt, 16, 1, descIndirect|descNext)
		c.d(tableAt, rigBase+rigData, 10, 0, c.flag)
	}, wantText: "next one"},
	{name: "indirect not negotiated", f: Bits(VIRTIO_F_VERSION_1), split: func(c crafted) {
		c.split(1, tableAt, 16, descIndirect, 0)
		c.d(tableAt, rigBase+rigData, 10, c.flag, 0)
	}, packed: func(c crafted) {
		c.packed(1, tableAt, 16, 1, descIndirect)
		c.d(tableAt, rigBase+rigData, 10, 0, c.flag)
	}, wantText: "not negotiated"},
	table("table of 0 bytes", tableAt, 0),
	table("table of 15 bytes", tableAt, 15),
	table("table of 24 bytes", tableAt, 24),
	table("table of 4 GiB", tableAt, 0xfffffff0),
	table("table of more than a chain may have", tableAt, 16*(maxTransmitChain+1)),
	table("table outside memory", outside, 16),
	table("table partly outside memory", outside-16, 32),
	table("table that wraps around", ^uint64(15), 32),
	data("buffer outside memory", outside, 1),
	data("buffer below memory", rigBase-1, 1),
	data("buffer partly outside memory", outside-10, 11),
	data("buffer that begins below memory", rigBase-1, 2),
	data("buffer at the last address", ^uint64(0), 1),
	data("buffer that wraps around", ^uint64(0)-10, 100),
	data("buffer that wraps around into memory", ^uint64(0)-10, rigBase+100),
	data("buffer of 4 GiB", rigBase, 0xffffffff),
	data("buffer of 4 GiB at 0", 0, 0xffffffff),
	{name: "buffer of the wrong direction", split: func(c crafted) { c.split(1, rigBase+rigData, 10, c.flag^descWrite, 0) },
		packed: func(c crafted) { c.packed(1, rigBase+rigData, 10, 1, c.flag^descWrite) }, wantText: "writ"},
	{name: "wrong direction in the chain", split: func(c crafted) {
		c.split(1, rigBase+rigData, 10, c.flag|descNext, 2)
		c.split(2, rigBase+rigData, 10, c.flag^descWrite, 0)
	}, packed: func(c crafted) {
		c.packed(1, rigBase+rigData, 10, 1, c.flag|descNext)
		c.packed(2, rigBase+rigData, 10, 1, c.flag^descWrite)
	}, wantText: "writ"},
	{name: "wrong direction in a table", split: func(c crafted) {
		c.split(1, tableAt, 16, descIndirect, 0)
		c.d(tableAt, rigBase+rigData, 10, c.flag^descWrite, 0)
	}, packed: func(c crafted) {
		c.packed(1, tableAt, 16, 1, descIndirect)
		c.d(tableAt, rigBase+rigData, 10, 0, c.flag^descWrite)
	}, wantText: "writ"},
	{name: "wrong direction of nothing", split: func(c crafted) { c.split(1, 0, 0, c.flag^descWrite, 0) },
		packed: func(c crafted) { c.packed(1, 0, 0, 1, c.flag^descWrite) }, wantText: "writ"},
	{name: "id out of range", packed: func(c crafted) { c.packed(1, rigBase+rigData, 10, craft16, c.flag) }, wantText: "buffer id 16"},
	{name: "id far out of range", packed: func(c crafted) { c.packed(1, rigBase+rigData, 10, 0xffff, c.flag) }},
	{name: "id of a chain out of range", packed: func(c crafted) {
		c.packed(1, rigBase+rigData, 10, 1, c.flag|descNext)
		c.packed(2, rigBase+rigData, 10, craft16, c.flag)
	}, wantText: "buffer id 16"},
	{name: "chain longer than the ring", packed: func(c crafted) {
		for i := range craft16 {
			c.packed(i, rigBase+rigData, 10, 1, c.flag|descNext)
		}
		c.packed(0, rigBase+rigData, 60, 0, c.flag)
	}, wantText: "available than the ring has"},
	{name: "chain on into a chain before it", packed: func(c crafted) {
		for i := 1; i < craft16; i++ {
			c.packed(i, rigBase+rigData, 10, 1, c.flag|descNext)
		}
	}, wantText: "available than the ring has"},
}

// table is an indirect descriptor with that address and size.
func table(name string, addr uint64, size uint32) violation {
	return violation{name: name, split: func(c crafted) { c.split(1, addr, size, descIndirect, 0) },
		packed: func(c crafted) { c.packed(1, addr, size, 1, descIndirect) }, wantText: "indirect table"}
}

// data is a buffer with that address and size.
func data(name string, addr uint64, size uint32) violation {
	return violation{name: name, split: func(c crafted) { c.split(1, addr, size, c.flag, 0) },
		packed: func(c crafted) { c.packed(1, addr, size, 1, c.flag) }, wantText: "share=on"}
}

// TestViolations: each gives ErrRing, after the good chain before it.
func TestViolations(t *testing.T) {
	for _, v := range violations {
		for _, packed := range []bool{false, true} {
			for _, receive := range []bool{false, true} {
				change := v.split
				if packed {
					change = v.packed
				}
				if change == nil {
					continue
				}
				c := newCrafted(t, packed, receive)
				change(c)
				f := v.f
				if f == 0 {
					f = withIndirect
				}
				var b Burst
				n, err := c.fetch(t, &b, packed, f)
				if n != 1 || !errors.Is(err, ErrRing) || !strings.Contains(err.Error(), v.wantText) {
					t.Errorf("%s, packed=%v receive=%v: %d chains and %v, want the good one and ErrRing with %q", v.name, packed, receive,
						n, err, v.wantText)
				}
				if n == 1 && (b.Chains[0].ID != 0 || b.Chains[0].Len != 60 || len(b.Of(&b.Chains[0])) != 1) {
					t.Errorf("%s, packed=%v: the good chain became %+v", v.name, packed, b.Chains[0])
				}
			}
		}
	}
}

// TestPackedLoop: a ring whose every descriptor goes on to the next has no end.
func TestPackedLoop(t *testing.T) {
	c := newCrafted(t, true, false)
	for i := range craft16 {
		c.packed(i, rigBase+rigData, 10, 1, descNext)
	}
	var b Burst
	if n, err := c.fetch(t, &b, true, withIndirect); n != 0 || !errors.Is(err, ErrRing) {
		t.Errorf("%d chains, %v", n, err)
	}
}

// TestAvailIndexJumps: ahead by more than the ring, and back behind what was fetched already.
func TestAvailIndexJumps(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second uint16
		n             int
		bad           bool
	}{
		{"as many as the ring has", 65530, 65530 + 16 - 65536, 16, false},
		{"one more than the ring", 65530, 65530 + 17 - 65536, 0, true},
		{"back by one", 65530, 65529, 0, true},
		{"half way round", 0, 0x8000, 0, true},
		{"back behind fetched buffers", 5, 4, 5, true},
		{"back to where the device stands", 5, 0, 5, true},
	} {
		rig := newCrafted(t, false, false)
		start := uint16(0)
		if c.first > 60000 {
			start = c.first
		}
		q := rig.r.queue(t, withIndirect, false, State{Avail: start})
		var b Burst
		b.Reset(q)
		index := rig.r.base + rigDriver + 2
		index.StoreU16(c.first)
		if _, err := q.Fetch(&b, BurstSize); err != nil {
			t.Fatal(err)
		}
		index.StoreU16(c.second)
		if n, err := q.Fetch(&b, BurstSize); n != c.n || errors.Is(err, ErrRing) != c.bad {
			t.Errorf("%s: %d chains, %v; want %d", c.name, n, err, c.n)
		}
	}
}
