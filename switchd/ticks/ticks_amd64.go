package ticks

// Now reads the processor's time stamp counter (Intel SDM vol. 2, RDTSC), which runs at a constant rate on all processors of the last
// fifteen years, on all cores alike.
func Now() int64
