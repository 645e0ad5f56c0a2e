package policy

import (
	"testing"

	"vhostkit/switchd/ether"
)

func TestPlain(t *testing.T) {
	for local, want := range map[Local]bool{LocalNever: false, LocalSwitch: true, LocalHardware: false} {
		if got := Compile(Rules{Local: local}).Plain; got != want {
			t.Errorf("--vm2vm %d: plain %v, want %v", local, got, want)
		}
	}
}

// TestMayTag: a guest's own tag may name its own VLAN and those of nobody here.
func TestMayTag(t *testing.T) {
	p := Compile(Rules{VLAN: 1003, Foreign: ether.VLANRange{First: 1000, Last: 4094}})
	for vlan, want := range map[ether.VLAN]bool{0: true, 1: true, 999: true, 1000: false, 1002: false, 1003: true, 1004: false, 4094: false, 4095: true} {
		if got := p.MayTag(vlan); got != want {
			t.Errorf("VLAN %d: %v, want %v", vlan, got, want)
		}
	}
	none := Compile(Rules{VLAN: 5, Foreign: ether.VLANRange{First: 1, Last: 0}})
	if !none.MayTag(7) {
		t.Error("an empty range contains 7")
	}
}
