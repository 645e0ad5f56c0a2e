package cold

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ticksPerSecond is the unit of processor time in /proc (USER_HZ on all machines that Go runs on).
const ticksPerSecond = 100

// others measures how much of the machine is used by neither this test nor the switch, what a hypervisor takes away included.
type others struct {
	t    *testing.T
	pid  int // the switch
	used time.Duration
}

func newOthers(t *testing.T, pid int) *others {
	o := &others{t: t, pid: pid}
	o.used = o.now()
	return o
}

// share is what others have used since the last call, in processors.
func (o *others) share(over time.Duration) float64 {
	before := o.used
	o.used = o.now()
	return float64(o.used-before) / float64(over)
}

func (o *others) now() time.Duration {
	o.t.Helper()
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		o.t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	total := time.Duration(0)
	for i, field := range strings.Fields(line)[1:] {
		if i == 3 || i == 4 || i > 7 { // idle and iowait; guests are in user
			continue
		}
		total += ticks(o.t, field)
	}
	process, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", o.pid))
	if err != nil {
		o.t.Fatal(err)
	}
	fields := strings.Fields(string(process[strings.LastIndexByte(string(process), ')'):]))
	total -= ticks(o.t, fields[12]) + ticks(o.t, fields[13]) // utime and stime
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		o.t.Fatal(err)
	}
	return total - time.Duration(own.Utime.Nano()+own.Stime.Nano())
}

func ticks(t *testing.T, field string) time.Duration {
	t.Helper()
	n, err := strconv.ParseInt(field, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(n) * (time.Second / ticksPerSecond)
}
