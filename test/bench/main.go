package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options of a run.
type options struct {
	rounds    int
	seconds   float64
	workloads []string
	sizes     []int
	peers     []string
	custom    []string
	out, bin  string
	cores     [2]int
	growth    bool
	placement string
	only      *regexp.Regexp
}

func main() {
	runtime.GOMAXPROCS(max(8, runtime.GOMAXPROCS(0))) // threads that spin shall not keep the others from running
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:])
	if err == nil {
		err = o.run(ctx)
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type words struct{ list *[]string }

func (w words) String() string { return "" }
func (w words) Set(s string) error {
	*w.list = append(*w.list, s)
	return nil
}

func parse(args []string) (options, error) {
	o := options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	short := f.Bool("short", false, "few sizes, one round: does it work, and roughly how fast")
	f.IntVar(&o.rounds, "rounds", 7, "how often each switch gets each work")
	f.Float64Var(&o.seconds, "seconds", 0.7, "of each measurement")
	workloads := f.String("workloads", "W2,W3,W1,W1-in_order,W1-packed,W3-packed,latency,rate,interrupt", "what to measure")
	sizes := f.String("sizes", "64,256,512,1518", "frame sizes without FCS, in bytes")
	peers := f.String("peers", "dpdk-pipe,ovs-dpdk,bridge,memcpy", "what to compare with, of what can be installed: dpdk-pipe, ovs-dpdk, bridge (taps; interrupt only); memcpy is no switch but the limit of those that copy")
	f.Var(words{&o.custom}, "peer", "another vhost-user switch: NAME='command with {sock0} {sock1} {core}'; repeatable")
	f.StringVar(&o.out, "out", "bench/results", "where table, JSON and plot go")
	f.StringVar(&o.bin, "bin", "bin/switchd", "the switchd to measure")
	cores := f.String("cores", "0,1", "of the generator and of the switch")
	f.StringVar(&o.placement, "placement", "near", "of the two cores, where a host moves them about: near (they share a cache), far, or any")
	only := f.String("only", "", "of the plan, only the works whose name in the table matches this regular expression, such as '4096 addresses'")
	f.BoolVar(&o.growth, "growth", true, "also by ports, addresses and ring sizes")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	if *short {
		o.rounds, o.seconds, o.growth = 1, 1, false
		*workloads, *sizes = "W2,W3,W1,latency", "64,1518"
	}
	o.workloads, o.peers = strings.Split(*workloads, ","), strings.Split(*peers, ",")
	for _, s := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 64 || n > 9000 {
			return o, fmt.Errorf("-sizes %q: want 64 to 9000", *sizes)
		}
		o.sizes = append(o.sizes, n)
	}
	if _, err := fmt.Sscanf(*cores, "%d,%d", &o.cores[0], &o.cores[1]); err != nil || o.cores[0] == o.cores[1] {
		return o, fmt.Errorf("-cores %q: want two different ones, such as 0,1", *cores)
	}
	if runtime.NumCPU() < 2 {
		return o, errors.New("two cores are needed: one for the generator, one for the switch")
	}
	return o, nil
}

// plan is the work to be done, and by whom.
func (o options) plan() (list []work) {
	add := func(w work) {
		if w.Ring == 0 {
			w.Ring = 256
		}
		if w.Ports == 0 {
			w.Ports = 2
		}
		if w.Addresses == 0 {
			w.Addresses = 1
		}
		if !slices.Contains(list, w) && o.only.MatchString(w.String()) {
			list = append(list, w)
		}
	}
	for _, name := range o.workloads {
		base, kind, _ := strings.Cut(name, "-")
		w := work{Name: base, InOrder: kind == "in_order", Packed: kind == "packed"}
		switch base {
		case "latency", "interrupt":
			w.Size = 64
			add(w)
		case "rate":
			w.Size, w.Rate = 64, 1e6
			add(w)
		default:
			for _, w.Size = range o.sizes {
				add(w)
			}
		}
	}
	if o.growth {
		for _, n := range []int{4, 8, 16, 32, 64} {
			add(work{Name: "W2", Size: 64, Ports: n})
		}
		for _, n := range []int{8, 64, 512, 2048} {
			add(work{Name: "W2", Size: 64, Addresses: n})
		}
		for _, n := range []int{512, 1024, 4096} {
			add(work{Name: "W2", Size: 64, Ring: n})
		}
		add(work{Name: "W2", Size: 64, Ports: 64, Addresses: 64})
		add(work{Name: "W2", Size: 9000})
	}
	return list
}

// competitors are switchd and those of the wanted peers that are installed.
func (o options) competitors() ([]peer, error) {
	bin, err := filepath.Abs(o.bin)
	if err != nil {
		return nil, err
	}
	list := []peer{switchd(bin)}
	for _, name := range o.peers {
		var p peer
		switch name {
		case "":
			continue
		case "dpdk-pipe":
			p = pipe()
			_, err = exec.LookPath("dpdk-testpmd")
		case "ovs-dpdk":
			p = ovs()
			_, err = findAny("/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk", "ovs-vswitchd")
		case "bridge":
			p = bridge()
			_, err = exec.LookPath("ip")
		case "memcpy":
			p = memcpy()
		default:
			return nil, fmt.Errorf("-peers %s: want dpdk-pipe, ovs-dpdk, bridge or memcpy; others are named with -peer", name)
		}
		if err != nil {
			return nil, fmt.Errorf("%s is not installed: %w (test/setup/install.sh bench)", name, err)
		}
		list = append(list, p)
	}
	for _, text := range o.custom {
		p, err := custom(text)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func (o options) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("DPDK's testpmd and Open vSwitch want root here")
	}
	peers, err := o.competitors()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vhkbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	generator := filepath.Join(dir, "generator")
	if err := buildGenerator(ctx, generator); err != nil {
		return err
	}
	r := &rig{generator: generator, genCore: o.cores[0], swCore: o.cores[1], seconds: o.seconds, base: dir}
	survey := r.survey(ctx, 60)
	if r.placement, err = choose(o.placement, survey); err != nil {
		return err
	}
	slices.Sort(survey)
	fmt.Printf("a cache line's round trip between the cores: %.0f to %.0f ns; samples are taken at: %s\n", survey[0], survey[len(survey)-1], r.placement)
	result := &results{Placement: r.placement, Survey: survey, Date: time.Now(), Machine: thisMachine(o.cores[0], o.cores[1]), Rounds: o.rounds, Seconds: o.seconds}
	works := o.plan()
	for i, w := range works {
		if ctx.Err() != nil {
			break
		}
		samples := r.compete(ctx, peers, w, o.rounds, func(round int, s sample) {
			fmt.Printf("[%d/%d, round %d] %-40s %-10s %s\n", i+1, len(works), round+1, w, s.Peer, describe(s))
		})
		result.Samples = append(result.Samples, samples...)
		for _, p := range peers {
			own := slices.DeleteFunc(slices.Clone(samples), func(s sample) bool { return s.Peer != p.name })
			if len(own) > 0 {
				result.Summaries = append(result.Summaries, summarize(own))
			}
		}
	}
	base, err := result.write(o.out)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n%s.md, .json, .svg\n", result.table(), base)
	return ctx.Err()
}

// retries is how often a sample that says more about the machine is repeated.
const retries = 4

// compete measures the peers in turn, round after round. All samples are returned, the discarded ones too.
func (r *rig) compete(ctx context.Context, peers []peer, w work, rounds int, tell func(round int, s sample)) (list []sample) {
	var field []*contestant
	for _, p := range peers {
		if p.takes(w) {
			c := r.enter(ctx, p, w)
			defer c.leave()
			field = append(field, c)
		}
	}
	for round := range rounds {
		for _, c := range field {
			for range 1 + retries {
				if ctx.Err() != nil {
					return list
				}
				s := r.run(ctx, c, w)
				list = append(list, s)
				tell(round, s)
				if s.Discarded == "" {
					break
				}
			}
		}
	}
	return list
}

func describe(s sample) string {
	text := fmt.Sprintf("%8.2f Mpps", s.Mpps)
	switch {
	case s.Failed != "":
		return "failed: " + s.Failed
	case s.Work.latency():
		text = fmt.Sprintf("p50 %.2f µs, p99 %.2f, p99.9 %.2f", s.P50, s.P99, s.P999)
	}
	if s.Discarded != "" {
		text += " (discarded: " + s.Discarded + ")"
	}
	return text
}

// buildGenerator compiles the generator for this processor.
func buildGenerator(ctx context.Context, path string) error {
	dir := "test/bench/generator"
	cmd := exec.CommandContext(ctx, "gcc", "-O3", "-march=native", "-pthread", "-o", path, filepath.Join(dir, "main.c"), filepath.Join(dir, "port.c"),
		filepath.Join(dir, "tap.c"), filepath.Join(dir, "copy.c"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling the generator: %w\n%s", err, out)
	}
	return nil
}
