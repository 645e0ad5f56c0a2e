package forward

import (
	"errors"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

const (
	edgeFrame = 60 // bytes of a frame
	edgeSize  = 64 // buffers of a ring
	// edgeLimit is how long the driver sleeps before it asks whether it was forgotten. A worker that was forgotten looks around once a second.
	edgeLimit = 200 // milliseconds
	// edgeStall is when it gives up, also if it was only that nobody had a processor for it.
	edgeStall = 20 * time.Second
	// edgeTime is the budget of a shape where no number of rounds is asked for.
	edgeTime = 2 * time.Second
	// edgeAim bounds how long the driver polls, in turns of a loop: a few microseconds.
	edgeAim = 20000
)

// TestEdgeOfSleep: a driver that kicks only when it is asked to, and sleeps on its call descriptor, sends to a worker that sleeps as soon as it may.
// One thread does both: it offers frames, asks to be called, looks once more, and sleeps until its buffers are back or the frames are there. No frame
// and no buffer is forgotten: nobody sleeps while there is something for him that he was not told of.
//
// VHOSTKIT_STRESS_ROUNDS sets the number of buffers in all; else it is as many as there is time for.
func TestEdgeOfSleep(t *testing.T) {
	buffers := 0
	if s := os.Getenv("VHOSTKIT_STRESS_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("VHOSTKIT_STRESS_ROUNDS=%q is not a number of buffers", s)
		}
		buffers = n
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // as the daemon has it
	for _, packed := range []bool{false, true} {
		for _, event := range []bool{false, true} {
			for _, pairs := range []int{2, 4} {
				t.Run(fmt.Sprintf("packed=%v/event=%v/pairs=%d", packed, event, pairs), func(t *testing.T) {
					newEdge(t, packed, event, pairs).run(t, buffers/8)
				})
			}
		}
	}
}

// edge is the driver of two devices, one of which sends to the other.
type edge struct {
	sw      *Switch
	w       *worker
	tx, rx  []*edgeRing // of the sender; of the receiver
	rnd     *rand.Rand
	fence   guestmem.Fence
	core    int  // of the driver, -1: any
	kicked  bool // in this round
	sending *edgeRing
	aim     [8]int // turns of a loop, by the number of buffers: how long to wait before asking to be called for them
	wakeups uint64 // of the worker, at the last kick
	kicks   int
	sleeps  int // in which the driver was called
	retried int // sleeps that the second look made needless
	sent    int // frames
	late    int // sleeps longer than the limit, for which only the machine is to blame
}

func newEdge(t *testing.T, packed, event bool, pairs int) *edge {
	f := rigFeatures
	if packed {
		f |= virtio.Bits(virtio.VIRTIO_F_RING_PACKED)
	}
	if event {
		f |= virtio.Bits(virtio.VIRTIO_F_EVENT_IDX)
	}
	cores := edgeCores(t)
	e := &edge{sw: startSwitch(t, Config{VM2VM: VM2VMSoftware, Cores: cores[:1]}), core: cores[1], rnd: rand.New(rand.NewPCG(7, 8))}
	e.w = e.sw.workers[0]
	var back []*edgeRing
	e.tx, _ = plugEdge(t, e.sw, pairs, f, 1)
	back, e.rx = plugEdge(t, e.sw, pairs, f, 2)
	// Each says where it is.
	for _, r := range []*edgeRing{e.tx[0], back[0]} {
		r.offer(edgeSize)
		kickNow(t, r.kick)
		waitFor(t, func() bool { r.collect(); return r.used == r.avail })
	}
	waitFor(t, func() bool { return len(e.sw.Addresses()) == 2 })
	e.rx[0].offer(e.rx[0].collect())
	return e
}

// edgeCores gives the worker and the driver a core each, if there are two: the races are between two that run. Else the kernel likes to run a driver on the
// core of the worker that called it. At the end of the test all threads may run anywhere again.
func edgeCores(t *testing.T) (cores []int) {
	t.Helper()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	for core := 0; core < 64*len(all) && len(cores) < 2; core++ {
		if all.IsSet(core) {
			cores = append(cores, core)
		}
	}
	if len(cores) < 2 {
		return []int{-1, -1}
	}
	t.Cleanup(func() {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Error(err)
		}
		for _, d := range threads {
			if id, err := strconv.Atoi(d.Name()); err == nil {
				_ = unix.SchedSetaffinity(id, &all) // one that has ended meanwhile does not matter
			}
		}
	})
	return cores
}

// plugEdge plugs in a device and gives its transmit and receive rings. Most of its frames go to the other device, some to everybody.
func plugEdge(t *testing.T, s *Switch, pairs int, f virtio.Features, address byte) (tx, rx []*edgeRing) {
	t.Helper()
	size := uint64(2*pairs) * edgeBytes
	fd, err := unix.MemfdCreate("edge", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, int64(size)); err != nil {
		t.Fatal(err)
	}
	m, err := guestmem.Map([]guestmem.RegionSpec{{Size: size, FD: fd}})
	if err != nil {
		t.Fatal(err)
	}
	var queues []*virtio.Queue
	for i := range pairs {
		in := newEdgeRing(t, m, uint64(2*i)*edgeBytes, edgeSize, true, f)
		out := newEdgeRing(t, m, uint64(2*i+1)*edgeBytes, edgeSize, false, f)
		for j := range edgeSize {
			frame := testFrame(3-address, address, edgeFrame, byte(j))
			if j%16 == 15 {
				copy(frame, everybody)
			}
			copy((out.desc + edgeData + ptr(j*rigBuffer+rigHeader)).Bytes(edgeFrame), frame)
		}
		in.offer(edgeSize)
		in.never()
		out.never()
		queues, tx, rx = append(queues, in.queue, out.queue), append(tx, out), append(rx, in)
	}
	p, err := s.AddPort(func(err error) { t.Errorf("the device was stopped: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	p.Update(queues, f, m)
	return tx, rx
}

func (e *edge) run(t *testing.T, buffers int) {
	begin, ended, done := time.Now(), make(chan error, 1), 0
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if e.core >= 0 {
			var set unix.CPUSet
			set.Set(e.core)
			_ = unix.SchedSetaffinity(0, &set)
		}
		for ; buffers > 0 && e.sent < buffers || buffers == 0 && (done%64 != 0 || time.Since(begin) < edgeTime); done++ {
			if err := e.round(); err != nil {
				ended <- fmt.Errorf("round %d, after %v: %w", done, time.Since(begin).Round(time.Millisecond), err)
				return
			}
		}
		ended <- nil
	}()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	slept := e.w.stats.sleeps.Load()
	t.Logf("%d rounds in %v, %d kicks; the worker slept %d times; the driver slept %d times (%d late), and saw at the second look %d times that it need not",
		done, time.Since(begin).Round(time.Millisecond), e.kicks, slept, e.sleeps, e.late, e.retried)
	if slept == 0 || e.sleeps == 0 || e.kicks == 0 {
		t.Error("nobody slept, so nothing was tested")
	}
}

// round sends some frames on one ring, and waits until all are there and all buffers are back.
func (e *edge) round() error {
	e.pause()
	i := e.rnd.IntN(len(e.tx))
	tx, rx := e.tx[i], e.rx[i]
	n := 1 + e.rnd.IntN(edgeSize)
	if e.rnd.IntN(2) == 0 {
		n = 1 + e.rnd.IntN(3)
	}
	e.sending, e.kicked = tx, false
	tx.offer(n)
	e.sent += n
	e.kick(tx)
	first, second := tx, rx
	if e.rnd.IntN(4) == 0 {
		first, second = rx, tx
	}
	if err := e.await(first, n); err != nil {
		return err
	}
	if err := e.await(second, n); err != nil {
		return err
	}
	rx.offer(n) // for receive buffers nobody is kicked
	return nil
}

// pause lets the worker come near its sleep now and then: it polls for 10 to 200 µs before (minSpin, maxSpin), less after a long sleep.
func (e *edge) pause() {
	limit := time.Duration(0)
	switch n := e.rnd.IntN(256); {
	case n == 0:
		limit = shortSleep + shortSleep/2
	case n < 16:
		limit = time.Duration(e.rnd.Int64N(int64(maxSpin + 50*time.Microsecond)))
	}
	for begin := time.Now(); limit > 0 && time.Since(begin) < limit; {
	}
}

func (e *edge) kick(tx *edgeRing) {
	wakeups := e.w.stats.wakeups.Load()
	e.fence.Full()
	if tx.kickDue() {
		e.kicks++
		e.kicked = true
		e.wakeups = wakeups
		_, _ = unix.Write(tx.kick, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// await takes n buffers that come back: it polls a little, asks for a call, looks again, and sleeps.
//
// The wish is to fall on the moment at which the worker returns the buffers. That is aimed at: where it came too late, the next one for as many buffers
// comes a little earlier, and the other way round.
func (e *edge) await(r *edgeRing, n int) error {
	end := r.used + uint16(n)
	if r.collect(); r.used == end {
		return nil
	}
	aim := &e.aim[bits.Len(uint(n))]
	for range *aim + e.rnd.IntN(*aim/4+100) {
	}
	if r.collect(); r.used == end {
		*aim -= *aim / 16
		return nil
	}
	if !e.kicked { // else the worker had to wake up first
		*aim = min(*aim+*aim/32+8, edgeAim)
	}
	for r.used != end {
		at := r.used // without event index every buffer makes the device call
		if r.event && e.rnd.IntN(4) > 0 {
			at = end - 1
		}
		r.want(at)
		e.fence.Full()
		if r.back(at) {
			e.retried++
		} else if err := e.sleep(r, at); err != nil {
			return err
		}
		r.never()
		r.collect()
	}
	return nil
}

// sleep waits for a call because of the buffer at a position.
func (e *edge) sleep(r *edgeRing, at uint16) error {
	e.sleeps++
	for begin := time.Now(); time.Since(begin) < edgeStall; {
		if called, err := r.called(edgeLimit); called || err != nil {
			return err
		}
		e.late++
		if err := e.forgotten(r, at); err != nil {
			return err
		}
	}
	return errors.New("nothing moves any more")
}

// forgotten tells whether a driver that has slept for long was forgotten, rather than that the worker was not given a processor: then a late answer
// proves nothing.
func (e *edge) forgotten(r *edgeRing, at uint16) error {
	if !r.back(at) {
		if e.sending.back(e.sending.avail-1) && !r.back(at) {
			return errors.New("the buffers are back and frames did not arrive")
		}
		if e.w.still.Load() && e.w.stats.wakeups.Load() != e.wakeups {
			return errors.New("the worker sleeps, there are frames for it, and it did not ask for a kick")
		}
		return nil
	}
	passed := e.w.stats.rounds.Load() + 2
	for begin := time.Now(); !e.w.still.Load() && e.w.stats.rounds.Load() < passed; time.Sleep(time.Millisecond) {
		if time.Since(begin) > edgeStall {
			return errors.New("the worker is stuck in a round")
		}
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(r.call), Events: unix.POLLIN}}, 0)
	if n == 0 && err == nil {
		return errors.New("the driver sleeps, its buffers are back, it asked for a call and was not called")
	}
	return err
}
