// Command demo shows what vhostkit does, on this machine: two Linux guests under QEMU exchange packets through switchd
// and reach a host-side interface behind its uplink. "make demo" runs it.
//
// It works in namespaces of its own (network, mounts, processes), so that nothing on the machine is touched but the
// number of huge pages, which it puts back, and so that everything it started ends with it, however it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// insideVariable marks the process that runs in the namespaces; its value is the working directory.
const insideVariable = "VHOSTKIT_DEMO_INSIDE"

type options struct {
	bin   string        // directory of the programs
	bytes int64         // of the bulk transfer
	limit time.Duration // for everything
}

func main() {
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory of switchd and vhostctl")
	flag.Int64Var(&o.bytes, "bytes", 100<<20, "size of the bulk transfer")
	flag.DurationVar(&o.limit, "limit", 5*time.Minute, "give up after this time")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("not done after %v", o.limit))
	defer cancel()

	run := outside
	if os.Getenv(insideVariable) != "" {
		run = inside
	}
	out := newReport(os.Stdout)
	if err := run(ctx, o, out); err != nil {
		switch {
		case os.Getenv(insideVariable) != "" && ctx.Err() != nil: // the outer process says so
		case stopped(ctx):
			out.stopped()
		case ctx.Err() != nil:
			out.failed(context.Cause(ctx))
		case !errors.Is(err, errInside): // the inner process has said what was wrong
			out.failed(err)
		}
		os.Exit(1)
	}
}

// stopped reports whether the user has ended the demo.
func stopped(ctx context.Context) bool { return errors.Is(context.Cause(ctx), context.Canceled) }
