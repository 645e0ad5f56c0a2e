package qemuwrap

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Wrapper is a call of the wrapper.
type Wrapper struct {
	Args    []string // without the program's name
	Environ []string
	Stdout  io.Writer
	// Dial makes the client for switchd's socket for QEMU processes.
	Dial func(path string) Switch
	// Exec becomes QEMU; it returns only if that fails.
	Exec func(path string, argv, environ []string) error
}

// plugTimeout bounds how long switchd may take: libvirt waits for the start meanwhile.
const plugTimeout = 20 * time.Second

// Run does what the arguments say. It returns after a dry run, or with an error that fits on one line: libvirt shows what QEMU's process
// writes before it serves its monitor.
func (w *Wrapper) Run(ctx context.Context) error {
	args, dry := w.Args, false
	if len(args) > 0 && args[0] == "--dry-run" {
		dry, args = true, args[1:]
		if len(args) > 0 && args[0] == "--" {
			args = args[1:]
		}
	}
	config, configErr := LoadConfig(variable(w.Environ, "QEMU_WRAP_CONFIG"), w.Environ)
	if configErr != nil && isProbe(parse(args)) {
		config, configErr = DefaultConfig(), nil // a question must be answered whatever state the set-up is in
	}
	if configErr != nil {
		return configErr
	}
	emulator, err := FindEmulator(config)
	if err != nil {
		return err
	}
	result, err := Rewrite(ctx, config, w.system(ctx, config, emulator, dry), args)
	if err != nil {
		return err
	}
	if dry {
		return explain(w.Stdout, emulator, result)
	}
	return fmt.Errorf("starting %s: %w", emulator, w.Exec(emulator, append([]string{emulator}, result.Args...), w.Environ))
}

func (w *Wrapper) system(ctx context.Context, c Config, emulator string, dry bool) System {
	return System{
		FS: os.DirFS("/"), Writable: writable, Open: open, Switch: limited{w.Dial(c.QEMUSocket)}, DryRun: dry,
		Version: func() Version { return EmulatorVersion(ctx, emulator) },
	}
}

// limited bounds each question to switchd in time.
type limited struct{ Switch }

func (l limited) Plug(ctx context.Context, name string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, plugTimeout)
	defer cancel()
	return l.Switch.Plug(ctx, name)
}

func (l limited) OpenDevice(ctx context.Context, path string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, plugTimeout)
	defer cancel()
	return l.Switch.OpenDevice(ctx, path)
}

// open opens a device as QEMU wants it: blocking, and open beyond exec.
func open(path string) (int, error) { return unix.Open(path, unix.O_RDWR, 0) }

func variable(environ []string, name string) string {
	for _, e := range environ {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return v
		}
	}
	return ""
}

// explain prints the line that would be run, ready for a shell, and why it differs from what was given.
func explain(out io.Writer, emulator string, r Result) error {
	var b strings.Builder
	b.WriteString(quote(emulator))
	for _, o := range parse(r.Args) {
		b.WriteString(" \\\n ")
		for _, t := range o.tokens {
			b.WriteString(" " + quote(t))
		}
	}
	b.WriteString("\n")
	for _, reason := range r.Reasons {
		b.WriteString("# " + reason + "\n")
	}
	if len(r.Reasons) == 0 {
		b.WriteString("# nothing to change\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}

// quote makes a word that a shell reads as it is.
func quote(s string) string {
	safe := s != "" && strings.IndexFunc(s, func(c rune) bool {
		return !(c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || strings.ContainsRune("_@%+=:,./-", c))
	}) < 0
	if safe {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
