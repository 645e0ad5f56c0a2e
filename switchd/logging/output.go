package logging

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"vhostkit/internal/term"
)

const (
	// Period is how often lines that were left out are summed up.
	Period = time.Minute
	// CloseLimit bounds how long Close waits for the readers.
	CloseLimit = time.Second
	// maxSummaries bounds the lines of one summing up; what there is beyond them shares one.
	maxSummaries = 100
)

// Config describes where the output goes and how it looks.
type Config struct {
	Stdout, Stderr *os.File     // stay the caller's
	JSON           bool         // log lines as JSON instead of text
	Level          slog.Leveler // of log lines; may change
	Addresses      int          // how many a port may have
	Now            func() time.Time
}

// Output is the process's output. Nothing that is written to it waits for a reader.
type Output struct {
	stdout, stderr *Writer // the same one where both are the same file, so that their lines keep their order
	terminal       bool
	budgets        *budgets
	unbounded      slog.Handler // what the log goes through behind the budgets
	log            *slog.Logger
	now            func() time.Time

	stop  context.CancelFunc
	ended sync.WaitGroup
}

// Open starts the output's goroutines; Close ends them.
func Open(c Config) (*Output, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	o := &Output{budgets: newBudgets(c.Addresses, c.Now), terminal: term.IsTerminal(c.Stdout), now: c.Now}
	var err error
	if o.stderr, err = NewWriter(c.Stderr, c.lossLine); err != nil {
		return nil, err
	}
	if o.stdout = o.stderr; !sameFile(c.Stdout, c.Stderr) {
		if o.stdout, err = NewWriter(c.Stdout, plainLoss); err != nil {
			o.stderr.Close(CloseLimit)
			return nil, err
		}
	}
	o.unbounded = c.format(o.stderr)
	o.log = slog.New(&handler{next: o.unbounded, budgets: o.budgets, about: noSubject()})
	ctx, stop := context.WithCancel(context.Background())
	o.stop = stop
	o.ended.Add(1)
	go func() {
		defer o.ended.Done()
		o.sumUpEach(ctx, Period)
	}()
	return o, nil
}

func (c *Config) format(w io.Writer) slog.Handler {
	options := &slog.HandlerOptions{Level: c.Level}
	if c.JSON {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

const lossText = "lines of the output were lost: its reader was too slow, or writing failed (disk full?)"

// lossLine says in the log's format that lines were lost.
func (c *Config) lossLine(lines int) []byte {
	var b bytes.Buffer
	r := slog.NewRecord(c.Now(), slog.LevelWarn, lossText, 0)
	r.AddAttrs(slog.Int("lines", lines))
	_ = c.format(&b).Handle(context.Background(), r) // a bytes.Buffer takes everything
	return b.Bytes()
}

func plainLoss(lines int) []byte { return fmt.Appendf(nil, "switchd: %s: %d\n", lossText, lines) }

// Log is the log on standard error.
func (o *Output) Log() *slog.Logger { return o.log }

// Stderr takes whole lines that no budget bounds.
func (o *Output) Stderr() io.Writer { return o.stderr }

// Address prints a line about a port's address on standard output, within the port's budget for such lines.
func (o *Output) Address(port int, line string) {
	if o.budgets.allow(classNormal, key{kind: kindAddresses, port: int64(port)}, key{kind: kindAll}) {
		_, _ = o.stdout.Write([]byte(line)) // never fails
	}
}

// Screen shows a text of many lines on standard output, unless somebody is still busy reading what came before.
func (o *Output) Screen(text string) { o.stdout.WriteIdle([]byte(text)) }

// Terminal tells whether standard output is one.
func (o *Output) Terminal() bool { return o.terminal }

// Close sums up what was left out and gives the readers CloseLimit to read the rest. What is written afterwards is dropped.
func (o *Output) Close() {
	o.stop()
	o.ended.Wait()
	o.sumUp()
	stdout := make(chan struct{})
	go func() {
		defer close(stdout)
		o.stdout.Close(CloseLimit)
	}()
	o.stderr.Close(CloseLimit)
	<-stdout
}

func (o *Output) sumUpEach(ctx context.Context, period time.Duration) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			o.sumUp()
		}
	}
}

// sumUp writes one line about each subject of which lines were left out.
func (o *Output) sumUp() {
	list := o.budgets.period()
	var more summary
	for i, s := range list {
		if i < maxSummaries {
			o.leftOut(subjects[s.kind], s)
			continue
		}
		more.lines, more.urgent, more.period = more.lines+s.lines, more.urgent+s.urgent, s.period
	}
	if more.lines > 0 {
		more.kind = kindRest
		o.leftOut("lines about further ports and sockets were left out", more)
	}
}

var subjects = [numKinds]string{
	kindPort:      "lines about this port were left out",
	kindAddresses: "lines about this port's addresses were left out",
	kindSocket:    "lines about this socket were left out",
	kindRest:      "lines were left out",
}

func (o *Output) leftOut(text string, s summary) {
	if !o.unbounded.Enabled(context.Background(), slog.LevelWarn) {
		return
	}
	r := slog.NewRecord(o.now(), slog.LevelWarn, text, 0)
	switch {
	case s.kind == kindSocket:
		r.AddAttrs(slog.String("socket", s.path))
	case s.path != "":
		r.AddAttrs(slog.String("port", s.path))
	case s.kind == kindPort || s.kind == kindAddresses:
		r.AddAttrs(slog.Int64("port", s.port))
	}
	r.AddAttrs(slog.Int("lines", s.lines))
	if s.urgent > 0 {
		r.AddAttrs(slog.Int("warnings", s.urgent))
	}
	r.AddAttrs(slog.Int("seconds", int(s.period.Round(time.Second)/time.Second)))
	_ = o.unbounded.Handle(context.Background(), r) // a Writer takes everything
}

func sameFile(a, b *os.File) bool {
	x, errX := a.Stat()
	y, errY := b.Stat()
	return errX == nil && errY == nil && os.SameFile(x, y)
}
