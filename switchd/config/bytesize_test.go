package config

import "testing"

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

func TestOldLinesKeepTheirQueuePairs(t *testing.T) {
	c, err := ParseLegacy([]string{"-c", "1", "--", "-p", "1"}, LegacyDefaults())
	if err != nil || c.MaxQueuePairs != 8 || DefaultConfig().MaxQueuePairs != 16 {
		t.Errorf("%d queue pairs, %v", c.MaxQueuePairs, err)
	}
}
