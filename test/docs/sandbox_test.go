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

// nobody runs the programs where the test has root, so that nothing of the machine is touched.
const nobody = 65534

// domain is a description for vhostctl attach --xml.
const domain = `<domain type='kvm'>
  <name>vm1</name>
  <memory unit='MiB'>512</memory>
  <devices>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
  </devices>
</domain>
`

// sandbox is a directory with the programs, where they find everything of their own: no root, no directory of the
// machine's switchd.
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
		"vm1.xml":    domain,
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
	s.env = []string{"PATH=" + dir + "/bin:" + dir + "/stubs:" + os.Getenv("PATH"),
		"XDG_RUNTIME_DIR=" + dir + "/run", "HOME=" + dir,
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
		return s.succeeds(append(slices.Clone(command), "--check-config"))
	}
	// Command lines of DPDK's sample have no --help. They are read from the left: an option that does not exist is what
	// is complained about, if everything before it is right.
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

// help asks for the command's help. Options are read first, so that a wrong one is an error. What follows a command
// that has none below it is its argument, for which there is no help.
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
