package ixgbe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// flow is a tagged UDP packet; different senders are different flows. Its checksums are right.
func flow(port, sender, priority int) []byte {
	f := eth(mac(port), stranger, priority<<13|(base+port), 18+46, 0)
	f[16], f[17] = 0x08, 0x00
	ip := f[18:]
	copy(ip, []byte{0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, byte(sender >> 8), byte(sender), 10, 0, 0, 2, 0x10, 0, 0x20, 0, 0, 26, 0, 0})
	sum := uint32(0)
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	return f
}

// TestSpread: in the layouts with several queues a pool the NIC uses all of them, and the driver receives from all of them, by RSS or by
// priority; and it sends.
func TestSpread(t *testing.T) {
	for _, c := range []struct {
		layout string
		queues int
		frame  func(i int) []byte
	}{
		{"32x4", 4, func(i int) []byte { return flow(3, i, 0) }},
		{"dcb16x8", 8, func(i int) []byte { return flow(3, 1, i%8) }},
		{"dcb32x4", 4, func(i int) []byte { return flow(3, 1, i%8) }},
	} {
		t.Run(c.layout, func(t *testing.T) {
			r := newRig(t, Config{Layout: mustLayout(t, c.layout), VLANStrip: true, Queues: 2})
			r.add(3, 4)
			const count = 128
			want := map[string]int{}
			for i := range count {
				f := c.frame(i)
				want[string(append(append([]byte(nil), f[:12]...), f[16:]...))]++
				r.model.Arrive(f)
			}
			registers := r.model.Snapshot()
			for q := range c.queues {
				name := fmt.Sprintf("RDH[%d]", 3*c.queues+q)
				if n := registers[name]; n < count/uint32(c.queues)/4 {
					t.Errorf("%s is %d: the queue has hardly anything of %d frames", name, n, count)
				}
			}
			for _, f := range r.receive() {
				if f.queue != 3%2 || f.VLAN != base+3 {
					t.Errorf("a frame of VLAN %d in queue %d", f.VLAN, f.queue)
				}
				want[string(f.data)]--
			}
			for f, n := range want {
				if n != 0 {
					t.Errorf("%d frames more came than were sent: %x", -n, f)
				}
			}
			m := newMemory(t, 4096)
			out := eth(stranger, mac(3), 0, 100, 1)
			r.send(m.frame(3, base+3, out, 2))
			got := r.out()
			if plain := append(append([]byte(nil), got[:12]...), got[16:]...); !bytes.Equal(plain, out) || binary.BigEndian.Uint16(got[14:]) != base+3 {
				t.Errorf("sent %x, on the wire %x", out, got)
			}
			if s := r.model.Snapshot(); s["MRQC"]&regs.MRQC_MRQE != r.config.Layout.mrqc&regs.MRQC_MRQE || s["MTQC"] != r.config.Layout.mtqc {
				t.Errorf("MRQC %#x, MTQC %#x", s["MRQC"], s["MTQC"])
			}
		})
	}
}
