// Package ticks is a clock for the data plane: reading it takes a few nanoseconds and no system call. It counts in units of its own; a
// Scale turns them into time.
package ticks
