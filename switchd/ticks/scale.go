package ticks

import "time"

// Scale says how long a tick is.
type Scale struct{ perMillisecond int64 }

// Measure compares ticks with the system's clock for that long; a millisecond is enough for one part in a thousand.
func Measure(d time.Duration) Scale {
	begin, from := time.Now(), Now()
	time.Sleep(d)
	took := time.Since(begin)
	return Scale{max((Now()-from)*int64(time.Millisecond)/int64(took), 1)}
}

// Of gives a time in ticks.
func (s Scale) Of(d time.Duration) int64 {
	return convert(int64(d), s.perMillisecond, int64(time.Millisecond))
}

// Duration gives the time that so many ticks take.
func (s Scale) Duration(n int64) time.Duration {
	return time.Duration(convert(n, int64(time.Millisecond), s.perMillisecond))
}

// convert is n * to / from, without a product that is too large.
func convert(n, to, from int64) int64 { return n/from*to + n%from*to/from }
