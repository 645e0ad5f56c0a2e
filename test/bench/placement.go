package main

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A virtual machine's processors are threads of its host, which puts them where it likes whenever they have slept: now as two threads of one
// core, now as two cores that share a cache, now as far apart as the host is wide. A switch and its generator pass cache lines to each other all
// the time, so that the same binaries are three times as fast in one place as in the other. Therefore the way between the two cores is measured
// before and after each sample, and only samples from the same kind of place are compared. Where the cores stay put (bare metal), nothing of this
// matters.

// siblingsBelow is the round trip of a cache line, in nanoseconds, below which two cores are threads of one.
const siblingsBelow = 70

// placement is the kind of place that samples are taken in: the round trip of a cache line between the two cores, in nanoseconds.
type placement struct {
	Low  float64 `json:"low_ns"`
	High float64 `json:"high_ns"` // 0: any
}

func (p placement) holds(roundTrip float64) bool {
	return p.High == 0 || p.Low <= roundTrip && roundTrip <= p.High
}

func (p placement) String() string {
	if p.High == 0 {
		return "any"
	}
	return fmt.Sprintf("%.0f–%.0f ns", p.Low, p.High)
}

// around is the kind of place that the round trip is typical of.
func around(roundTrip float64) placement {
	return placement{Low: roundTrip * 0.6, High: roundTrip * 2.2}
}

// choose picks a kind of place from what a survey has found: the nearest or the farthest that is not two threads of one core.
func choose(wanted string, survey []float64) (placement, error) {
	apart := slices.DeleteFunc(slices.Clone(survey), func(d float64) bool { return d < siblingsBelow })
	if wanted == "any" || len(apart) == 0 {
		return placement{}, nil
	}
	slices.Sort(apart)
	switch wanted {
	case "near":
		return around(apart[0]), nil
	case "far":
		p := around(apart[len(apart)-1])
		p.Low = p.High / 3
		return p, nil
	}
	return placement{}, fmt.Errorf("-placement %q: want near, far or any", wanted)
}

// wire is what the two threads of a probe pass to and fro, each word in lines of its own.
type wire struct {
	_    [128]byte
	ping atomic.Int64
	_    [120]byte
	pong atomic.Int64
	_    [120]byte
}

const (
	probeTrips  = 4000
	probeChunks = 5
)

// roundTrip is the time that a cache line takes from one core to the other and back, in nanoseconds: the median of a few looks.
func roundTrip(a, b int) float64 {
	var w wire
	go func() {
		defer pinned(b)()
		for i := range int64(probeTrips * probeChunks) {
			for w.ping.Load() <= i {
			}
			w.pong.Store(i + 1)
		}
	}()
	defer pinned(a)()
	var took []float64
	for chunk := range int64(probeChunks) {
		start := time.Now()
		for i := chunk * probeTrips; i < (chunk+1)*probeTrips; i++ {
			w.ping.Store(i + 1)
			for w.pong.Load() <= i {
			}
		}
		took = append(took, float64(time.Since(start).Nanoseconds())/probeTrips)
	}
	return median(took)
}

// pinned keeps the goroutine's thread on a core until the function that it returns is called. The thread must not end: the programs that it has
// started would end with it (PR_SET_PDEATHSIG).
func pinned(core int) func() {
	runtime.LockOSThread()
	var before, set unix.CPUSet
	_ = unix.SchedGetaffinity(0, &before)
	set.Set(core)
	_ = unix.SchedSetaffinity(0, &set)
	return func() {
		_ = unix.SchedSetaffinity(0, &before)
		runtime.UnlockOSThread()
	}
}

// waker keeps the cores from sleeping between the probe and the sample, so that their host has no reason to move them. It runs at the lowest
// priority, and not at all while something is measured.
type waker struct {
	cores [2]int
	off   atomic.Bool
	done  chan struct{}
}

func startWaker(cores [2]int) *waker {
	w := &waker{cores: cores, done: make(chan struct{}, 2)}
	for _, core := range cores {
		go func() {
			defer func() { w.done <- struct{}{} }()
			defer pinned(core)()
			_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}, 0)
			defer func() {
				_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}, 0)
			}()
			for n := 0; !w.off.Load(); n++ {
				if n&0xfff == 0 {
					runtime.Gosched()
				}
			}
		}()
	}
	return w
}

// stop may be called again.
func (w *waker) stop() {
	if w.off.Swap(true) {
		return
	}
	<-w.done
	<-w.done
}

// placementTries is how often the host gets a chance to put the cores where they are wanted.
const placementTries = 60

// place waits until the two cores are where samples are to be taken, and tells the round trip. A core that has slept is put somewhere by the
// host anew.
func (r *rig) place(ctx context.Context, tries int) float64 {
	for try := 0; ; try++ {
		if d := roundTrip(r.genCore, r.swCore); r.placement.holds(d) || try >= tries || ctx.Err() != nil {
			return d
		}
		time.Sleep(time.Duration(20+30*(try%8)) * time.Millisecond)
	}
}

// survey looks where the host puts the two cores.
func (r *rig) survey(ctx context.Context, looks int) (found []float64) {
	for i := range looks {
		if ctx.Err() != nil {
			break
		}
		found = append(found, roundTrip(r.genCore, r.swCore))
		if i > 8 && slices.Max(found) < 1.3*slices.Min(found) && !virtual() {
			break // they stay where they are
		}
		time.Sleep(time.Duration(20+30*(i%8)) * time.Millisecond)
	}
	return found
}

// virtual tells whether this is a virtual machine.
func virtual() bool {
	data, _ := os.ReadFile("/proc/cpuinfo")
	return slices.Contains(strings.Fields(string(data)), "hypervisor")
}
