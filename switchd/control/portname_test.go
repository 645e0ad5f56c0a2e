package control

import (
	"strings"
	"testing"
)

func TestPortName(t *testing.T) {
	if got := PortName("vm1", "net0"); got != "vm1-net0" {
		t.Errorf("vm1, net0: %s", got)
	}
	long := strings.Repeat("a", 90)
	seen := map[string]string{}
	for _, machine := range []string{"a b", "a_b", "a-b", "9vm", "vm-9vm", "", "ä", long, long + "b"} {
		name := PortName(machine, "net0")
		if len(name) > MaxPortName || seen[name] != "" || !strings.ContainsAny(name[:1], "avabcdefghijklmnopqrstuvwxyz") || strings.ContainsAny(name, " ä/") {
			t.Errorf("%q: %s (also %q)", machine, name, seen[name])
		}
		if again := PortName(machine, "net0"); again != name {
			t.Errorf("%q: %s, then %s", machine, name, again)
		}
		seen[name] = machine
	}
}
