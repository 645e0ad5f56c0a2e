package grub

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/kernelargs"
)

var guide = kernelargs.Wanted{Default: bytesize.GiB, Base: 2 * bytesize.MiB,
	Pools: []kernelargs.Pool{{Size: bytesize.GiB, Count: 4}, {Size: 2 * bytesize.MiB, Count: 256}}}

const added = "default_hugepagesz=1G hugepagesz=1G hugepages=4 hugepagesz=2M hugepages=256"

// shell is what a real shell makes of the files.
func shell(t *testing.T, sources []Source) string {
	t.Helper()
	out, err := tryShell(t, sources)
	if err != nil {
		t.Fatalf("bash: %v", err)
	}
	return out
}

func tryShell(t *testing.T, sources []Source) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	dir, script := t.TempDir(), ""
	for i, s := range sources {
		path := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(path, s.Content, 0o600); err != nil {
			t.Fatal(err)
		}
		script += "bash -n " + path + " || exit 9\n. " + path + "\n"
	}
	cmd := exec.CommandContext(ctx, "bash", "-c", "set +H; exec 3>&1 >/dev/null 2>&1 </dev/null; set -o posix\n"+script+`printf '%s %s' "$`+Linux+`" "$`+Default+`" >&3`)
	cmd.Env, cmd.Dir = []string{"PATH=" + os.Getenv("PATH")}, dir
	out, err := cmd.Output()
	return string(out), err
}

func TestChange(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"double quotes":     {"GRUB_CMDLINE_LINUX=\"quiet\"\n", `GRUB_CMDLINE_LINUX="quiet ` + added + "\"\n"},
		"empty":             {"GRUB_CMDLINE_LINUX=\"\"\nA=b\n", `GRUB_CMDLINE_LINUX="` + added + "\"\nA=b\n"},
		"single quotes":     {"GRUB_CMDLINE_LINUX='a=\"b c\"'", `GRUB_CMDLINE_LINUX='a="b c" ` + added + `'`},
		"no quotes":         {"GRUB_CMDLINE_LINUX=quiet # why\n", `GRUB_CMDLINE_LINUX="quiet ` + added + "\" # why\n"},
		"nothing":           {"GRUB_CMDLINE_LINUX=\n", `GRUB_CMDLINE_LINUX="` + added + "\"\n"},
		"escape":            {"GRUB_CMDLINE_LINUX=a\\ b\n", `GRUB_CMDLINE_LINUX=a\ b" ` + added + "\"\n"},
		"not there":         {"# nothing\nA=1", "# nothing\nA=1\nGRUB_CMDLINE_LINUX=\"" + added + "\"\n"},
		"no file":           {"", "GRUB_CMDLINE_LINUX=\"" + added + "\"\n"},
		"last wins":         {"GRUB_CMDLINE_LINUX=a\nGRUB_CMDLINE_LINUX='b'\n", "GRUB_CMDLINE_LINUX=a\nGRUB_CMDLINE_LINUX='b " + added + "'\n"},
		"comment":           {"#GRUB_CMDLINE_LINUX=\"x\"\nGRUB_CMDLINE_LINUX=\"y\"\n", "#GRUB_CMDLINE_LINUX=\"x\"\nGRUB_CMDLINE_LINUX=\"y " + added + "\"\n"},
		"continuation":      {"GRUB_CMDLINE_LINUX=\"a \\\nb\"\n", "GRUB_CMDLINE_LINUX=\"a \\\nb " + added + "\"\n"},
		"append":            {"GRUB_CMDLINE_LINUX=a\nGRUB_CMDLINE_LINUX+=\" b\"\n", "GRUB_CMDLINE_LINUX=a\nGRUB_CMDLINE_LINUX+=\" b " + added + "\"\n"},
		"itself":            {"GRUB_CMDLINE_LINUX=\"a\"\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX b\"\n", "GRUB_CMDLINE_LINUX=\"a\"\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX b " + added + "\"\n"},
		"dos":               {"GRUB_CMDLINE_LINUX=\"a\"\r\nA=1\r\n", "GRUB_CMDLINE_LINUX=\"a " + added + "\"\r\nA=1\r\n"},
		"pairs elsewhere":   {"GRUB_CMDLINE_LINUX_DEFAULT=\"quiet hugepages=8\"\nGRUB_CMDLINE_LINUX=\"\"\n", "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet hugepagesz=2M hugepages=256\"\nGRUB_CMDLINE_LINUX=\"default_hugepagesz=1G hugepagesz=1G hugepages=4\"\n"},
		"bare pair":         {"GRUB_CMDLINE_LINUX=hugepages=8\n", "GRUB_CMDLINE_LINUX=\"hugepagesz=2M hugepages=256 default_hugepagesz=1G hugepagesz=1G hugepages=4\"\n"},
		"bare pair default": {"GRUB_CMDLINE_LINUX_DEFAULT=hugepages=8\nGRUB_CMDLINE_LINUX=''\n", "GRUB_CMDLINE_LINUX_DEFAULT=\"hugepagesz=2M hugepages=256\"\nGRUB_CMDLINE_LINUX='default_hugepagesz=1G hugepagesz=1G hugepages=4'\n"},
		"there already":     {"export GRUB_CMDLINE_LINUX=\"x " + added + "\"\n", "export GRUB_CMDLINE_LINUX=\"x " + added + "\"\n"},
		"earlier part": {"GRUB_CMDLINE_LINUX='hugepagesz=1G hugepages=1'\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX x\"\n",
			"GRUB_CMDLINE_LINUX='hugepagesz=1G hugepages=4'\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX x default_hugepagesz=1G hugepagesz=2M hugepages=256\"\n"},
		"tuned": {"GRUB_CMDLINE_LINUX=\"a\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"${GRUB_CMDLINE_LINUX_DEFAULT:+$GRUB_CMDLINE_LINUX_DEFAULT }\\$tuned_params\"\n",
			"GRUB_CMDLINE_LINUX=\"a " + added + "\"\nGRUB_CMDLINE_LINUX_DEFAULT=\"${GRUB_CMDLINE_LINUX_DEFAULT:+$GRUB_CMDLINE_LINUX_DEFAULT }\\$tuned_params\"\n"},
		"other commands": {"GRUB_DISTRIBUTOR=$( . /etc/os-release; echo ${NAME:-Debian} )\nX=`echo \"a b\"`\nif [ -n \"$X\" ]; then\n  Y=(1)\nfi\ncase $X in a|b) Z=1;; esac\nGRUB_CMDLINE_LINUX=\"\"\n",
			"GRUB_DISTRIBUTOR=$( . /etc/os-release; echo ${NAME:-Debian} )\nX=`echo \"a b\"`\nif [ -n \"$X\" ]; then\n  Y=(1)\nfi\ncase $X in a|b) Z=1;; esac\nGRUB_CMDLINE_LINUX=\"" + added + "\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			sources := []Source{{"/etc/default/grub", []byte(c.in)}}
			before := mustParse(t, sources)
			if want := shell(t, sources); before.CommandLine() != want && !before.CRLF {
				t.Fatalf("read %q, a shell reads %q", before.CommandLine(), want)
			}
			changed, err := before.Change(guide)
			if err != nil {
				t.Fatal(err)
			}
			if len(changed) == 0 {
				changed = sources
			}
			if string(changed[0].Content) != c.want {
				t.Fatalf("got\n%s\nwant\n%s", changed[0].Content, c.want)
			}
			after := mustParse(t, changed)
			if want := shell(t, changed); after.CommandLine() != want && !after.CRLF {
				t.Fatalf("afterwards read %q, a shell reads %q", after.CommandLine(), want)
			}
			if again, err := after.Change(guide); err != nil || len(again) > 0 {
				t.Fatalf("a second time: %v %v", again, err)
			}
		})
	}
}

func mustParse(t *testing.T, sources []Source) *Config {
	t.Helper()
	c, err := Parse(sources...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestDirectory: what is read later overrides, and is what changes.
func TestDirectory(t *testing.T) {
	sources := []Source{{"/etc/default/grub", []byte("GRUB_CMDLINE_LINUX=\"a\"\n")}, {"/etc/default/grub.d/50.cfg", []byte("GRUB_CMDLINE_LINUX=\"b\"\n")},
		{"/etc/default/grub.d/60.cfg", []byte("GRUB_CMDLINE_LINUX_DEFAULT=\"$GRUB_CMDLINE_LINUX_DEFAULT c\"\n")}}
	changed, err := mustParse(t, sources).Change(guide)
	if err != nil || len(changed) != 1 || changed[0].Path != sources[1].Path {
		t.Fatalf("%v %v", changed, err)
	}
	sources[1] = changed[0]
	if got, want := shell(t, sources), "b "+added+"  c"; got != want {
		t.Fatalf("a shell reads %q, want %q", got, want)
	}
}

func TestRefused(t *testing.T) {
	for _, text := range []string{
		"GRUB_CMDLINE_LINUX=\"quiet\nA=b\n", "GRUB_CMDLINE_LINUX='a", "GRUB_CMDLINE_LINUX=$(cat /x)\n", "GRUB_CMDLINE_LINUX=\"`cat /x`\"\n",
		"if true; then GRUB_CMDLINE_LINUX=a; fi\n", "[ -f /x ] && GRUB_CMDLINE_LINUX=a\n", ". /etc/other\n", "source /etc/other\n", "eval \"$X\"\n",
		"cat <<E\nGRUB_CMDLINE_LINUX=a\nE\n", "GRUB_CMDLINE_LINUX=a\x00\n", "GRUB_CMDLINE_LINUX=$HOME\n", "unset GRUB_CMDLINE_LINUX\n", "a |\nGRUB_CMDLINE_LINUX=b\n", "[ -f /x ] &&  # why\n\n GRUB_CMDLINE_LINUX=b\n", "exit 0\nGRUB_CMDLINE_LINUX=a\n",
		"GRUB_CMDLINE_LINUX=a command\n", "(GRUB_CMDLINE_LINUX=a)\n", "f() { GRUB_CMDLINE_LINUX=a; }\n", "X=$(date)\nGRUB_CMDLINE_LINUX=$X\n", "GRUB_CMDLINE_LINUX=a | b\n",
		"GRUB_CMDLINE_LINUX=a &\n", "GRUB_CMDLINE_LINUX=\"hugepa\"'ges=3'\n", "A='hugepages=3'\nGRUB_CMDLINE_LINUX=\"$A $A\"\n", "GRUB_CMDLINE_LINUX='a=\"b'\n",
		"GRUB_CMDLINE_LINUX=${A#b}\n", "GRUB_CMDLINE_LINUX=~/x\n",
	} {
		c, err := Parse(Source{"/etc/default/grub", []byte(text)})
		if err == nil {
			_, err = c.Change(guide)
		}
		// A parameter that stands once in a file and twice in the line is fine to change: the first counts.
		if strings.Contains(text, "$A $A") {
			if err != nil {
				t.Errorf("%q: %v", text, err)
			}
			continue
		}
		if !errors.Is(err, ErrUnparsable) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestLikeShell compares with a real shell on scripts put together at random.
func TestLikeShell(t *testing.T) {
	pieces := []string{"a", "b=c", " ", " ", "\"", "\"", "'", "'", "\\", "$", "${A}", "$A", "$GRUB_CMDLINE_LINUX", "${GRUB_CMDLINE_LINUX:+x $A}", "${GRUB_X:-d e}", "\n", "\n",
		"GRUB_CMDLINE_LINUX=", "GRUB_CMDLINE_LINUX+=", "GRUB_CMDLINE_LINUX_DEFAULT=", "\nA=", "\nGRUB_CMDLINE_LINUX=\"", "#", ";", "hugepages=3", "export ", "\\\n", "&& ", "if ", "fi\n", "$(", ")", "`", "|", "{"}
	random := rand.New(rand.NewPCG(5, 1))
	followed := 0
	for tried := 0; tried < 150; {
		var b strings.Builder
		b.WriteString("A=v\nGRUB_CMDLINE_LINUX=\"")
		for range 2 + random.IntN(10) {
			b.WriteString(pieces[random.IntN(len(pieces))])
		}
		sources := []Source{{"/etc/default/grub", []byte(b.String())}}
		c, err := Parse(sources...)
		if err != nil {
			continue
		}
		tried++
		want, err := tryShell(t, sources)
		if err != nil {
			continue // no shell takes it: nothing of GRUB works there
		}
		if followed++; followed > 6000 {
			return
		}
		if got := c.CommandLine(); got != want {
			t.Fatalf("%q\nread %q, a shell reads %q", b.String(), got, want)
		}
		changed, err := c.Change(guide)
		if err != nil || len(changed) == 0 {
			continue
		}
		if got, want := mustParse(t, changed).CommandLine(), shell(t, changed); got != want {
			t.Fatalf("%q changed to %q\nread %q, a shell reads %q", b.String(), changed[0].Content, got, want)
		}
	}
	if followed < 20 {
		t.Fatalf("only %d scripts were followed", followed)
	}
}

// FuzzChange: whatever the file holds, it is refused, or says afterwards what is wanted, and a second change is none.
func FuzzChange(f *testing.F) {
	for _, s := range []string{"GRUB_CMDLINE_LINUX=\"quiet\"\n", "A=b\nGRUB_CMDLINE_LINUX='x'$A\"y\\\"\" # z\r\n", "GRUB_CMDLINE_LINUX=${A:-b}\n", "X=`a \"b\"`; Y=$(c \"d\")\n", "export GRUB_CMDLINE_LINUX=hugepages=3"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sources := []Source{{"/etc/default/grub", data}}
		c, err := Parse(sources...)
		if err != nil {
			return
		}
		changed, err := c.Change(guide)
		if err != nil || len(changed) == 0 {
			return
		}
		after, err := Parse(changed...)
		if err != nil {
			t.Fatal(err)
		}
		settings := kernelargs.Read(after.CommandLine(), guide.Base)
		if settings.Default != bytesize.GiB || settings.Pool(bytesize.GiB).Count < 4 || settings.Pool(2*bytesize.MiB).Count < 256 {
			t.Fatalf("%q → %q says %+v", data, changed[0].Content, settings)
		}
		if again, err := after.Change(guide); err != nil || len(again) > 0 {
			t.Fatalf("a second time: %q %v", again, err)
		}
	})
}
