package bridge

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"vhostkit/switchd/ether"
)

// TestAddressTableAgainstMap changes the table at random and compares it with a map each time.
func TestAddressTableAgainstMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	f, want := NewDomain(Config{}), map[ether.MAC]Destination{}
	const addresses = 3000
	for i := range 200_000 {
		mac := address(int(rng.Uint32N(8)), int(rng.Uint32N(addresses)))
		port := f.table.Load().Find(mac)
		if owner, known := want[mac]; known && port != owner || !known && port >= 0 {
			t.Fatalf("step %d: %v is found at port %d, want %d (%v)", i, mac, port, owner, known)
		}
		switch {
		case port < 0:
			port = Destination(rng.Uint32N(manyPorts))
			f.insert(mac, port, 1)
			want[mac] = port
		case rng.Uint32N(3) == 0:
			f.drop(t, mac, port)
			delete(want, mac)
		default:
			if f.table.Load().Refresh(mac, port+1) || !f.table.Load().Refresh(mac, port) {
				t.Fatalf("step %d: %v is port %d's only", i, mac, port)
			}
			if i%1000 == 0 {
				f.Step(uint32(i))
			}
		}
	}
	n := 0
	f.Each(0, func(mac ether.MAC, port Destination, _ uint32) {
		n++
		if want[mac] != port {
			t.Errorf("%v is listed at %d, want %d", mac, port, want[mac])
		}
	})
	if n != len(want) || f.live != len(want) || n == 0 {
		t.Errorf("%d addresses listed, %d counted, want %d", n, f.live, len(want))
	}
	for _, mac := range []ether.MAC{0, 1<<48 - 1} { // what no station has is not what removed slots hold
		if port := f.table.Load().Find(mac); port >= 0 || f.table.Load().Refresh(mac, 0) {
			t.Errorf("%v is found at port %d", mac, port)
		}
	}
}

// TestAgeOfAddresses: an address has the age of its last frame, to the second.
func TestAgeOfAddresses(t *testing.T) {
	f := NewDomain(Config{})
	quiet, busy := address(0, 1), address(0, 2)
	f.insert(quiet, 0, 5)
	f.insert(busy, 0, 5)
	for now := uint32(5); now < 9; now++ {
		if !f.table.Load().Refresh(busy, 0) {
			t.Fatal("the address is gone")
		}
		f.Step(now)
	}
	ages := func() map[ether.MAC]uint32 {
		m := map[ether.MAC]uint32{}
		f.Each(9, func(mac ether.MAC, _ Destination, age uint32) { m[mac] = age })
		return m
	}
	if got := ages(); got[quiet] != 4 || got[busy] != 1 {
		t.Errorf("ages %v, want 4 and 1", got)
	}
	f.table.Load().Refresh(busy, 0)
	if got := ages(); got[busy] != 0 {
		t.Errorf("ages %v, want 0 for an address that was just a source", got)
	}
	for f.next = newTable(2); f.next != nil; {
		f.move()
	}
	if got := ages(); got[quiet] != 4 || got[busy] != 0 {
		t.Errorf("ages %v in a new table, want 4 and 0", got)
	}
}

// TestRefreshAgainstChanges: workers that mark an address do not bring it back when it was removed, nor move it.
func TestRefreshAgainstChanges(t *testing.T) {
	f, mac := NewDomain(Config{}), address(0, 1)
	f.insert(mac, 7, 1)
	stop := make(chan struct{})
	var group sync.WaitGroup
	for range 3 {
		group.Add(1)
		go func() {
			defer group.Done()
			for {
				select {
				case <-stop:
					return
				default:
					f.table.Load().Refresh(mac, 7)
				}
			}
		}()
	}
	for i := range 20_000 {
		f.Step(uint32(i))
		f.mu.Lock()
		if port := f.table.Load().Find(mac); port != 7 {
			t.Errorf("round %d: port %d, want 7", i, port)
		}
		f.drop(t, mac, 7)
		if port := f.table.Load().Find(mac); port >= 0 {
			t.Errorf("round %d: removed, and found at port %d", i, port)
		}
		f.insert(mac, 7, uint32(i))
		f.mu.Unlock()
		if t.Failed() {
			break
		}
	}
	close(stop)
	group.Wait()
}

// drop removes an address of a port.
func (f *Domain) drop(t *testing.T, mac ether.MAC, port Destination) {
	t.Helper()
	i := slices.IndexFunc(f.of(port), func(a entry) bool { return a.mac == mac })
	if i < 0 {
		t.Fatalf("%v is not among the addresses of port %d", mac, port)
	}
	if m := f.remove(port, i); m != mac {
		t.Fatalf("removed %v, want %v", m, mac)
	}
}
