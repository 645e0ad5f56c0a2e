package virtio

import (
	"testing"

	"vhostkit/switchd/guestmem"
)

// fuzz lets a ring of arbitrary bytes be read: nothing panics or faults, and every segment lies in the guest's memory.
func fuzz(f *testing.F, features Features) {
	r := newRig(f, 16)
	valid := make([]byte, 16*16)
	valid[2], valid[8], valid[10] = 0x14, 60, 0 // a buffer of 60 bytes at rigBase+0x40000
	f.Add(valid, []byte{0, 0, 1, 0, 0, 0}, uint16(0), false)
	f.Add(valid, []byte{0, 0, 16, 0, 0, 0, 1, 0, 2, 0}, uint16(0x8000), true)
	f.Fuzz(func(t *testing.T, desc, avail []byte, base uint16, receive bool) {
		clearRig(r)
		copy((r.base).Bytes(16*16), desc)
		copy((r.base + rigDriver).Bytes(6+2*16), avail)
		if len(desc) > 256 { // whatever indirect tables may point to
			copy((r.base + rigData).Bytes(4096), desc[256:])
		}
		c := Config{
			Size: 16, Features: features, Receive: receive, Desc: r.base, Driver: r.base + rigDriver, Device: r.base + rigDevice,
			Memory: r.memory, State: State{Avail: base & 0x7fff, AvailWrap: base&0x8000 != 0}, Kick: -1, Call: -1, Resume: uint64(base) << 48,
		}
		q, err := NewQueue(c)
		if err != nil {
			return
		}
		var fence guestmem.Fence
		if base&1 != 0 {
			q.Start()
		}
		b, v := &Burst{}, &Views{}
		for range 4 {
			simple, _ := q.FetchViews(v[:])
			for _, view := range v[:simple] {
				if view.Addr < r.base || view.Addr+guestmem.Ptr(view.Len) > r.base+rigSize || view.Len == 0 {
					t.Fatalf("view %#x+%d is outside the memory", view.Addr, view.Len)
				}
			}
			if base&2 != 0 {
				q.CompleteViews(v[:simple/2])
			}
			b.Reset(q)
			n, err := q.Fetch(b, BurstSize)
			for i := range n {
				for _, s := range b.Of(&b.Chains[i]) {
					if s.Addr < r.base || s.Addr+guestmem.Ptr(s.Len) > r.base+rigSize || s.Len == 0 {
						t.Fatalf("segment %#x+%d is outside the memory", s.Addr, s.Len)
					}
				}
				b.Chains[i].Written = uint32(b.Chains[i].Len)
			}
			q.Complete(b, n)
			q.needsCall(&fence)
			q.WantKicks(n > 0)
			q.Available()
			if err != nil {
				return
			}
		}
	})
}

func clearRig(r *rig) {
	clear(r.base.Bytes(16 * 16))
	clear((r.base + rigDriver).Bytes(64))
	clear((r.base + rigDevice).Bytes(256))
	clear((r.base + rigData).Bytes(4096))
}

func FuzzSplit(f *testing.F) {
	fuzz(f, Bits(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX))
}

func FuzzPacked(f *testing.F) {
	fuzz(f, Bits(VIRTIO_F_VERSION_1, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX, VIRTIO_F_RING_PACKED))
}
