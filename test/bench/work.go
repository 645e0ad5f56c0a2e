package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// work is one kind of load. The names W1, W2 and W3 are those of the project's reference: W1 is testpmd with two virtio-user ports that send
// each other everything they get; W2 one way with untouched payload; W3 both ways with payload written and read.
type work struct {
	Name      string  `json:"name"` // W1, W2, W3, latency, rate, interrupt
	Size      int     `json:"size"` // of a frame without FCS, in bytes
	Ring      int     `json:"ring"`
	Packed    bool    `json:"packed"`
	InOrder   bool    `json:"in_order"`
	Ports     int     `json:"ports"`
	Addresses int     `json:"addresses"` // of each port
	Rate      float64 `json:"rate,omitempty"`
}

func (w work) String() string {
	s := fmt.Sprintf("%s %dB ring %d", w.Name, w.Size, w.Ring)
	if w.Packed {
		s += " packed"
	}
	if w.InOrder {
		s += " in_order"
	}
	if w.Ports > 2 {
		s += fmt.Sprintf(" %d ports", w.Ports)
	}
	if w.Addresses > 1 {
		s += fmt.Sprintf(" %d addresses", w.Addresses*w.Ports)
	}
	return s
}

// sample is one measurement.
type sample struct {
	Peer string  `json:"peer"`
	Work work    `json:"work"`
	Mpps float64 `json:"mpps"`
	P50  float64 `json:"p50_us,omitempty"`
	P99  float64 `json:"p99_us,omitempty"`
	P999 float64 `json:"p999_us,omitempty"`
	// Idle is the share of the time in which the generator found nothing to do: it waited for the switch.
	Idle float64 `json:"generator_idle"`
	// SwitchIdle is the same of switchd under W1, at least: there the generator is testpmd, which does not tell.
	SwitchIdle float64 `json:"switch_idle,omitempty"`
	Waited     float64 `json:"waited"` // the larger of both threads' share of time without a processor
	// Before and After are the round trips of a cache line between the two cores, in nanoseconds.
	Before    float64 `json:"round_trip_before_ns"`
	After     float64 `json:"round_trip_after_ns"`
	Discarded string  `json:"discarded,omitempty"` // why
	Failed    string  `json:"failed,omitempty"`
}

// maxWaited is how long either thread may have waited for its processor, as a share of the time, before the sample says more about the
// machine than about the switch.
const maxWaited = 0.02

// rig runs samples.
type rig struct {
	generator       string
	genCore, swCore int
	seconds         float64
	base            string // directory for the peers' files
	placement       placement
	waker           *waker
}

// contestant is a switch that was started for a kind of work. Only the one that is measured runs; the others are stopped, so that all of
// them can be measured in quick turns without starting them anew.
type contestant struct {
	peer    peer
	process *process
	dir     string
	failed  error
}

// enter starts a switch and stops it at once.
func (r *rig) enter(ctx context.Context, p peer, w work) *contestant {
	c := &contestant{peer: p}
	if c.dir, c.failed = os.MkdirTemp(r.base, "run"); c.failed != nil {
		return c
	}
	pollMode = "busy"
	if w.Name == "interrupt" {
		pollMode = "adaptive"
	}
	if c.process, c.failed = p.start(ctx, c.dir, w.Ports, r.swCore); c.failed == nil {
		c.signal(syscall.SIGSTOP)
	}
	return c
}

func (c *contestant) signal(s syscall.Signal) {
	if !c.process.bare {
		_ = syscall.Kill(c.process.pid, s)
	}
}

// leave ends it.
func (c *contestant) leave() {
	if c.process != nil {
		c.signal(syscall.SIGCONT)
		c.process.stop()
	}
	_ = os.RemoveAll(c.dir)
}

// settle is how long a switch may take to notice what happened while it was stopped: the generator before has left.
const settle = 200 * time.Millisecond

// run measures it once.
func (r *rig) run(ctx context.Context, c *contestant, w work) sample {
	s := sample{Peer: c.peer.name, Work: w}
	if c.failed != nil {
		s.Failed = c.failed.Error()
		return s
	}
	s.Before = r.place(ctx, placementTries)
	r.waker = startWaker([2]int{r.genCore, r.swCore})
	c.signal(syscall.SIGCONT)
	time.Sleep(settle)
	before, start := runDelays(c.process.pid), time.Now()
	var err error
	if w.Name == "W1" {
		err = r.testpmd(ctx, c, w, &s)
	} else {
		err = r.generate(ctx, c.process, w, &s)
	}
	s.Waited = max(s.Waited, longest(before, runDelays(c.process.pid)).Seconds()/time.Since(start).Seconds())
	r.waker.stop()
	c.signal(syscall.SIGSTOP)
	s.After = roundTrip(r.genCore, r.swCore)
	if err != nil {
		s.Failed = err.Error()
		return s
	}
	s.Discarded = s.flaw(r.placement)
	return s
}

// flaw tells why a sample says more about the machine than about the switch.
func (s *sample) flaw(p placement) string {
	switch {
	case s.Work.Name == "interrupt":
		return "" // its threads sleep
	case s.Waited > maxWaited:
		return fmt.Sprintf("waited %.0f %% of the time for a processor", 100*s.Waited)
	case !p.holds(s.Before) || !p.holds(s.After):
		return fmt.Sprintf("cores %.0f ns apart before, %.0f after", s.Before, s.After)
	}
	return ""
}

// generate runs the project's own generator.
func (r *rig) generate(ctx context.Context, p *process, w work, s *sample) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration((r.seconds+40)*float64(time.Second)))
	defer cancel()
	args := []string{
		"--mode", strings.ToLower(w.Name), "--size", strconv.Itoa(w.Size), "--ring", strconv.Itoa(w.Ring), "--addresses", strconv.Itoa(max(w.Addresses, 1)),
		"--seconds", fmt.Sprint(r.seconds), "--core", strconv.Itoa(r.genCore),
	}
	if w.Packed {
		args = append(args, "--packed")
	}
	if w.InOrder {
		args = append(args, "--in-order")
	}
	if w.Rate > 0 {
		args = append(args, "--rate", fmt.Sprint(w.Rate))
	}
	argv := append(append([]string{r.generator}, args...), p.sockets...)
	if p.bare {
		argv[2] = map[string]string{"W2": "copy-w2", "W3": "copy"}[w.Name]
		argv = append(argv, "--copy-core", strconv.Itoa(r.swCore))
	}
	if p.namespace {
		argv[2] = "tap" // the mode
		argv = append([]string{"nsenter", "--target", strconv.Itoa(p.pid), "--net", "--"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, messages bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &messages
	err := cmd.Start()
	if err == nil {
		r.waker.stop()
		err = cmd.Wait()
	}
	if err != nil {
		log, _ := os.ReadFile(p.log)
		return fmt.Errorf("generator: %w: %s\n%s", err, strings.TrimSpace(messages.String()), tail(string(log), 5))
	}
	var result struct {
		Mpps   float64 `json:"mpps"`
		Idle   float64 `json:"idle"`
		Waited float64 `json:"waited"`
		P50    float64 `json:"p50_us"`
		P99    float64 `json:"p99_us"`
		P999   float64 `json:"p999_us"`
		Frames uint64  `json:"frames"`
	}
	if err := json.Unmarshal(out.Bytes(), &result); err != nil {
		return fmt.Errorf("generator: %w: %s", err, out.String())
	}
	if result.Frames == 0 {
		log, _ := os.ReadFile(p.log)
		return fmt.Errorf("no frame came through\n%s", tail(string(log), 8))
	}
	s.Mpps, s.Idle, s.Waited, s.P50, s.P99, s.P999 = result.Mpps, result.Idle, result.Waited, result.P50, result.P99, result.P999
	return nil
}

var rxPackets = regexp.MustCompile(`RX-packets:\s+(\d+)`)

// testpmd runs DPDK's own driver: anybody can repeat this measurement without anything of ours.
func (r *rig) testpmd(ctx context.Context, c *contestant, w work, s *sample) error {
	ctx, cancel := context.WithTimeout(ctx, time.Duration((r.seconds+40)*float64(time.Second)))
	defer cancel()
	mbuf := max(w.Size+256, 2176)
	args := []string{
		"--lcores", fmt.Sprintf("0@%d,1@%d", r.genCore, r.genCore), "--main-lcore", "0", "--no-huge", "-m", "512", "--no-pci", "--no-telemetry",
		"--file-prefix", fmt.Sprintf("gen%d", os.Getpid()),
	}
	for i, socket := range c.process.sockets {
		v := fmt.Sprintf("net_virtio_user%d,path=%s,queue_size=%d,mac=02:00:00:00:00:0%d,mrg_rxbuf=0", i, socket, w.Ring, i+1)
		if w.Packed {
			v += ",packed_vq=1"
		}
		if w.InOrder {
			v += ",in_order=1"
		}
		args = append(args, "--vdev", v)
	}
	args = append(args, "--", "-i", "--forward-mode=io", "--nb-cores=1", "--total-num-mbufs=8192", fmt.Sprintf("--mbuf-size=%d", mbuf),
		fmt.Sprintf("--txd=%d", w.Ring), fmt.Sprintf("--rxd=%d", w.Ring), "--eth-peer=0,02:00:00:00:00:02", "--eth-peer=1,02:00:00:00:00:01")
	cmd := exec.CommandContext(ctx, "dpdk-testpmd", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return err
	}
	out := collect(pipe)
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	say := func(line string) { _, _ = io.WriteString(in, line+"\n") }
	if err := out.wait("testpmd>", 20*time.Second); err != nil {
		return err
	}
	vain := c.vain(ctx)
	say(fmt.Sprintf("set txpkts %d", w.Size))
	say("start tx_first 16")
	r.waker.stop()
	time.Sleep(time.Second)
	before, begin := runDelays(cmd.Process.Pid), time.Now()
	idle := c.looks(ctx)
	say("clear port stats all")
	measured := time.Now()
	time.Sleep(time.Duration(r.seconds * float64(time.Second)))
	say("show port stats all")
	elapsed := time.Since(measured).Seconds()
	s.SwitchIdle = c.looks(ctx).idleSince(idle, vain)
	s.Waited = longest(before, runDelays(cmd.Process.Pid)).Seconds() / time.Since(begin).Seconds()
	say("stop")
	say("quit")
	// What testpmd prints into a pipe comes when it ends.
	if err := out.wait("Bye...", 15*time.Second); err != nil {
		return err
	}
	found := rxPackets.FindAllStringSubmatch(out.text(), -1)
	if len(found) < 2 {
		return fmt.Errorf("testpmd printed no statistics:\n%s", tail(out.text(), 10))
	}
	total := 0.0
	for _, m := range found[len(found)-2:] {
		n, _ := strconv.ParseFloat(m[1], 64)
		total += n
	}
	if total == 0 {
		return fmt.Errorf("no frame came through:\n%s", tail(out.text(), 10))
	}
	s.Mpps = total / elapsed / 1e6
	return nil
}

// output collects what a program prints.
type output struct {
	lines chan string
	all   strings.Builder
}

func collect(r io.Reader) *output {
	o := &output{lines: make(chan string, 4096)}
	go func() {
		defer close(o.lines)
		b := bufio.NewReader(r)
		var line []byte
		for {
			c, err := b.ReadByte()
			if err != nil {
				return
			}
			line = append(line, c)
			// The prompt has no end of line.
			if c == '\n' || bytes.HasSuffix(line, []byte("testpmd> ")) {
				o.lines <- string(line)
				line = nil
			}
		}
	}()
	return o
}

// wait reads on until a line has the text.
func (o *output) wait(text string, limit time.Duration) error {
	deadline := time.After(limit)
	for {
		select {
		case line, ok := <-o.lines:
			o.all.WriteString(line)
			if strings.Contains(line, text) {
				return nil
			}
			if !ok {
				return fmt.Errorf("it ended before it printed %q:\n%s", text, tail(o.all.String(), 10))
			}
		case <-deadline:
			return fmt.Errorf("it has not printed %q within %v:\n%s", text, limit, tail(o.all.String(), 10))
		}
	}
}

// text is all that was printed up to now.
func (o *output) text() string {
	for {
		select {
		case line, ok := <-o.lines:
			if !ok {
				return o.all.String()
			}
			o.all.WriteString(line)
		default:
			return o.all.String()
		}
	}
}

// runDelays are the times that each thread of a process waited for a processor (schedstat in proc(5)).
func runDelays(pid int) map[string]time.Duration {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	list := map[string]time.Duration{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if fields := strings.Fields(string(data)); err == nil && len(fields) == 3 {
			on, _ := strconv.ParseInt(fields[0], 10, 64)
			delay, _ := strconv.ParseInt(fields[1], 10, 64)
			if time.Duration(on) > 200*time.Millisecond { // the threads that work
				list[f] = time.Duration(delay)
			} else {
				list[f] = 0
			}
		}
	}
	return list
}

// longest is the most that a thread has waited between two looks.
func longest(before, after map[string]time.Duration) (most time.Duration) {
	for thread, d := range after {
		most = max(most, d-before[thread])
	}
	return most
}
