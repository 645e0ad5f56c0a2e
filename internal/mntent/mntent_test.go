package mntent

import (
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	for field, want := range map[string]string{
		"/mnt/huge": "/mnt/huge", `/mnt/my\040huge`: "/mnt/my huge", `a\011b\012c`: "a\tb\nc", `a\134040`: `a\040`, `\043x`: "#x", `x\`: `x\`, `x\04`: `x\04`,
		`x\400`: `x\400`, `x\089`: `x\089`, `\303\251`: "é",
	} {
		if got := Decode(field); got != want {
			t.Errorf("%q means %q, want %q", field, got, want)
		}
	}
}

func TestMounts(t *testing.T) {
	list := Mounts("/dev/vda / ext4 rw 0 0\nnone /mnt/my\\040huge hugetlbfs rw,pagesize=2M,pagesize=1G 0 0\nshort line\n\nx\u00a0y /z tmpfs rw 0 0")
	if len(list) != 3 || list[0].Path != "/" || list[0].Type != "ext4" || list[2].Source != "x\u00a0y" {
		t.Fatalf("%+v", list)
	}
	if m := list[1]; m.Path != "/mnt/my huge" || m.Option("pagesize") != "1G" || m.Option("rw") != "" || m.Option("size") != "" {
		t.Errorf("%+v", m)
	}
}

// FuzzEncode: whatever is written is one field and comes back.
func FuzzEncode(f *testing.F) {
	f.Add("/mnt/my huge\t\n\\040#")
	f.Fuzz(func(t *testing.T, text string) {
		field := Encode(text)
		if strings.ContainsAny(field, " \t\n\r#") {
			t.Errorf("%q is written as %q, which is more than a field", text, field)
		}
		if got := Decode(field); got != text {
			t.Errorf("%q is written as %q and read as %q", text, field, got)
		}
	})
}
