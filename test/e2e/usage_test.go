package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// resources of a process.
type resources struct {
	fds  int // sockets not counted: the control client's connections come and go
	maps int // of guests' memory
	rss  int // bytes
}

func usage(t testing.TB, sw *switchd) resources {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", sw.cmd.Process.Pid)
	fds, err := os.ReadDir(dir + "fd")
	if err != nil {
		t.Fatal(err)
	}
	maps, err := os.ReadFile(dir + "maps")
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, fd := range fds {
		if target, err := os.Readlink(dir + "fd/" + fd.Name()); err == nil && strings.HasPrefix(target, "socket:") {
			sockets++
		}
	}
	statm, err := os.ReadFile(dir + "statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		t.Fatal(err)
	}
	return resources{fds: len(fds) - sockets, maps: strings.Count(string(maps), "/memfd:"), rss: pages * os.Getpagesize()}
}

// cpuTicks is the processor time that a process has used, in clock ticks of 10 ms.
func cpuTicks(t testing.TB, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err1 != nil || err2 != nil {
		t.Fatalf("cannot read %s", stat)
	}
	return user + system
}
