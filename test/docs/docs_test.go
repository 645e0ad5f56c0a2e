package docs

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const top = "../.."

// nobody runs the programs where the test has root, so that nothing of the machine is touched.
const nobody = 65534

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

// sandbox is a directory with the programs, where they find everything of their own: no root, no directory of the machine's switchd.
type sandbox struct {
	dir string
	env []string
}

func newSandbox(t *testing.T) *sandbox {
	t.Helper()
	dir, err := os.MkdirTemp("", "docs") // not t.TempDir: a socket's path must be short, and another user enters
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &sandbox{dir: dir}
	for name, text := range map[string]string{
		"stubs/sudo": "#!/bin/sh\nexec \"$@\"\n",
		"vm1.xml": "<domain type='kvm'>\n  <name>vm1</name>\n  <memory unit='MiB'>512</memory>\n  <devices>\n    <interface type='network'>\n" +
			"      <mac address='52:54:00:00:00:01'/>\n      <source network='default'/>\n      <model type='virtio'/>\n    </interface>\n  </devices>\n</domain>\n",
		"wrap.toml":  "hugepages = \"never\"\n",
		"stubs/qemu": "#!/bin/sh\necho 'QEMU emulator version 7.2.0'\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "bin")+"/", "./cmd/...")
	build.Dir = top
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the programs: %v\n%s", err, out)
	}
	for _, d := range []string{dir, filepath.Join(dir, "bin"), filepath.Join(dir, "stubs")} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	s.env = []string{"PATH=" + dir + "/bin:" + dir + "/stubs:" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + dir + "/run", "HOME=" + dir,
		"QEMU_WRAP_CONFIG=" + dir + "/wrap.toml", "QEMU_WRAP_EMUL_PATH=" + dir + "/stubs/qemu"}
	return s
}

func (s *sandbox) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	if path := filepath.Join(s.dir, "bin", name); !strings.Contains(name, "/") && exists(path) {
		cmd = exec.Command(path, args...)
	}
	cmd.Dir, cmd.Env = s.dir, s.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	return cmd
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// script is a block as it is typed, with the sandbox's place for the sockets.
func (s *sandbox) script(b Block) string {
	return strings.ReplaceAll(b.Text, "/run/vhostkit", s.dir+"/run/vhostkit")
}

// serve starts a switchd by a script and waits until it answers; the function stops it and wants exit code 0.
func (s *sandbox) serve(t *testing.T, script string) (stop func()) {
	t.Helper()
	cmd := s.command("/bin/sh", "-ec", "exec "+script)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for deadline := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", s.dir+"/run/vhostkit/switchd.sock"); err == nil {
			c.Close()
			break
		}
		select {
		case err := <-done:
			t.Fatalf("switchd ended: %v\n%s", err, out.String())
		default:
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			<-done
			t.Fatalf("switchd does not answer\n%s", out.String())
		}
	}
	return func() {
		t.Helper()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("switchd: %v\n%s", err, out.String())
			}
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			t.Errorf("switchd does not end")
		}
	}
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
			script = strings.ReplaceAll(script, "vhostctl doctor ", "set +e; vhostctl doctor ") // what it finds is the machine's; see below
			out, err := s.command("/bin/sh", "-ec", script).CombinedOutput()
			var exit *exec.ExitError
			if strings.Contains(script, "doctor") && err != nil {
				exit, _ = err.(*exec.ExitError)
			}
			if err != nil && (exit == nil || strings.Contains(string(out), "vhostctl: ")) {
				t.Errorf("%v: %v\n%s", b, err, out)
			}
			if err := s.command("vhostctl", "port", "remove", "vm1").Run(); err != nil && !strings.Contains(script, "port remove vm1") {
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
		"vhostctl attach vm1 --dry-rum", "vhostctl prots", "vhostctl port shwo vm1", "vhostctl stats --watch soon", "switchd --upink none",
		"switchd --mtu nine", "switchd -c f -- --dev-basenam x", "switchd -c zz -- --stats 0", "make demonstration", "qemu-wrap -numa node -m 64 -netdev tap,id=n1",
	} {
		if err := s.parse(Commands(line)[0]); err == nil {
			t.Errorf("%q was taken", line)
		}
	}
	if _, err := Blocks("x", "```sh\nvhostctl ports\n```\n"); err == nil {
		t.Error("a block that does not say how it is checked was taken")
	}
}

const sentinel = "--no-such-option"

// parse asks the program whether a command line is right, without doing what it says.
func (s *sandbox) parse(command []string) error {
	args := command[1:]
	switch command[0] {
	case "make":
		return targets(args)
	case "vhostctl":
		return s.help(command)
	case "qemu-wrap":
		if slices.Contains(args, "--dry-run") || slices.Contains(args, "--wrap-help") {
			return s.succeeds(command)
		}
		return s.succeeds(append([]string{"qemu-wrap", "--dry-run", "--"}, args...))
	}
	if slices.Contains(args, "--help") {
		return s.succeeds(command)
	}
	if !slices.Contains(args, "--") {
		return s.succeeds(append(slices.Clone(command), "--help"))
	}
	// Command lines of DPDK's sample have no --help. They are read from the left: an option that does not exist is what is complained about,
	// if everything before it is right.
	out, err := s.command(command[0], append(slices.Clone(args), sentinel)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), fmt.Sprintf("%q is not an option after --", sentinel)) {
		return fmt.Errorf("%v: %s", command, out)
	}
	return nil
}

func (s *sandbox) succeeds(command []string) error {
	if out, err := s.command(command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", command, err, out)
	}
	return nil
}

var noTopic = regexp.MustCompile(`No help topic for '([^']*)'`)

// help asks for the command's help. Options are read first, so that a wrong one is an error. What follows a command that has none below it is
// its argument, for which there is no help.
func (s *sandbox) help(command []string) error {
	out, err := s.command(command[0], append(slices.Clone(command[1:]), "--help")...).CombinedOutput()
	m := noTopic.FindSubmatch(out)
	if m == nil && err != nil {
		return fmt.Errorf("%v: %w\n%s", command, err, out)
	} else if m == nil {
		return nil
	}
	above := slices.Clone(command[:slices.Index(command, string(m[1]))])
	out, err = s.command(above[0], append(above[1:], "--help")...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "\nCOMMANDS:\n") {
		return fmt.Errorf("%v: %v has no command %s", command, above, m[1])
	}
	return nil
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
