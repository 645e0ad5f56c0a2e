//go:build !amd64

package ticks

import "time"

var start = time.Now()

// Now is the monotonic clock in nanoseconds.
func Now() int64 { return int64(time.Since(start)) }
