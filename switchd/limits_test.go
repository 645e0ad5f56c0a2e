package switchd

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
)

func TestByteSize(t *testing.T) {
	for text, want := range map[string]ByteSize{"0": 0, "4096": 4096, "512M": 512 << 20, "64G": 64 << 30, "1t": 1 << 40, "3k": 3 << 10} {
		var b ByteSize
		if err := b.Set(text); err != nil || b != want {
			t.Errorf("%q is %d, %v; want %d", text, b, err, want)
		}
		var again ByteSize
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("%q is written as %q, which is %d (%v)", text, b, again, err)
		}
	}
	for _, text := range []string{"", "G", "-1", "1.5G", "1GB", "99999999999999999999", "9999999999T"} {
		if err := new(ByteSize).Set(text); err == nil {
			t.Errorf("%q was accepted", text)
		}
	}
}

// TestPortsHaveToFit: a configuration that needs more descriptors than there are is refused before anything is served.
func TestPortsHaveToFit(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	lower := unix.Rlimit{Cur: min(old.Cur, 4096), Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &lower); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Setrlimit(unix.RLIMIT_NOFILE, &old) }()
	c := testConfig()
	c.MaxPorts = 1024
	_, err := c.Limits()
	if err == nil {
		t.Fatal("1024 × 67 descriptors fit into 4096?")
	}
	for _, part := range []string{"1024 ports × (3 + 4 × 16 queue pairs)", "68864", "4096", "LimitNOFILE=", "--max-ports", "--max-queue-pairs"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q lacks %q", err, part)
		}
	}
	c.MaxPorts = 0
	if l, err := c.Limits(); err != nil || l[budget.Ports].Total == 0 {
		t.Errorf("as many as fit: %+v, %v", l[budget.Ports], err)
	}
}

func TestOldLinesKeepTheirQueuePairs(t *testing.T) {
	c, err := ParseLegacy([]string{"-c", "1", "--", "-p", "1"}, LegacyDefaults())
	if err != nil || c.MaxQueuePairs != 8 || DefaultConfig().MaxQueuePairs != 16 {
		t.Errorf("%d queue pairs, %v", c.MaxQueuePairs, err)
	}
}
