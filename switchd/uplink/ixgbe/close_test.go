package ixgbe

import (
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// watched is a plain device that notes what happens to its bus master bit and its memory.
type watched struct {
	*plain
	command uint32
	deaf    bool // the command register cannot be written any more
	events  []string
}

func (w *watched) ReadConfig(o, size int) (uint32, error) {
	if o == 4 {
		return w.command, nil
	}
	return w.plain.ReadConfig(o, size)
}

func (w *watched) WriteConfig(o, _ int, value uint32) error {
	if w.deaf {
		return errors.New("deaf")
	}
	if o == 4 {
		if w.command = value; value&pciMaster == 0 {
			w.events = append(w.events, "off the bus")
		}
	}
	return nil
}

func (w *watched) FreeDMA(pci.DMA) error {
	w.events = append(w.events, "memory freed")
	return nil
}

func (w *watched) UnmapRegion(uint64, uint64) error {
	w.events = append(w.events, "memory freed")
	return nil
}

func (w *watched) Close() error {
	w.events = append(w.events, "closed")
	return w.plain.Close()
}

// TestCloseLeavesBusFirst: where nothing else keeps the NIC from memory that is given back, its bus master bit does, however the reset went.
func TestCloseLeavesBusFirst(t *testing.T) {
	for _, c := range []struct {
		name  string
		stuck int64 // a register
		deaf  bool
		fails bool
	}{
		{"a healthy NIC", -1, false, false},
		{"one whose reset does not end", regs.CTRL, false, true},
		{"one whose queue does not stop, which the reset heals", int64(regs.RXDCTL(0)), false, false},
		{"one that cannot be taken off the bus", -1, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &watched{plain: newPlain()}
			n, err := Open(w, Config{Queues: 1, Layout: mustLayout(t, ""), VLANBase: base, Watch: time.Hour, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			if err := n.AddFilter(0, mac(0), base); err != nil {
				t.Fatal(err)
			}
			w.mu.Lock()
			w.stuck = c.stuck
			w.mu.Unlock()
			w.deaf, w.events = c.deaf, nil
			if err := n.Close(); (err != nil) != c.fails {
				t.Errorf("Close: %v", err)
			}
			off, freed := slices.Index(w.events, "off the bus"), slices.Index(w.events, "memory freed")
			switch {
			case c.deaf && freed >= 0:
				t.Errorf("memory was freed while the NIC is on the bus: %v", w.events)
			case !c.deaf && (off < 0 || freed < off):
				t.Errorf("memory was not freed, or before the NIC was off the bus: %v", w.events)
			}
			if len(w.events) == 0 || w.events[len(w.events)-1] != "closed" {
				t.Errorf("the device is not closed at the end: %v", w.events)
			}
		})
	}
}
