package attacks

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/control"
	"vhostkit/test/frontend"
)

type mac [6]byte

var broadcast = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// address makes a local address out of a number.
func address(n int) mac { return mac{2, 0, 0, 1, byte(n >> 8), byte(n)} }

// frame makes a frame of an experimental EtherType.
func frame(to, from mac, size int) []byte {
	f := make([]byte, size)
	copy(f, to[:])
	copy(f[6:], from[:])
	f[12], f[13] = 0x88, 0xb5
	return f
}

// pair is two innocent guests that talk: from sends paced frames, to receives them. Their rings hold what is under way for 25 ms.
type pair struct {
	from, to *frontend.Device
	a, b     mac
	run      uint32
	out      int // frames in from's ring
	d        *daemon
}

const pairRing = 512

// newPair connects two guests of a user's, each by a socket of its own or both by the same, and makes them known.
func newPair(t testing.TB, d *daemon, uid int) *pair {
	t.Helper()
	p := &pair{a: address(0xa0), b: address(0xb0), d: d}
	for _, device := range []**frontend.Device{&p.from, &p.to} {
		dev, err := dial(uid, frontend.Config{Socket: d.socket, RingSize: pairRing})
		if err != nil {
			t.Fatalf("an innocent guest does not get on: %v", err)
		}
		t.Cleanup(dev.Close)
		*device = dev
	}
	if err := errors.Join(p.to.Send(0, frame(address(0xee), p.b, 60)), p.from.Send(0, frame(address(0xee), p.a, 60))); err != nil {
		t.Fatal(err)
	}
	p.out = 1
	eventually(t, 5*time.Second, "the innocent guests reach each other", func() bool { return p.traffic(5*time.Millisecond, 1000, true).kept > 0 })
	return p
}

// tally is what became of a pair's frames.
type tally struct {
	offered, kept int
	gap           time.Duration // the longest time without a frame
	disorder      int           // frames that came twice, or behind a later one
}

func (y tally) share() float64 { return float64(y.kept) / float64(max(1, y.offered)) }

func (y tally) String() string {
	return fmt.Sprintf("%d of %d frames kept (%.1f %%), longest gap %v", y.kept, y.offered, 100*y.share(), y.gap.Round(100*time.Microsecond))
}

// traffic sends rate frames a second for a while and receives them; what is 300 ms late is lost. The sender offers a burst each millisecond, as a
// guest does: what finds no room in its ring is lost, unless it is to wait. It makes up for none of its own pauses.
func (p *pair) traffic(while time.Duration, rate int, wait bool) (y tally) {
	runtime.LockOSThread() // and before others: it is the switch that is looked at
	defer runtime.UnlockOSThread()
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), -15)
	defer func() { _ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), 0) }()
	p.run++
	f := frame(p.b, p.a, 100)
	binary.BigEndian.PutUint32(f[14:], p.run)
	const tick = time.Millisecond
	begin := time.Now()
	end, next, last, seq := begin.Add(while), begin, begin, int64(-1)
	burst := max(1, rate/1000)
	for now := begin; now.Before(end.Add(300*time.Millisecond)) && (now.Before(end) || y.kept < y.offered); now = time.Now() {
		if now.Before(end) && !now.Before(next) {
			if next = next.Add(tick); now.After(next) {
				next = now.Add(tick)
			}
			p.out -= p.from.Reclaim(0)
			for range burst {
				binary.BigEndian.PutUint64(f[18:], uint64(y.offered))
				y.offered++
				if p.out == pairRing && !wait {
					continue
				}
				if p.from.Send(0, f) != nil {
					return y
				}
				if p.out++; p.out > pairRing {
					p.out = pairRing
				}
			}
		}
		idle := true
		for range 64 { // of a flood, too: then the sender has its turn
			got, err := p.to.Receive(0, 0)
			if err != nil {
				break
			}
			idle = false
			if len(got) != len(f) || mac(got[6:12]) != p.a || binary.BigEndian.Uint32(got[14:]) != p.run {
				continue
			}
			if n := int64(binary.BigEndian.Uint64(got[18:])); n <= seq {
				y.disorder++
			} else {
				seq = n
			}
			y.kept++
			y.gap, last = max(y.gap, time.Since(last)), time.Now()
		}
		for range 64 {
			if _, err := p.from.Receive(0, 0); err != nil {
				break
			}
			idle = false
		}
		if idle {
			_ = unix.Nanosleep(&unix.Timespec{Nsec: 50_000}, nil)
		}
	}
	if y.kept < y.offered {
		y.gap = max(y.gap, time.Since(last)-300*time.Millisecond)
	}
	return y
}

// pace finds how many frames a second this machine carries without an attack and without any loss, 20,000 at most.
func (p *pair) pace(t testing.TB) int {
	t.Helper()
	var y tally
	for rate := 20000; rate >= 2500; rate /= 2 {
		for range 2 {
			if y = p.traffic(300*time.Millisecond, rate, false); y.kept == y.offered {
				return rate
			}
		}
	}
	t.Fatalf("without an attack an innocent pair loses frames: %v", y)
	return 0
}

// keepsTalking wants that nothing at all is lost, with a sender that waits for room.
func (p *pair) keepsTalking(t testing.TB, when string) {
	t.Helper()
	before := p.drops()
	if y := p.traffic(200*time.Millisecond, 2000, true); y.kept != y.offered || y.disorder != 0 {
		t.Errorf("%s the innocent pair lost frames: %v, %d in disorder; drops before: %s, now: %s", when, y, y.disorder, before, p.drops())
	}
}

// drops tells what the switch counts at the pair's ports.
func (p *pair) drops() string {
	ports, err := p.d.client.Ports(context.Background())
	if err != nil {
		return err.Error()
	}
	var list []string
	for _, port := range ports {
		for i, m := range []mac{p.a, p.b} {
			if len(port.Queues) > 0 && slices.Contains(port.MACs, net.HardwareAddr(m[:]).String()) {
				q := port.Queues[0]
				list = append(list, fmt.Sprintf("%s sent %d, lost %v; got %d, lost %v", []string{"a", "b"}[i], q.TX.Packets, q.TX.Drops, q.RX.Packets, q.RX.Drops))
			}
		}
	}
	return strings.Join(list, "; ")
}

// goesOn checks what must hold after any attack: the process is the same and answers, a new guest gets on and is heard, the counters add up.
func (d *daemon) goesOn(t testing.TB) {
	t.Helper()
	if d.dead() {
		out := d.out.String()
		for _, sign := range []string{"fatal error", "unexpected fault", "panic:"} {
			if i := strings.Index(out, sign); i >= 0 {
				t.Fatalf("switchd is dead (%v): %.160q", d.cmd.ProcessState, out[i:])
			}
		}
		t.Fatalf("switchd is dead (%v)", d.cmd.ProcessState)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	if v, err := d.client.Version(ctx); err != nil || v.PID != d.pid() {
		t.Errorf("the control socket: %+v, %v", v, err)
	}
	d.admits(t, innocent)
	d.addsUp(t)
}

// admits wants two new guests of a user's to get on and to reach each other.
func (d *daemon) admits(t testing.TB, uid int) {
	t.Helper()
	one, err := newTiny(uid, d.socket)
	if err != nil {
		t.Errorf("a new guest of user %d does not get on: %v", uid, err)
		return
	}
	defer one.close()
	two, err := newTiny(uid, d.socket)
	if err != nil {
		t.Errorf("a second new guest of user %d does not get on: %v", uid, err)
		return
	}
	defer two.close()
	a, b := address(0xfff0), address(0xfff1)
	two.send(frame(address(0xee), b, 60))
	for end := time.Now().Add(3 * time.Second); ; {
		one.send(frame(b, a, 60))
		if got := two.receive(20 * time.Millisecond); got != nil && mac(got[6:12]) == a {
			return
		}
		if time.Now().After(end) {
			t.Errorf("new guests of user %d do not reach each other", uid)
			return
		}
	}
}

// used is how much of a budget is taken; 0 where the switch has none.
func (d *daemon) used(t testing.TB, resource string) uint64 {
	t.Helper()
	s, err := d.client.Stats(context.Background())
	if err != nil {
		t.Fatalf("statistics: %v", err)
	}
	for _, b := range s.Budgets {
		if b.Resource == resource {
			return b.Used
		}
	}
	return 0
}

// addsUp checks the three equations of control.QueueStats, once nothing moves any more.
func (d *daemon) addsUp(t testing.TB) {
	t.Helper()
	var wrong []string
	for end := time.Now().Add(3 * time.Second); ; time.Sleep(20 * time.Millisecond) { // frames may still be under way
		s, err := d.client.Stats(context.Background())
		if err != nil {
			t.Errorf("statistics: %v", err)
			return
		}
		if wrong = unbalanced(s); len(wrong) == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	t.Errorf("counters do not add up: %s", strings.Join(wrong[:min(3, len(wrong))], "; "))
}

func unbalanced(s control.Stats) (wrong []string) {
	sent := []control.QueueStats{s.Gone.TX, s.Own, s.Uplink.RX}
	received := s.Gone.RX.Packets + s.Uplink.TX.Packets
	where := []string{"ports that have gone", "the switch's own", "uplink"}
	for _, p := range s.Ports {
		for _, q := range p.Queues {
			sent, where = append(sent, q.TX), append(where, fmt.Sprintf("port %d pair %d", p.ID, q.Pair))
			received += q.RX.Packets
		}
	}
	came := uint64(0)
	for i, q := range sent {
		reasons := uint64(0)
		for _, n := range q.Drops {
			reasons += n
		}
		if q.Packets != q.Delivered+reasons || q.Dropped != reasons {
			wrong = append(wrong, fmt.Sprintf("%s: %d received, %d delivered, %d dropped %v", where[i], q.Packets, q.Delivered, q.Dropped, q.Drops))
		}
		came += q.Delivered + q.Copies
	}
	if came != received && len(s.Budgets) > 0 { // switches without budgets forget the ports that have gone
		wrong = append(wrong, fmt.Sprintf("the senders' delivered and copies are %d, the receivers have %d", came, received))
	}
	return wrong
}

// memfd makes a sparse memory file.
func memfd(t testing.TB, size int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("attack", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, size)
	}
	if err != nil {
		t.Fatal(os.NewSyscallError("memfd", err))
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}
