package ixgbe

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// The registers that the set-up of DPDK's vhost sample left behind, where ours must agree with it.
func TestSetUpLikeTheOldSwitch(t *testing.T) {
	for _, loop := range []bool{false, true} {
		t.Run(fmt.Sprintf("loopback=%v", loop), func(t *testing.T) {
			r := newRig(t, Config{Loopback: loop, VLANStrip: true})
			want := map[string]uint32{
				"MRQC": 8, "VT_CTL": 0x60000001, "MTQC": regs.MTQC_VMDQ64, "VFRE[0]": 0xffffffff, "VFRE[1]": 0xffffffff,
				"VFTA[0]": 0xffffffff, "VFTA[127]": 0xffffffff, "PFDTXGSWC": 0, "VMTXSW[0]": 0, "VMTXSW[1]": 0, "QDE": 0,
				"MPSAR_LO[0]": 0, "RAH[0]": 0,
			}
			if loop {
				want["PFDTXGSWC"], want["VMTXSW[0]"], want["VMTXSW[1]"] = 1, 0xffffffff, 0xffffffff
				want["FCRTH[0]"] = 512<<10 - 24576
			}
			for i := range 64 {
				want[fmt.Sprintf("VLVF[%d]", i)] = 0x80000000 | uint32(1000+i)
				low, high := poolBit(i)
				want[fmt.Sprintf("VLVFB[%d]", 2*i)], want[fmt.Sprintf("VLVFB[%d]", 2*i+1)] = low, high
				want[fmt.Sprintf("RXDCTL[%d]", 2*i)] = 0
			}
			r.registers(want)
			r.add(0, 33) // first packets: 52:54:00:00:00:00 and 52:54:00:00:00:21
			r.registers(map[string]uint32{
				"RAL[0]": 0x00005452, "RAH[0]": regs.RAH_AV, "MPSAR_LO[0]": 1, "MPSAR_HI[0]": 0,
				"RAL[1]": 0x00005452, "RAH[1]": regs.RAH_AV | 0x2100, "MPSAR_LO[1]": 0, "MPSAR_HI[1]": 1 << 1,
				"RXDCTL[0]": regs.RXDCTL_ENABLE | regs.RXDCTL_VME, "RXDCTL[66]": regs.RXDCTL_ENABLE | regs.RXDCTL_VME, "RXDCTL[2]": 0,
				"VMOLR[0]": regs.VMOLR_BAM | regs.VMOLR_MPE, "VMOLR[33]": regs.VMOLR_BAM | regs.VMOLR_MPE, "VMOLR[1]": 0,
				"VT_CTL": 0x60000001, "RDT[66]": rxSize - 1,
			})
		})
	}
}

func TestLayouts(t *testing.T) {
	for _, c := range []struct {
		name               string
		mrqc, mtqc, vfre0  uint32
		pools, firstOfPool int
	}{
		{"64x2", 0x8, 0x6, 0xffffffff, 64, 6},
		{"32x4", 0x33000A, 0xA, 0xffffffff, 32, 12},
		{"dcb16x8", 0xC, 0xF, 0xffff, 16, 24},
		{"dcb32x4", 0xD, 0xB, 0xffffffff, 32, 12},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Config{Layout: mustLayout(t, c.name), Queues: 3, VLANStrip: true})
			r.registers(map[string]uint32{"MRQC": c.mrqc, "MTQC": c.mtqc, "VFRE[0]": c.vfre0})
			if r.Pools() != c.pools {
				t.Errorf("%d pools, want %d", r.Pools(), c.pools)
			}
			r.add(3)
			r.registers(map[string]uint32{fmt.Sprintf("RXDCTL[%d]", c.firstOfPool): regs.RXDCTL_ENABLE | regs.RXDCTL_VME})
			for seed := range 32 { // different priorities and contents may come by different queues of the pool
				r.model.Arrive(eth(mac(3), stranger, 1003|seed%8<<13, 100, seed))
			}
			got := r.receive()
			if len(got) != 32 || got[0].VLAN != 1003 || got[0].queue != 0 {
				t.Fatalf("%d frames came for pool 3, want 32 in queue 0 with VLAN 1003", len(got))
			}
		})
	}
	if _, err := FindLayout("8x16"); err == nil || !strings.Contains(err.Error(), "dcb16x8") {
		t.Errorf("an unknown layout gives %v; want the ones there are", err)
	}
}

// Each thing that can go wrong at the start is told with the register's name.
func TestSetUpFails(t *testing.T) {
	for _, c := range []struct {
		name, want string
		spoil      func(*plain)
	}{
		{"reset", "CTRL is", func(p *plain) { p.stuck = regs.CTRL }},
		{"eeprom", "register EEC", func(p *plain) { p.bar[regs.EEC/4] = 0 }},
		{"dma", "register RDRXCTL", func(p *plain) { p.bar[regs.RDRXCTL/4] = 0 }},
		{"receive path", "register SECRXSTAT", func(p *plain) { p.bar[regs.SECRXSTAT/4] = 0 }},
		{"transmit queue", "register TXDCTL[127]", func(p *plain) { p.stuck = int64(regs.TXDCTL(127)) }},
		{"gone", "0xffffffff", func(p *plain) { p.gone = true }},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPlain()
			c.spoil(p)
			n, err := Open(p, Config{Queues: 1, Layout: mustLayout(t, "")})
			if err == nil {
				n.Close()
				t.Fatal("it opened")
			}
			for _, want := range []string{c.want, "0000:03:00.0"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

// wrong is a device of another kind.
type wrong struct{ *plain }

func (wrong) ReadConfig(int, int) (uint32, error) { return 0x15218086, nil }

func TestOtherDevicesAreRefused(t *testing.T) {
	if _, err := Open(wrong{newPlain()}, Config{Queues: 1, Layout: mustLayout(t, "")}); !errors.Is(err, ErrNotSupported) {
		t.Errorf("an I350 gives %v, want ErrNotSupported", err)
	}
	for _, c := range []Config{{}, {Queues: MaxQueues + 1, Layout: mustLayout(t, "")}, {Queues: 1}, {Queues: 1, Layout: mustLayout(t, ""), MaxFrame: 16000}} {
		if _, err := Open(newPlain(), c); err == nil {
			t.Errorf("%+v opened", c)
		}
	}
}

func TestReceiveQueueThatDoesNotStart(t *testing.T) {
	p := newPlain()
	n, err := Open(p, Config{Queues: 1, Layout: mustLayout(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	p.change(func() { p.stuck = int64(regs.RXDCTL(4)) })
	if err := n.AddFilter(2, mac(2), 1002); err == nil || errors.Is(err, uplink.ErrNoPool) || !strings.Contains(err.Error(), "RXDCTL[4]") {
		t.Errorf("error %v does not name the register", err)
	}
	p.change(func() { p.stuck = -1 })
	if n.pools[2].active {
		t.Error("the pool is in use without its queue")
	}
	if err := n.AddFilter(2, mac(2), 1002); err != nil || !n.pools[2].active || n.pools[2].started != 1 {
		t.Errorf("the next attempt: %v, %+v", err, n.pools[2].started)
	}
}

// A transmit queue of a pool that is started too slowly is stopped before it is set up again, in the memory that it has.
func TestTransmitQueueThatDoesNotStart(t *testing.T) {
	p := newPlain()
	n, err := Open(p, Config{Queues: 1, Layout: mustLayout(t, ""), AntiSpoof: true})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	p.change(func() { p.stuck = int64(regs.TXDCTL(4)) })
	allocated := 0
	for range 2 {
		if err := n.AddFilter(2, mac(2), 1002); err == nil || errors.Is(err, uplink.ErrNoPool) || !strings.Contains(err.Error(), "TXDCTL[4]") {
			t.Errorf("error %v does not name the register", err)
		}
		if n.pools[2].active || n.pools[2].tx.Load() != nil || n.slot(filter{2, mac(2), 1002, true}) >= 0 {
			t.Error("the pool is in use without its queue")
		}
		if allocated == 0 {
			allocated = len(p.buffers)
		}
	}
	p.change(func() { p.stuck, p.bar[regs.TXDCTL(4)/4] = -1, regs.TXDCTL_ENABLE }) // it has started after all
	if err := n.AddFilter(2, mac(2), 1002); err != nil || !n.pools[2].active || n.pools[2].tx.Load() == nil {
		t.Errorf("the next attempt: %v", err)
	}
	if len(p.buffers) != allocated {
		t.Errorf("%d pieces of memory were allocated, and %d at the first attempt", len(p.buffers), allocated)
	}
	if len(p.broken) > 0 {
		t.Errorf("registers of enabled queues were written: %v", p.broken)
	}
}
