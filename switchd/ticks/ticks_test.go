package ticks

import (
	"testing"
	"time"
)

func TestScale(t *testing.T) {
	s := Measure(5 * time.Millisecond)
	begin, from := time.Now(), Now()
	time.Sleep(50 * time.Millisecond)
	to, took := Now(), time.Since(begin)
	if got := s.Duration(to - from); got < took-took/20-time.Millisecond || got > took+took/20 {
		t.Errorf("%v by ticks, %v by the clock", got, took)
	}
	for _, d := range []time.Duration{0, time.Microsecond, 33 * time.Microsecond, time.Second, time.Hour} {
		if got := s.Duration(s.Of(d)); got > d || got < d-d/1000-time.Microsecond {
			t.Errorf("%v became %v", d, got)
		}
	}
}

func TestNowGoesForward(t *testing.T) {
	last := Now()
	for range 1000 {
		if n := Now(); n < last {
			t.Fatalf("%d after %d", n, last)
		} else {
			last = n
		}
	}
}

func BenchmarkNow(b *testing.B) {
	for range b.N {
		Now()
	}
}
