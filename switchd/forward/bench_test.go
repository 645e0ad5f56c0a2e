package forward

import (
	"fmt"
	"testing"

	"vhostkit/switchd/bridge"
	"vhostkit/switchd/ether"
	"vhostkit/switchd/virtio"
)

// bench is a worker on the benchmark's own goroutine with guests: no other core's cache has a part in what it measures.
type bench struct {
	w      *worker
	guests []*guest
}

func newBench(b testing.TB, ports, size int) *bench {
	b.Helper()
	s := New(Config{VM2VM: VM2VMSoftware, MaxFrame: StandardFrame, MACLimit: 1 << 14, OnEvent: func(Event) {}})
	r := &bench{}
	for range ports {
		r.guests = append(r.guests, newGuest(b, s, size))
	}
	w, err := newWorker(s, 0, -1, testScale)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		w.notify()
		checkSums(b, s, w)
		w.close()
	})
	w.adopt()
	r.w = w
	return r
}

// address is the n-th address of a port, as far apart from each other as real ones are not.
func address(port, n int) ether.MAC {
	return ether.MAC(0x020000000000 | uint64(port)<<16 | uint64(n+1))
}

// learn lets each port send from its addresses.
func (r *bench) learn(b testing.TB, addresses int) {
	b.Helper()
	for p := range r.guests {
		for n := range addresses {
			if _, ok := r.w.sw.register(r.w.table.ports[p].port, address(p, n), 1); !ok {
				b.Fatalf("address %d of port %d was not learned", n, p)
			}
		}
	}
	r.w.addresses = r.w.sw.domain.Table()
}

// fill puts frames into all buffers of a guest's transmit ring: from its addresses in turn, to all other ports' in turn, or in pairs of ports to
// the other one's.
func (r *bench) fill(p, addresses, size int, pairs bool) {
	g := r.guests[p]
	for i := range g.tx.size {
		to := (p + 1 + i%(max(len(r.guests)-1, 1))) % len(r.guests)
		if pairs {
			to = p ^ 1
		}
		f := testFrame(0, 0, size, byte(i))
		for k, m := range []ether.MAC{address(to, i*7%addresses), address(p, i*5%addresses)} {
			for j := range 6 {
				f[6*k+j] = byte(m >> (40 - 8*j))
			}
		}
		g.tx.put(0, f)
		g.tx.next++
	}
	g.tx.next = 0
}

// BenchmarkForward moves bursts of 64 frames between guests: the whole per-frame path. Each iteration is a frame.
func BenchmarkForward(b *testing.B) {
	for _, c := range []struct {
		ports, addresses, ring, size int
		pairs                        bool
	}{
		{2, 1, 256, 64, true}, {2, 1, 256, 256, true}, {2, 1, 256, 512, true}, {2, 1, 256, 1518, true}, {2, 1, 1024, 64, true},
		{2, 64, 256, 64, true}, {2, 2048, 256, 64, true}, {64, 1, 256, 64, true}, {64, 64, 256, 64, true},
		{16, 1, 256, 64, false}, {64, 1, 256, 64, false}, {64, 64, 256, 64, false},
	} {
		b.Run(fmt.Sprintf("ports=%d/addresses=%d/ring=%d/size=%d/pairs=%v", c.ports, c.ports*c.addresses, c.ring, c.size, c.pairs), func(b *testing.B) {
			r := newBench(b, c.ports, c.ring)
			r.learn(b, c.addresses)
			for p := range r.guests {
				r.fill(p, c.addresses, c.size, c.pairs)
			}
			for p := range 4 * c.ring / virtio.BurstSize * c.ports { // all buffers have been used once
				r.burst(b, p%c.ports, c.pairs)
			}
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			b.ResetTimer()
			for n, p := 0, 0; n < b.N; n, p = n+virtio.BurstSize, (p+1)%c.ports {
				r.burst(b, p, c.pairs)
			}
			b.StopTimer()
			for p, v := range r.w.table.ports {
				if c := r.w.tx[p].c.snapshot(); c.Delivered != c.Packets || v.rx[0].c.snapshot().Dropped() != 0 {
					b.Fatalf("port %d: %+v, %+v", p, c, v.rx[0].c.snapshot())
				}
			}
		})
	}
}

// burst forwards one burst of a port, and its receivers offer their buffers again.
func (r *bench) burst(b testing.TB, p int, pairs bool) {
	r.guests[p].tx.offer(virtio.BurstSize)
	if r.w.ingress(r.w.tx[p], virtio.BurstSize) != virtio.BurstSize {
		b.Fatal("burst not taken")
	}
	r.w.notify()
	if pairs {
		r.guests[p^1].rx.recycle()
		return
	}
	for q, to := range r.guests {
		if q != p {
			to.rx.recycle()
		}
	}
}

// recycle offers again what was used.
func (r *ring) recycle() {
	if n := r.usedIndex() - r.seen; n > 0 {
		r.seen += n
		r.offer(int(n))
	}
}

// BenchmarkLookup finds addresses in the table: one iteration is a look-up.
func BenchmarkLookup(b *testing.B) {
	for _, n := range []int{2, 64, 4096, 65536} {
		b.Run(fmt.Sprintf("addresses=%d", n), func(b *testing.B) {
			d := bridge.NewDomain(bridge.Config{})
			for i := range n {
				at := bridge.Destination(i % 64)
				d.Join(at, nil)
				d.Learn(address(i%64, i), at, n, 1)
			}
			t, i, sum := d.Table(), 0, bridge.Destination(0)
			for b.Loop() {
				port := t.Find(address(i%64, i))
				sum += port
				if i += 7; i >= n {
					i -= n
				}
			}
			_ = sum
		})
	}
}

// BenchmarkJudge looks at the headers of fetched frames and groups them by destination: one iteration is a frame.
func BenchmarkJudge(b *testing.B) {
	for _, c := range []struct{ ports, addresses int }{{2, 1}, {64, 64}} {
		b.Run(fmt.Sprintf("ports=%d/addresses=%d", c.ports, c.ports*c.addresses), func(b *testing.B) {
			r := newBench(b, c.ports, 256)
			r.learn(b, c.addresses)
			r.fill(0, c.addresses, 64, false)
			r.guests[0].tx.offer(virtio.BurstSize)
			n, _ := r.w.tx[0].queue.FetchViews(r.w.fast.views[:])
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += n {
				if taken := r.w.judge(r.w.tx[0], n); taken != n {
					b.Fatalf("only %d of %d frames are for the fast path", taken, n)
				}
				r.w.groups.reset()
			}
		})
	}
}
