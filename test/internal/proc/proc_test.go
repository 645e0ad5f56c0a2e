package proc

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestQuote: a shell reads the words as they were.
func TestQuote(t *testing.T) {
	argv := []string{"a-b=c", "", "with space", "it's", `$HOME "x" \n`, "semi;colon", "*"}
	out, err := exec.Command("sh", "-c", `printf '%s\n' `+Quote(argv)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n"); !slices.Equal(got, argv) {
		t.Errorf("the shell got %q, want %q", got, argv)
	}
}

func TestShow(t *testing.T) {
	for name, c := range map[string]struct{ show, keep, want string }{
		"quiet": {"", "", ""},
		"shown": {"1", "", "q: files in /d (removed afterwards; KEEP=1 keeps them)\nq: qemu 'a b'\n"},
		"kept":  {"", "1", "q: files in /d (kept)\nq: qemu 'a b'\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("VHOSTKIT_SHOW", c.show)
			t.Setenv("VHOSTKIT_KEEP", c.keep)
			var out Buffer
			Show(&out, "q", "/d", []string{"qemu", "a b"})
			if got := out.String(); got != c.want {
				t.Errorf("shows %q, want %q", got, c.want)
			}
		})
	}
}

func TestTail(t *testing.T) {
	if got := Tail("a\nb\nc\n", 2); got != "b\nc" {
		t.Errorf("the last two lines of three are %q", got)
	}
	if got := Tail("a", 5); got != "a" {
		t.Errorf("of one line: %q", got)
	}
}
