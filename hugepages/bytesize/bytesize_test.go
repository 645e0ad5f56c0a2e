package bytesize

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string]Size{
		"1G": GiB, "2M": 2 * MiB, "2048kB": 2 * MiB, "2048K": 2 * MiB, "1024": KiB, "1.5G": 0, "16GiB": 16 * GiB, "2T": 2 * TiB, "4GB": 4 * GiB,
		"": 0, "G": 0, "0": 0, "0G": 0, "-1G": 0, "1X": 0, "1GM": 0, "99999999999T": 0, "18446744073709551616": 0, "1 G": 0, "1Gi B": 0, "1iB": 0,
	} {
		got, err := Parse(text)
		if text == "1iB" {
			want = 1 // no unit
		}
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("Parse(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestStringAndPages(t *testing.T) {
	for s, want := range map[Size]string{GiB: "1G", 2 * MiB: "2M", 1536 * MiB: "1536M", 3: "3", 64 * KiB: "64K", 1025: "1025", 0: "0"} {
		if s.String() != want {
			t.Errorf("%d: %s, want %s", uint64(s), s, want)
		}
	}
	if (3*GiB+1).Pages(GiB) != 4 || (4*GiB).Pages(GiB) != 4 || Size(0).Pages(GiB) != 0 {
		t.Error("Pages does not round up")
	}
}
