package hugepages

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vhostkit/hugepages/bls"
	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/grub"
	"vhostkit/hugepages/kernelargs"
)

var update = flag.Bool("update", false, "write what comes out as the golden results")

// corpusPrograms are the tools of a case, where they are not Debian's.
var corpusPrograms = map[string]string{"fedora-40": "grub2-mkconfig", "rhel-8-kernelopts": "grub2-mkconfig", "rhel-9": "grub2-mkconfig", "opensuse-leap-15": "grub2-mkconfig",
	"arch-systemd-boot": "bootctl", "kernel-install": "kernel-install"}

// corpusCommands are what must be run; update-grub where nothing is named.
var corpusCommands = map[string]string{"fedora-40": "grub2-mkconfig -o /boot/grub2/grub.cfg", "rhel-8-kernelopts": "grub2-mkconfig -o /boot/efi/EFI/redhat/grub.cfg",
	"rhel-9": "grub2-mkconfig -o /boot/grub2/grub.cfg", "opensuse-leap-15": "grub2-mkconfig -o /boot/grub2/grub.cfg", "arch-systemd-boot": "", "kernel-install": ""}

// TestCorpus: files as they are in the world, with the results written down; run twice, undone, and read by those who will read them.
func TestCorpus(t *testing.T) {
	cases, err := filepath.Glob("testdata/corpus/*")
	if err != nil || len(cases) < 14 {
		t.Fatalf("%d cases %v", len(cases), err)
	}
	for _, dir := range cases {
		for golden, request := range map[string]Request{"guide": {ForVMs: 8 * bytesize.GiB, ForSwitch: 512 * bytesize.MiB, Persist: true},
			"small": {ForVMs: 3 * bytesize.GiB, ForSwitch: 512 * bytesize.MiB, PageSize: 2 * bytesize.MiB, Persist: true}} {
			t.Run(filepath.Base(dir)+"/"+golden, func(t *testing.T) { corpusCase(t, dir, golden, request) })
		}
	}
}

func corpusRig(t *testing.T, dir string) *rig {
	r := newRig(t, filepath.Join(dir, "in"))
	if program, ok := corpusPrograms[filepath.Base(dir)]; ok {
		r.runner.programs = map[string]string{program: ""}
	}
	return r
}

func corpusCase(t *testing.T, dir, golden string, request Request) {
	r := corpusRig(t, dir)
	before := r.snapshot()
	r.provision(request)
	after := r.snapshot()
	delete(after, recordPath)
	changed := map[string]string{}
	for path, content := range after {
		if before[path] != content {
			changed[path] = content
		}
	}
	compareGolden(t, filepath.Join(dir, golden), changed)
	want, ok := corpusCommands[filepath.Base(dir)]
	if !ok {
		want = "update-grub"
	}
	if got := strings.Join(r.runner.ran, "; "); got != want {
		t.Errorf("ran %q, want %q", got, want)
	}

	if p := r.provision(request); !p.Empty() || p.Diff() != "" {
		t.Errorf("a second time:\n%s", p.Diff())
	}
	checkLines(t, r, golden)
	if _, ok := changed["/etc/fstab"]; ok {
		verifyFstab(t, r, changed["/etc/fstab"])
	}
	r.undo()
	if got := r.snapshot(); !maps.Equal(got, before) {
		t.Errorf("undone: %q, was %q", got, before)
	}
}

func compareGolden(t *testing.T, dir string, changed map[string]string) {
	t.Helper()
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for path, content := range changed {
			full := filepath.Join(dir, path)
			if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, []byte(content), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		want[strings.TrimPrefix(path, dir)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if !maps.Equal(changed, want) {
		t.Errorf("changed\n%q\nwant\n%q", changed, want)
	}
}

// checkLines reads each command line again and looks for what was asked.
func checkLines(t *testing.T, r *rig, golden string) {
	t.Helper()
	lines := map[string]string{}
	if _, err := os.Stat(r.at("/etc/default/grub")); err == nil {
		sources := []grub.Source{}
		paths, _ := filepath.Glob(r.at("/etc/default/grub.d/*.cfg"))
		for _, path := range append([]string{r.at("/etc/default/grub")}, paths...) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			sources = append(sources, grub.Source{Path: path, Content: data})
		}
		config, err := grub.Parse(sources...)
		if err != nil {
			t.Fatal(err)
		}
		lines["grub"] = config.CommandLine()
		if got := shellLine(t, sources); got != lines["grub"] && !config.CRLF {
			t.Errorf("a shell reads %q, and this package %q", got, lines["grub"])
		}
	}
	if data, err := os.ReadFile(r.at("/etc/kernel/cmdline")); err == nil {
		if lines["cmdline"], err = bls.CommandLine(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range append(glob(t, r.at("/boot/loader/entries/*.conf")), glob(t, r.at("/efi/loader/entries/*.conf"))...) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		entry, err := bls.ParseEntry(data)
		if err != nil {
			t.Fatal(err)
		}
		if !entry.Indirect() && !strings.Contains(path, "rescue") {
			lines[path] = entry.CommandLine()
		}
	}
	if len(lines) == 0 {
		t.Error("no command line was found")
	}
	for name, line := range lines {
		s := kernelargs.Read(line, 2*bytesize.MiB)
		ok := s.Default == bytesize.GiB && s.Pool(bytesize.GiB).Count == 8 && s.Pool(2*bytesize.MiB).Count >= 256
		if golden == "small" {
			ok = s.Pool(2*bytesize.MiB).Count >= 1792 && (s.Default == 0 || s.Default == 2*bytesize.MiB)
		}
		if !ok {
			t.Errorf("%s says %+v: %q", name, s, line)
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	list, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// shellLine is the command line as the generator's own shell reads it.
func shellLine(t *testing.T, sources []grub.Source) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	script := ""
	for _, s := range sources {
		script += ". '" + s.Path + "'\n"
	}
	out, err := exec.CommandContext(ctx, "bash", "-c", script+`printf '%s %s' "$GRUB_CMDLINE_LINUX" "$GRUB_CMDLINE_LINUX_DEFAULT"`).Output()
	if err != nil {
		t.Fatalf("bash: %v", err)
	}
	return string(out)
}

// verifyFstab lets util-linux judge the table, with our mount points below the case's root. It cannot know the devices of other machines:
// what it says about our lines counts, and whether it can read all of it.
func verifyFstab(t *testing.T, r *rig, table string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	path := filepath.Join(t.TempDir(), "fstab")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(table, " /mnt/huge ", " "+r.at("/mnt/huge")+" ")), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, "findmnt", "--verify", "--verbose", "--tab-file", path)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("findmnt (util-linux) is missing: %v", err)
	}
	text := string(out)
	if !strings.Contains(text, "\n0 parse errors") && !strings.Contains(text, "\nSuccess, no errors or warnings") {
		t.Errorf("findmnt: %s", text)
	}
	ours := 0
	for line := range strings.Lines(text[strings.Index(text, r.at("/mnt/huge"))+1:]) {
		if ours > 0 && !strings.HasPrefix(line, " ") {
			break
		}
		if ours++; strings.Contains(line, "[E]") || strings.Contains(line, "[W]") {
			t.Errorf("findmnt about /mnt/huge: %s", line)
		}
	}
	if ours < 2 {
		t.Errorf("findmnt says nothing about /mnt/huge: %s", text)
	}
}

// TestCrash stops between all steps of writing: each file is the old or the new one, and undo gives the system back.
func TestCrash(t *testing.T) {
	crash := errors.New("power lost")
	request := Request{ForVMs: 8 * bytesize.GiB, ForSwitch: 512 * bytesize.MiB, Persist: true}
	whole := corpusRig(t, "testdata/corpus/fedora-40")
	whole.provision(request)
	after := whole.snapshot()
	for stop := 0; ; stop++ {
		r := corpusRig(t, "testdata/corpus/fedora-40")
		before := r.snapshot()
		count := 0
		r.Store.Step = func(string) error {
			if count++; count > stop {
				return crash
			}
			return nil
		}
		err := r.plan(request).Apply(t.Context())
		r.Store.Step = nil
		if err == nil {
			if stop < 30 {
				t.Fatalf("only %d steps", stop)
			}
			return
		}
		if !errors.Is(err, crash) {
			t.Fatalf("step %d: %v", stop, err)
		}
		for path, is := range r.snapshot() {
			if is != before[path] && is != after[path] && path != recordPath {
				t.Fatalf("step %d: %s is neither old nor new: %q", stop, path, is)
			}
		}
		// Running it again finishes what was begun.
		if stop%2 == 0 {
			r.provision(request)
			if len(r.runner.ran) == 0 {
				t.Fatalf("step %d: run again: nothing wrote the boot loader's configuration", stop)
			}
			if is := r.snapshot(); !maps.Equal(is, after) {
				t.Fatalf("step %d: run again: %q, want %q", stop, is, after)
			}
		}
		u, err := r.Undo(false)
		if err == nil {
			err = u.Apply(t.Context())
		}
		if err != nil && !strings.Contains(err.Error(), "nothing to undo") {
			t.Fatalf("step %d: undo: %v", stop, err)
		}
		if is := r.snapshot(); !maps.Equal(is, before) {
			t.Fatalf("step %d: after undo: %q, want %q", stop, is, before)
		}
	}
}
