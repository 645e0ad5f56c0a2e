package main

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"vhostkit/test/guest/proto"
)

// command is a process in a group of its own, with its output so far.
type command struct {
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	out, err buffer
	ended    chan struct{} // closed when exit and failure are valid
	exit     int
	failure  error
}

// buffer keeps what is written to it, up to proto.MaxOutput, until it is taken.
type buffer struct {
	mu   sync.Mutex
	data []byte
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	room := proto.MaxOutput - len(b.data)
	b.data = append(b.data, p[:min(room, len(p))]...)
	return len(p), nil
}

func (b *buffer) take() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	data := b.data
	b.data = nil
	return data
}

func newCommand(argv []string) (*command, error) {
	if len(argv) == 0 {
		return nil, errors.New("no command given")
	}
	c := &command{cmd: exec.Command(argv[0], argv[1:]...), ended: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.err
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A grandchild that outlives the command and holds its output must not hold the answer.
	c.cmd.WaitDelay = time.Second
	stdin, err := c.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c.stdin = stdin
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(c.ended)
		c.exit, c.failure = exitCode(c.cmd.Wait())
	}()
	return c, nil
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil
	case errors.As(err, &exit):
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return -1, err
}

func startCommand(req proto.Request) (job, error) { return newCommand(req.Argv) }

// run is a command from its start to its end.
func run(req proto.Request) proto.Response {
	c, err := newCommand(req.Argv)
	if err != nil {
		return errorResponse(err)
	}
	go func() {
		// The command may end without reading all of it.
		_ = c.write(req.Stdin)
		_ = c.stdin.Close()
	}()
	var late <-chan time.Time
	if req.TimeoutMS > 0 {
		late = time.After(time.Duration(req.TimeoutMS) * time.Millisecond)
	}
	select {
	case <-c.ended:
		return c.wait()
	case <-late:
		_ = c.signal(syscall.SIGKILL)
		resp := c.wait()
		resp.TimedOut = true
		return resp
	}
}

func (c *command) output() proto.Response {
	resp := proto.Response{Stdout: c.out.take(), Stderr: c.err.take()}
	select {
	case <-c.ended:
		resp.Exit = c.exit
	default:
		resp.Running = true
	}
	return resp
}

func (c *command) write(p []byte) error {
	_, err := c.stdin.Write(p)
	return err
}

func (c *command) signal(s syscall.Signal) error {
	select {
	case <-c.ended:
		return nil
	default:
	}
	if err := syscall.Kill(-c.cmd.Process.Pid, s); err != nil {
		return fmt.Errorf("signal %d to process group %d: %w", s, c.cmd.Process.Pid, err)
	}
	return nil
}

func (c *command) wait() proto.Response {
	<-c.ended
	resp := c.output()
	if c.failure != nil {
		resp.Error = c.failure.Error()
	}
	return resp
}
