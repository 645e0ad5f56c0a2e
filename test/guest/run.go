package guest

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"vhostkit/test/guest/proto"
)

// Result is how a command in the guest ended.
type Result struct {
	Argv   []string
	Exit   int // 128+N if signal N ended it
	Stdout string
	Stderr string
}

// Err is nil if the command ended with 0.
func (r Result) Err() error {
	if r.Exit == 0 {
		return nil
	}
	return fmt.Errorf("%q in the guest: exit code %d\n%s", strings.Join(r.Argv, " "), r.Exit, strings.TrimSpace(r.Stdout+r.Stderr))
}

// Run runs a command in the guest and waits for it. The error is about running it; a command that ran and failed has
// an Exit in the Result. When ctx ends, the command is killed.
func (g *Guest) Run(ctx context.Context, argv ...string) (Result, error) {
	return g.RunInput(ctx, nil, argv...)
}

// RunInput is Run with something on the command's standard input.
func (g *Guest) RunInput(ctx context.Context, stdin []byte, argv ...string) (Result, error) {
	req := proto.Request{Op: proto.OpRun, Argv: argv, Stdin: stdin}
	if deadline, ok := ctx.Deadline(); ok {
		// The agent kills it a moment earlier, so that the output so far still arrives.
		left := time.Until(deadline)
		req.TimeoutMS = max(1, (left - min(left/10, 500*time.Millisecond)).Milliseconds())
	}
	_, resp, err := g.call(ctx, req)
	r := Result{Argv: argv, Exit: resp.Exit, Stdout: string(resp.Stdout), Stderr: string(resp.Stderr)}
	if err != nil {
		return r, fmt.Errorf("run %q: %w", strings.Join(argv, " "), err)
	}
	if resp.TimedOut {
		return r, fmt.Errorf("run %q: %w\n%s", strings.Join(argv, " "), context.DeadlineExceeded, r.Stdout+r.Stderr)
	}
	return r, nil
}

// Output runs a command that must end with 0 and returns its standard output.
func (g *Guest) Output(ctx context.Context, argv ...string) (string, error) {
	r, err := g.Run(ctx, argv...)
	if err == nil {
		err = r.Err()
	}
	return r.Stdout, err
}

// Shell runs a script with the guest's shell, which stops at the first failure, and returns its standard output.
func (g *Guest) Shell(ctx context.Context, script string) (string, error) {
	return g.Output(ctx, "sh", "-ec", script)
}

// TB is what MustRun needs of a *testing.T.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
}

// MustRun is Output for tests: it ends the test on failure, with the console.
func (g *Guest) MustRun(ctx context.Context, t TB, argv ...string) string {
	t.Helper()
	out, err := g.Output(ctx, argv...)
	if err != nil {
		t.Fatalf("guest %s: %v\nthe guest's console:\n%s", g.cfg.Name, err, lastLines(g.Console(), 30))
	}
	return out
}

// MountHost mounts this machine's root, read-only, at /host, with the guest's own /proc, /sys, /dev, /tmp and /run
// over it. Needs Config.HostRoot. Programs then run with "chroot", "/host", ...
func (g *Guest) MountHost(ctx context.Context) error {
	_, _, err := g.call(ctx, proto.Request{Op: proto.OpMount9})
	return err
}

func (g *Guest) call(ctx context.Context, req proto.Request) (uint64, proto.Response, error) {
	if g.client == nil {
		return 0, proto.Response{}, fmt.Errorf("guest %s runs its firmware only and has no agent", g.cfg.Name)
	}
	id, resp, err := g.client.call(ctx, req)
	if err != nil {
		select {
		case <-g.ended:
			err = g.explain(err)
		default:
		}
	}
	return id, resp, err
}

// Process is a command that goes on in the guest.
type Process struct {
	g    *Guest
	id   uint64
	argv []string
}

// Background starts a command in the guest.
func (g *Guest) Background(ctx context.Context, argv ...string) (*Process, error) {
	id, _, err := g.call(ctx, proto.Request{Op: proto.OpStart, Argv: argv})
	if err != nil {
		return nil, fmt.Errorf("start %q: %w", strings.Join(argv, " "), err)
	}
	return &Process{g: g, id: id, argv: argv}, nil
}

func (p *Process) result(resp proto.Response) Result {
	return Result{Argv: p.argv, Exit: resp.Exit, Stdout: string(resp.Stdout), Stderr: string(resp.Stderr)}
}

// Output takes away what the command has printed since the last call, and tells whether it still runs.
func (p *Process) Output(ctx context.Context) (Result, bool, error) {
	_, resp, err := p.g.call(ctx, proto.Request{Op: proto.OpOutput, Target: p.id})
	return p.result(resp), resp.Running, err
}

// Expect polls Output until the command's standard output and error, from this call on, contain text, and returns them.
func (p *Process) Expect(ctx context.Context, text string) (string, error) {
	var all strings.Builder
	for {
		r, running, err := p.Output(ctx)
		all.WriteString(r.Stdout + r.Stderr)
		if strings.Contains(all.String(), text) {
			return all.String(), nil
		}
		if err == nil && !running {
			err = fmt.Errorf("it ended with exit code %d", r.Exit)
		}
		if err != nil {
			return all.String(), fmt.Errorf("%q has not printed %q: %w\n%s", strings.Join(p.argv, " "), text, err, lastLines(all.String(), 20))
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Write writes to the command's standard input.
func (p *Process) Write(ctx context.Context, data string) error {
	_, _, err := p.g.call(ctx, proto.Request{Op: proto.OpWrite, Target: p.id, Stdin: []byte(data)})
	return err
}

// Signal sends a signal to the command's process group.
func (p *Process) Signal(ctx context.Context, s syscall.Signal) error {
	_, _, err := p.g.call(ctx, proto.Request{Op: proto.OpSignal, Target: p.id, Signal: int(s)})
	return err
}

// Wait waits until the command ends and returns what it printed since the last Output. The Process is of no use then.
func (p *Process) Wait(ctx context.Context) (Result, error) {
	_, resp, err := p.g.call(ctx, proto.Request{Op: proto.OpWait, Target: p.id})
	return p.result(resp), err
}
