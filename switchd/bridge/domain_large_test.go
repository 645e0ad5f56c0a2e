package bridge

import (
	"math/rand/v2"
	"testing"
	"time"

	"vhostkit/switchd/ether"
)

// manyPorts is how many ports the switch may have (forward.MaxPorts).
const manyPorts = 3095

// address makes a local address out of two numbers.
func address(port, i int) ether.MAC { return ether.MAC(0x020000000000 + port<<16 + i) }

// largeTable is a domain as large as a switch has it by default: all ports at their limit of 64 addresses, which are as old as the switch.
func largeTable(tb testing.TB) *Domain {
	tb.Helper()
	f := NewDomain(Config{})
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range 64 * manyPorts {
		f.insert(ether.MAC(0x020000000000+i), Destination(i/64), 1)
	}
	return f
}

// consistent wants table and lists to say the same, and as much as is counted.
func consistent(t *testing.T, f *Domain) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	used, live, table := 0, 0, f.table.Load()
	for i := range table.slots {
		switch word := table.slots[i].Load(); {
		case word == slotEmpty:
		case word == slotRemoved:
			used++
		default:
			used++
			live++
		}
	}
	listed := 0
	for port := range f.ports {
		list := f.ports[port].addresses
		listed += len(list)
		for i := range list {
			if got := table.Find(list[i].mac); got != Destination(port) {
				t.Fatalf("%v of port %d is found at %d", list[i].mac, port, got)
			}
		}
	}
	if used != table.used || live != f.live || listed != f.live || 2*used > len(table.slots) {
		t.Fatalf("%d slots of %d used, %d counted; %d addresses in them, %d listed, %d counted", used, len(table.slots), table.used, live, listed, f.live)
	}
}

// TestReplacingLooksAtOwnAddresses: a port at its limit that changes its addresses costs what its own addresses cost, whatever the others have.
func TestReplacingLooksAtOwnAddresses(t *testing.T) {
	f := largeTable(t)
	f.Join(0, nil)
	const changes = 50_000
	start := time.Now()
	for i := range changes {
		if outcome, _ := f.Learn(ether.MAC(0x02ff00000000+i), 0, 64, uint32(100+i)); outcome != Learned {
			t.Fatalf("change %d: outcome %v", i, outcome)
		}
		if i%1000 == 0 && len(f.of(0)) != 64 {
			t.Fatalf("change %d: the port has %d addresses, want 64", i, len(f.of(0)))
		}
	}
	took := time.Since(start)
	t.Logf("%v for a change with %d addresses", took/changes, f.live)
	if took > 10*time.Second { // 50 s if each looked at all addresses
		t.Errorf("%d changes took %v", changes, took)
	}
	consistent(t, f)
	f.Leave(0)
	if n := len(f.of(0)); n != 0 || f.live != 64*(manyPorts-1) {
		t.Errorf("%d addresses are left, %d in all", n, f.live)
	}
}

// TestGrowingLittleByLittle: a table that fills up is replaced by a larger one while addresses come and go, and no insertion moves many.
func TestGrowingLittleByLittle(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	f, now := NewDomain(Config{}), uint32(1)
	growing := 0
	for i := range 60_000 {
		mac, port := ether.MAC(0x020000000000+i), Destination(rng.Uint32N(200))
		if i%7 == 0 {
			port = 3 // has thousands
		}
		before := 0
		if f.next != nil {
			growing++
			before = f.next.used
		}
		f.insert(mac, port, now)
		if f.next != nil && before > 0 && f.next.used > before+movedPerInsert+1 {
			t.Fatalf("step %d moved %d addresses", i, f.next.used-before)
		}
		if i%3 == 0 {
			if victim := Destination(rng.Uint32N(200)); len(f.of(victim)) > 0 {
				f.remove(victim, int(rng.Uint32N(uint32(len(f.of(victim))))))
			}
		}
		if i%1000 == 0 {
			now++
			f.table.Load().Refresh(mac, port)
			f.Step(now)
			consistent(t, f)
			if age := f.age(&entry{mac: mac, seen: f.seen(t, mac, port)}, now+5); age != 5 {
				t.Fatalf("step %d: age %d, want 5", i, age)
			}
		}
	}
	if growing == 0 || f.live < 30_000 {
		t.Errorf("%d steps while growing, %d addresses", growing, f.live)
	}
}

func (f *Domain) seen(t *testing.T, mac ether.MAC, port Destination) uint32 {
	t.Helper()
	for _, a := range f.of(port) {
		if a.mac == mac {
			return a.seen
		}
	}
	t.Fatalf("%v is not among the addresses of port %d", mac, port)
	return 0
}

// TestFreshInReplacedTable: workers that still have the table before mark there what they see, and it counts.
func TestFreshInReplacedTable(t *testing.T) {
	f, mac := NewDomain(Config{}), address(0, 1)
	f.insert(mac, 0, 1)
	before := f.table.Load()
	for f.next = newTable(2); f.next != nil; {
		f.move()
	}
	if !before.Refresh(mac, 0) {
		t.Fatal("the address is gone from the table that a worker has")
	}
	if age := f.age(&f.ports[0].addresses[0], 9); age != 0 {
		t.Errorf("age %d before the step, want 0", age)
	}
	f.Step(8)
	if age := f.age(&f.ports[0].addresses[0], 9); age != 1 {
		t.Errorf("age %d after the step at 8, want 1", age)
	}
}

// TestTableIsNotHeldLong: what looks at all addresses lets workers learn in between. BenchmarkLargeTable tells how long it holds the lock.
func TestTableIsNotHeldLong(t *testing.T) {
	f := largeTable(t)
	stop, got := make(chan struct{}), make(chan int)
	begun := make(chan struct{})
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				got <- n
				return
			case <-begun: // closed with the first port
				f.mu.Lock()
				n++
				f.mu.Unlock()
				time.Sleep(10 * time.Microsecond)
			}
		}
	}()
	ports := 0
	f.everyPort(func(Destination) {
		if ports++; ports == 1 {
			close(begun)
		}
		if ports%16 == 0 { // long enough for a mutex to be handed over to who waits, however busy the machine is
			time.Sleep(100 * time.Microsecond)
		}
		if ports == manyPorts {
			close(stop)
		}
	})
	if n := <-got; n < 5 || ports != manyPorts { // 97 pieces
		t.Errorf("the lock could be had %d times while %d ports were looked at", n, ports)
	}
}

// BenchmarkLargeTable tells how long the lock is held by what looks at the largest table, one iteration being one pass.
func BenchmarkLargeTable(b *testing.B) {
	f := largeTable(b)
	now := uint32(5)
	for name, fn := range map[string]func(port Destination){
		"step": func(port Destination) {
			for i := range f.ports[port].addresses {
				f.table.Load().tire(Key(f.ports[port].addresses[i].mac))
			}
		},
		"age": func(port Destination) {
			for i := range f.ports[port].addresses {
				f.age(&f.ports[port].addresses[i], now)
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			worst := time.Duration(0)
			for range b.N {
				for port := Destination(0); int(port) < len(f.ports); {
					start := time.Now()
					for done := 0; done < pieceAddresses && int(port) < len(f.ports); port++ {
						done += len(f.ports[port].addresses)
						fn(port)
					}
					worst = max(worst, time.Since(start))
				}
			}
			b.ReportMetric(float64(worst.Microseconds()), "µs-held")
		})
	}
	b.Run("insert", func(b *testing.B) {
		worst := time.Duration(0)
		for range b.N {
			f := NewDomain(Config{})
			for i := range 64 * manyPorts {
				start := time.Now()
				f.insert(ether.MAC(0x020000000000+i), Destination(i/64), 1)
				worst = max(worst, time.Since(start))
			}
		}
		b.ReportMetric(float64(worst.Microseconds()), "µs-held")
	})
}
