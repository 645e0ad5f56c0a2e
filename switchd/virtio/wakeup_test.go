package virtio

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// TestNoLostWakeUps lets a driver and a device pass buffers to each other, both of which sleep as soon as they may. If one of them misses
// that it should wake the other, both sleep for ever. VHOSTKIT_STRESS_ROUNDS sets the number of buffers, 1 million by default.
func TestNoLostWakeUps(t *testing.T) {
	rounds := 1_000_000
	if s := os.Getenv("VHOSTKIT_STRESS_ROUNDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			t.Fatalf("VHOSTKIT_STRESS_ROUNDS=%q is not a number of buffers", s)
		}
		rounds = n
	}
	for _, packed := range []bool{false, true} {
		for _, event := range []bool{false, true} {
			t.Run(fmt.Sprintf("packed=%v/event=%v", packed, event), func(t *testing.T) {
				s := newStress(t, packed, event, rounds/4)
				s.run(t)
			})
		}
	}
}

// stress is a driver and a device, one goroutine each.
type stress struct {
	q              *Queue
	m              *model
	rounds         int
	kick, call     chan struct{} // as eventfds: one token is as good as many
	stop           chan struct{}
	passed         atomic.Int64 // buffers that came back
	kicks, sleeps  atomic.Int64
	waits, retried atomic.Int64
	spun           int
}

func newStress(t *testing.T, packed, event bool, rounds int) *stress {
	f, state := Bits(VIRTIO_F_VERSION_1), State{}
	if packed {
		f, state.AvailWrap = f|Bits(VIRTIO_F_RING_PACKED), true
	}
	if event {
		f |= Bits(VIRTIO_F_EVENT_IDX)
	}
	w, size := newWorld(t), 16
	return &stress{
		m: newModel(w, rand.New(rand.NewPCG(3, 4)), size, f, false, state), q: w.queue(t, size, f, false, state), rounds: rounds,
		kick: make(chan struct{}, 1), call: make(chan struct{}, 1), stop: make(chan struct{}),
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (s *stress) run(t *testing.T) {
	s.q.Start()
	ended := make(chan error, 2)
	go func() { ended <- s.device() }()
	go func() { ended <- s.driver() }()
	watch := time.NewTicker(10 * time.Second)
	defer watch.Stop()
	last := int64(-1)
	for running := 2; running > 0; {
		select {
		case err := <-ended:
			running--
			if err != nil {
				t.Error(err)
				close(s.stop)
				<-ended
				return
			}
		case <-watch.C:
			if n := s.passed.Load(); n == last {
				t.Errorf("a wake-up was lost: nothing moves after %d of %d buffers, %d kicks", n, s.rounds, s.kicks.Load())
				close(s.stop)
				<-ended
				if running == 2 {
					<-ended
				}
				return
			} else {
				last = n
			}
		}
	}
	t.Logf("%d buffers, %d kicks; the device slept %d times, the driver %d times", s.passed.Load(), s.kicks.Load(), s.sleeps.Load(),
		s.waits.Load())
	if s.sleeps.Load() == 0 || s.waits.Load() == 0 {
		t.Error("nobody slept, so nothing was tested")
	}
}

// device does what a worker does: poll a little, ask for kicks, look again, sleep.
func (s *stress) device() error {
	var fence guestmem.Fence
	b := &Burst{}
	rnd, patience := rand.New(rand.NewPCG(1, 2)), 0
	for done, idle := 0, 0; done < s.rounds; {
		b.Reset(s.q)
		n, err := s.q.Fetch(b, BurstSize)
		if err != nil {
			return err
		}
		s.q.Complete(b, n)
		if s.q.needsCall(&fence) {
			wake(s.call)
		}
		if done += n; n > 0 {
			idle = 0
			continue
		}
		if idle++; idle < patience {
			continue
		}
		patience = rnd.IntN(8)
		if rnd.IntN(2) == 0 {
			patience = 1000 // still awake when the next buffer comes: the races are between two that run
		}
		s.q.WantKicks(true)
		fence.Full()
		if !s.q.Available() {
			s.sleeps.Add(1)
			select {
			case <-s.kick:
			case <-s.stop:
				return nil
			}
		}
		s.q.WantKicks(false)
		idle = 0
	}
	return nil
}

// driver offers a few buffers, kicks if the device wants it, and waits for some of them.
func (s *stress) driver() error {
	never := callWish{never: true, event: s.m.seen}
	s.m.wish(never)
	rnd := rand.New(rand.NewPCG(5, 6))
	offered, back, spin := 0, 0, 0
	collect := func() int {
		list, _ := s.m.collect()
		back += len(list)
		s.passed.Store(int64(back))
		return len(list)
	}
	for back < s.rounds {
		for range 1 + rnd.IntN(3) {
			if offered < s.rounds && s.m.offer() != nil {
				offered++
			}
		}
		if s.m.kickDue() {
			s.kicks.Add(1)
			wake(s.kick)
		}
		for polls := rnd.IntN(4); polls > 0 && collect() == 0; polls-- {
		}
		if offered == back || offered < s.rounds && rnd.IntN(4) == 0 {
			continue
		}
		for range rnd.IntN(200) { // so that the wish falls on any moment of the device's work
			spin++
		}
		// Ask to be called for the next one, or for one a little later that is with the device, and look again before sleeping.
		s.m.wish(callWish{always: !s.m.event, event: s.m.seen})
		if collect() > 0 {
			s.retried.Add(1)
		} else {
			s.waits.Add(1)
			select {
			case <-s.call:
			case <-s.stop:
				return nil
			}
			collect()
		}
		never.event = spot{s.m.seen.at - 1, s.m.seen.wrap}
		if s.m.packed && s.m.seen.at == 0 {
			never.event = spot{uint16(s.m.size - 1), !s.m.seen.wrap}
		}
		s.m.wish(never)
	}
	s.spun = spin
	return nil
}

// TestCall: the driver's eventfd counts, and one whose counter is full does not block the switch.
func TestCall(t *testing.T) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	r := newRig(t, 16)
	config := Config{Size: 16, Desc: r.base, Driver: r.base + rigDriver, Device: r.base + rigDevice, Memory: r.memory, Kick: 7, Call: fd}
	q, err := NewQueue(config)
	if err != nil {
		t.Fatal(err)
	}
	if q.CallFD() != fd || q.KickFD() != 7 {
		t.Errorf("descriptors %d and %d", q.CallFD(), q.KickFD())
	}
	q.Call()
	q.Call()
	var count [8]byte
	if _, err := unix.Read(fd, count[:]); err != nil || count != [8]byte{2} {
		t.Errorf("the counter is %v after two calls, %v", count, err)
	}
	full := [8]byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	if _, err := unix.Write(fd, full[:]); err != nil {
		t.Fatal(err)
	}
	q.Call() // must return
	if _, err := unix.Read(fd, count[:]); err != nil || count != full {
		t.Errorf("the full counter is %v, %v", count, err)
	}

	config.Call = -1 // the driver wants calls and has nothing to be called by
	if q, err = NewQueue(config); err != nil {
		t.Fatal(err)
	}
	d := &splitDriver{rig: r}
	d.offer(0, []int{1}, false)
	var b Burst
	b.Reset(q)
	if _, err := q.Fetch(&b, 1); err != nil {
		t.Fatal(err)
	}
	q.Complete(&b, 1)
	if q.needsCall(&guestmem.Fence{}) {
		t.Error("a call is due to nobody")
	}
}
