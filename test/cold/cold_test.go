package cold

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/control"
	"vhostkit/test/internal/proc"
)

var switchUnderTest = flag.String("switchd", "", "the switch to measure; default: this tree's")

var (
	islands = flag.Int("islands", 512, "into how many pieces the guests' resident memory is scattered: 1 to 512, a power of two")
	added   = flag.Duration("added", 20*time.Millisecond, "what starting guests may add to a running pair's longest pause")
)

// startSwitch starts a switch as a process of its own and gives its socket.
func startSwitch(t *testing.T) (socket string, client *control.Client) {
	t.Helper()
	dir := t.TempDir()
	binary := *switchUnderTest
	if binary == "" {
		binary = filepath.Join(dir, "switchd")
		if err := proc.Build(dir, "switchd"); err != nil {
			t.Fatal(err)
		}
	}
	socket = filepath.Join(dir, "vhost.sock")
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "--control", filepath.Join(dir, "control.sock"), "--state-dir", dir, "--socket-dir", filepath.Join(dir, "ports"),
		"--socket-file", socket)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("switchd's log ends:\n%s", b[max(0, len(b)-4000):])
		}
		log.Close()
	})
	client = control.NewClient(filepath.Join(dir, "control.sock"))
	until(t, 10*time.Second, "switchd answers", func() bool {
		_, err := client.Version(context.Background())
		return err == nil
	})
	return socket, client
}

func until(t *testing.T, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
	}
}

// pauses is what a pair of guests that has been running has seen.
type pauses struct {
	longest  time.Duration // a frame was under way, without the time in which the measuring thread itself did not run
	own      time.Duration // the longest that it did not run
	lost     int
	received int
}

// watch has a pair exchange 2,000 frames a second for a while, from one thread, so that what the machine takes away from the measurement is
// known: the time between two looks.
func watch(from, to *guest, d time.Duration) (p pauses) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const every, look = 500 * time.Microsecond, 100 * time.Microsecond
	sent, stalled := map[uint64]time.Time{}, map[uint64]time.Duration{}
	begin := time.Now()
	last, next, number, absent := begin, begin, uint64(time.Now().UnixNano()), time.Duration(0)
	for last.Sub(begin) < d {
		ts := unix.NsecToTimespec(int64(look))
		_ = unix.Nanosleep(&ts, nil)
		now := time.Now()
		if gap := now.Sub(last); gap > time.Millisecond {
			absent += gap
			p.own = max(p.own, gap)
		}
		last = now
		for n, ok := to.receive(); ok; n, ok = to.receive() {
			if at, ours := sent[n]; ours {
				p.longest = max(p.longest, now.Sub(at)-(absent-stalled[n]))
				p.received++
				delete(sent, n)
				delete(stalled, n)
			}
		}
		for range 4 { // catch up, but not with a burst
			if now.Before(next) || !from.send(to.address, number) {
				break
			}
			sent[number], stalled[number] = now, absent
			number, next = number+1, next.Add(every)
		}
		if now.After(next) {
			next = now
		}
	}
	for n, at := range sent {
		if wait := last.Sub(at) - (absent - stalled[n]); wait > 50*time.Millisecond {
			p.lost++
		}
	}
	return p
}

// crowd is guests that start together and then exchange 1,000 frames a second in pairs.
type crowd struct {
	guests []*guest
	socket string
}

// run starts them and keeps their frames going for a while. ready is how long the slowest took until all its requests were acknowledged.
func (c *crowd) run(t *testing.T, d time.Duration) (ready time.Duration) {
	begin := time.Now()
	var all sync.WaitGroup
	var mu sync.Mutex
	for _, g := range c.guests {
		all.Add(1)
		go func() {
			defer all.Done()
			if err := g.start(c.socket); err != nil {
				t.Errorf("starting a guest: %v", err)
			}
			mu.Lock()
			ready = max(ready, time.Since(begin))
			mu.Unlock()
		}()
	}
	all.Wait()
	for next := time.Now(); time.Since(begin) < d; next = next.Add(time.Millisecond) {
		for i := 0; i+1 < len(c.guests); i += 2 {
			a, b := c.guests[i], c.guests[i+1]
			a.send(b.address, 0)
			b.send(a.address, 0)
			for _, g := range []*guest{a, b} {
				for _, ok := g.receive(); ok; _, ok = g.receive() {
				}
			}
		}
		time.Sleep(time.Until(next))
	}
	return ready
}

// disconnect stops them all at once and waits until the switch has none of them any more.
func (c *crowd) disconnect(t *testing.T, client *control.Client) {
	for _, g := range c.guests {
		g.disconnect()
	}
	until(t, 20*time.Second, "the guests are gone", func() bool {
		ports, err := client.Ports(context.Background())
		return err == nil && len(ports) <= 2
	})
}

func makeGuests(t *testing.T, n, size, resident, islands, flags int) (list []*guest) {
	t.Helper()
	for i := range n {
		g, err := newGuest(i, size, resident, islands, flags)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(g.close)
		list = append(list, g)
	}
	return list
}

func median(d []time.Duration) time.Duration {
	d = slices.Clone(d)
	slices.Sort(d)
	return d[len(d)/2]
}

// TestStartsDoNotPauseOthers: 62 guests of 1 GiB, of which 128 MiB are resident, start beside a running pair, exchange frames, and stop. The pair
// loses nothing, and its longest pause grows by no more than the limit. Each buffer lies in a page table of its own, which is the worst case.
func TestStartsDoNotPauseOthers(t *testing.T) {
	const guests, size, resident, window = 62, 1 << 30, 128 << 20, 2 * time.Second
	socket, client := startSwitch(t)
	pair := makeGuests(t, 2, 64<<20, 32<<20, 1, 0)
	for _, g := range pair {
		g.address[3] = 8
		if err := g.start(socket); err != nil {
			t.Fatal(err)
		}
	}
	c := &crowd{guests: makeGuests(t, guests, size, resident, *islands, 0), socket: socket}
	pair[1].send(pair[0].address, 0)
	watch(pair[0], pair[1], time.Second) // every buffer once
	starts, stops := verdict{what: "start"}, verdict{what: "stop"}
	for try := 0; try < tries && min(len(starts.undisturbed), len(stops.undisturbed)) < wanted; try++ {
		quiet := watch(pair[0], pair[1], window)
		started := make(chan time.Duration)
		go func() { started <- c.run(t, window) }()
		busy := watch(pair[0], pair[1], window+200*time.Millisecond)
		ready := <-started
		stopped := make(chan struct{})
		go func() { c.disconnect(t, client); close(stopped) }()
		leaving := watch(pair[0], pair[1], window)
		<-stopped
		starts.add(quiet, busy)
		stops.add(quiet, leaving)
		t.Logf("longest pause %v before, %v while they start, %v while they stop (the measuring thread's own: %v, %v, %v); "+
			"%d, %d and %d frames; ready after %v", quiet.longest, busy.longest, leaving.longest, quiet.own, busy.own, leaving.own,
			quiet.received, busy.received, leaving.received, ready)
		if lost := quiet.lost + busy.lost + leaving.lost; lost > 0 {
			t.Errorf("%d frames were lost", lost)
		}
	}
	starts.judge(t)
	stops.judge(t)
}

// A repetition counts if the machine let the measuring thread run. Where it hardly does, because others use it, all count, and only what
// was far too much is an error.
const wanted, tries, stall, coarse = 3, 8, 15 * time.Millisecond, 250 * time.Millisecond

// verdict is what something added to a pair's longest pause.
type verdict struct {
	what             string
	undisturbed, all []time.Duration
}

func (v *verdict) add(quiet, busy pauses) {
	more := busy.longest - quiet.longest
	v.all = append(v.all, more)
	if max(quiet.own, busy.own) < stall {
		v.undisturbed = append(v.undisturbed, more)
	}
}

func (v *verdict) judge(t *testing.T) {
	t.Helper()
	list, limit := v.undisturbed, *added
	if len(list) < wanted {
		t.Logf("the machine was too busy: only %d of %d repetitions were undisturbed", len(list), len(v.all))
		list, limit = v.all, max(limit, coarse)
	}
	if m := median(list); m > limit {
		t.Errorf("the %s adds %v to the longest pause (median of %v), want at most %v", v.what, m, list, limit)
	}
}

// TestReadyWhateverTheSize: a guest is READY within 300 ms of its connection, its first frame included, also where all of its memory is resident
// and takes longer than that to be mapped.
func TestReadyWhateverTheSize(t *testing.T) {
	socket, client := startSwitch(t)
	for name, c := range map[string]struct{ size, flags int }{
		"4KiB pages": {4 << 30, 0},
		"2MiB pages": {128 << 20, unix.MFD_HUGETLB | unix.MFD_HUGE_2MB},
	} {
		t.Run(name, func(t *testing.T) {
			if c.flags != 0 {
				reserveHuge(t, c.size>>21)
			}
			g := makeGuests(t, 1, c.size, c.size, 1, c.flags)[0]
			var took []time.Duration
			for range 5 {
				begin := time.Now()
				if err := g.start(socket); err != nil {
					t.Fatal(err)
				}
				g.send([6]byte{2, 0, 0, 0xe, 0, 0}, 0)
				until(t, 10*time.Second, "the guest is READY", func() bool {
					ports, err := client.Ports(context.Background())
					return err == nil && len(ports) == 1 && ports[0].State == control.StateReady
				})
				took = append(took, time.Since(begin))
				g.disconnect()
				until(t, 10*time.Second, "the guest is gone", func() bool {
					ports, err := client.Ports(context.Background())
					return err == nil && len(ports) == 0
				})
			}
			t.Logf("READY after %v", took)
			if m := median(took); m > 300*time.Millisecond {
				t.Errorf("READY after %v (median of %v), want at most 300ms", m, took)
			}
		})
	}
}

// reserveHuge has the kernel keep that many pages of 2 MiB more, until the test ends.
func reserveHuge(t *testing.T, pages int) {
	t.Helper()
	const path = "/sys/kernel/mm/hugepages/hugepages-2048kB/"
	read := func(name string) (n int) {
		b, err := os.ReadFile(path + name)
		if err == nil {
			n, _ = strconv.Atoi(strings.TrimSpace(string(b)))
		}
		return n
	}
	if read("free_hugepages") >= pages {
		return
	}
	before := read("nr_hugepages")
	t.Cleanup(func() { _ = os.WriteFile(path+"nr_hugepages", []byte(strconv.Itoa(before)), 0) })
	if os.WriteFile(path+"nr_hugepages", []byte(strconv.Itoa(before+pages)), 0) != nil || read("free_hugepages") < pages {
		if os.Getenv("CI") == "true" {
			t.Fatal("no hugepages can be had on this machine")
		}
		t.Skip("no hugepages can be had on this machine")
	}
}
