package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const top = "../.."

func documents(t *testing.T) (list []string) {
	t.Helper()
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, found...)
	}
	if len(list) < 10 {
		t.Fatalf("only %v", list)
	}
	return list
}

func blocks(t *testing.T) (all []Block) {
	t.Helper()
	for _, file := range documents(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(file) == "CONTRIBUTING.md" || filepath.Base(file) == "CHANGELOG.md" {
			continue // for developers; what they type are make's targets
		}
		list, err := Blocks(strings.TrimPrefix(file, top+"/"), string(text))
		if err != nil {
			t.Error(err)
		}
		all = append(all, list...)
	}
	return all
}

// TestBlocks runs what the documents show as far as they say so.
func TestBlocks(t *testing.T) {
	s := newSandbox(t)
	ran := map[string]int{}
	for _, b := range blocks(t) {
		ran[b.Test]++
		switch b.Test {
		case "", "guest":
		case "run":
			stop := s.serve(t, "switchd")
			if err := s.command("vhostctl", "port", "add", "vm1").Run(); err != nil {
				t.Error(err)
			}
			script := s.script(b)
			if strings.Contains(script, "port add vm1") {
				script = "vhostctl port remove vm1\n" + script
			}
			// What doctor finds is the machine's; only a complaint of vhostctl itself is an error.
			script = strings.ReplaceAll(script, "vhostctl doctor", "set +e; vhostctl doctor")
			out, err := s.command("/bin/sh", "-ec", script).CombinedOutput()
			var exit *exec.ExitError
			if strings.Contains(script, "doctor") && err != nil {
				exit, _ = err.(*exec.ExitError)
			}
			if err != nil && (exit == nil || strings.Contains(string(out), "vhostctl: ")) {
				t.Errorf("%v: %v\n%s", b, err, out)
			}
			err = s.command("vhostctl", "port", "remove", "vm1").Run()
			if err != nil && !strings.Contains(script, "port remove vm1") {
				t.Error(err)
			}
			stop()
		case "serve":
			s.serve(t, strings.TrimPrefix(s.script(b), "sudo "))()
		case "switchd.toml":
			file := filepath.Join(s.dir, "checked.toml")
			text := strings.ReplaceAll(b.Text, `"2-3"`, `"0"`) // a core that each machine has
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			if out, err := s.command("switchd", "--config", file, "--check-config").CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", b, err, out)
			}
		default:
			t.Errorf("%v: unknown test %q", b, b.Test)
		}
	}
	if ran["run"] < 5 || ran["serve"] < 2 || ran[""] < 5 {
		t.Errorf("tested are %v: blocks are missing", ran)
	}
}

var inline = regexp.MustCompile("`((?:sudo )?(?:bin/)?(?:vhostctl|switchd|qemu-wrap|make) [^`]+)`")

// TestCommandsParse asks the programs about each command that the documents show, also in the text, and is not run.
func TestCommandsParse(t *testing.T) {
	s := newSandbox(t)
	parsed := 0
	for _, b := range blocks(t) {
		if b.Kind != "sh" {
			continue
		}
		for _, words := range Commands(b.Text) {
			if command, ok := Ours(words); ok {
				parsed++
				if err := s.parse(command); err != nil {
					t.Errorf("%v: %v", b, err)
				}
			}
		}
	}
	for _, file := range documents(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range inline.FindAllStringSubmatch(string(text), -1) {
			for _, words := range Commands(m[1]) {
				command, ok := Ours(words)
				if i := slices.Index(command, "…"); i >= 0 {
					command = command[:i]
				}
				if err := s.parse(command); ok && err != nil {
					t.Errorf("%s: %v", file, err)
				}
			}
		}
	}
	if parsed < 40 {
		t.Errorf("only %d commands were found", parsed)
	}
}

// TestWrongCommandsAreSeen: the check itself would notice.
func TestWrongCommandsAreSeen(t *testing.T) {
	s := newSandbox(t)
	for _, line := range []string{
		"vhostctl attach vm1 --dry-rum", "vhostctl prots", "vhostctl port shwo vm1",
		"vhostctl stats --watch soon", "switchd --upink none",
		"switchd --mtu nine", "switchd -c f -- --dev-basenam x", "switchd -c zz -- --stats 0",
		"make demonstration", "qemu-wrap -numa node -m 64 -netdev tap,id=n1",
	} {
		if err := s.parse(Commands(line)[0]); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
	if _, err := Blocks("x", "```sh\nvhostctl ports\n```\n"); err == nil {
		t.Error("a block that does not say how it is checked was taken")
	}
}

// targets wants that the Makefile has them.
func targets(args []string) error {
	text, err := os.ReadFile(filepath.Join(top, "Makefile"))
	if err != nil {
		return err
	}
	for _, a := range args {
		if strings.ContainsAny(a, "=-") && !regexp.MustCompile(`^[a-z-]+$`).MatchString(a) {
			continue
		}
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(a) + `:`).Match(text) {
			return fmt.Errorf("make has no target %q", a)
		}
	}
	return nil
}

var (
	link    = regexp.MustCompile(`\]\(([^)]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	dropped = regexp.MustCompile("[^a-z0-9 _-]")
)

// TestLinks: each link between the documents leads to a file, and to a heading in it where it names one.
func TestLinks(t *testing.T) {
	seen := 0
	for _, file := range documents(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			seen++
			name, anchor, _ := strings.Cut(m[1], "#")
			to := file
			if name != "" {
				to = filepath.Join(filepath.Dir(file), name)
			}
			target, err := os.ReadFile(to)
			if err != nil {
				t.Errorf("%s: link %s: %v", file, m[1], err)
				continue
			}
			if anchor != "" && !slices.Contains(anchors(string(target)), anchor) {
				t.Errorf("%s: link %s: no such heading", file, m[1])
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d links", seen)
	}
}

// anchors are the headings as links name them.
func anchors(text string) (list []string) {
	for _, m := range heading.FindAllStringSubmatch(text, -1) {
		list = append(list, strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-"))
	}
	return list
}

// TestREADMEIsShort: the README is for beginners; what is more goes to docs/.
func TestREADMEIsShort(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(top, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n > 150 {
		t.Errorf("%d lines, at most 150", n)
	}
}
