package vhost

import (
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// running is a rig whose ring 0 runs.
func running(t *testing.T) *rig {
	r := newRig(t, nil)
	for _, step := range r.startup(splitFeatures) {
		r.ok(step())
	}
	t.Cleanup(func() { r.device.Close(false) })
	return r
}

func open(fd int) bool {
	_, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	return err == nil
}

// TestCallIsSwappedInPlace: a guest that masks and unmasks its interrupt makes QEMU pass another descriptor each time. The ring goes on, no
// table changes, and the old descriptor is closed only when no worker can use it any more.
func TestCallIsSwappedInPlace(t *testing.T) {
	r := running(t)
	first := r.eventfd()
	r.ok(r.device.SetVringCall(0, first))
	before, queue := r.port.updates, r.port.last.Rings[0]
	r.device.retired.wait()
	asked, passed := make(chan bool, 1), make(chan bool)
	r.port.quiesce = func() { asked <- true; <-passed }
	second := r.eventfd()
	r.ok(r.device.SetVringCall(0, second)) // does not wait for the workers
	if queue.CallFD() != second || r.port.updates != before || r.port.last.Rings[0] != queue {
		t.Errorf("descriptor %d, want %d; %d changes of the table, want none", queue.CallFD(), second, r.port.updates-before)
	}
	<-asked
	if !open(first) {
		t.Error("the old descriptor was closed while a worker may use it")
	}
	close(passed)
	r.device.retired.wait()
	if open(first) || !open(second) {
		t.Errorf("old descriptor open: %v, new one: %v", open(first), open(second))
	}
	r.port.quiesce = nil
	for range 500 {
		r.ok(r.device.SetVringCall(0, r.eventfd()))
	}
	r.ok(r.device.SetVringCall(0, -1))
	if queue.CallFD() != -1 || r.port.updates != before {
		t.Errorf("descriptor %d, %d changes of the table", queue.CallFD(), r.port.updates-before)
	}
}

// TestRepeatsStopNothing: what a front-end says again changes no table.
func TestRepeatsStopNothing(t *testing.T) {
	r := newRig(t, nil)
	defer r.device.Close(false)
	table, d := r.table(), r.device
	r.ok(d.SetMemTable(table))
	for i, step := range r.startup(splitFeatures) {
		if i != 1 {
			r.ok(step())
		}
	}
	before := r.port.updates
	for name, repeat := range map[string]func() error{
		"SET_FEATURES": func() error { return d.SetFeatures(splitFeatures) }, "SET_MEM_TABLE": func() error { return d.SetMemTable(table) },
		"SET_VRING_NUM": func() error { return d.SetVringNum(0, 256) }, "SET_VRING_ADDR": func() error { return d.SetVringAddr(0, addresses) },
		"SET_VRING_ENABLE": func() error { return d.SetVringEnable(0, true) },
	} {
		r.ok(repeat())
		if n := r.port.updates - before; n != 0 || len(r.port.running()) != 1 {
			t.Errorf("%s again: %d changes of the table, rings %v run", name, n, r.port.running())
		}
		before = r.port.updates
	}
}

// TestChangesArePaced: a front-end that toggles a ring waits; setting up and resetting a device does not.
func TestChangesArePaced(t *testing.T) {
	r := running(t)
	slept := time.Duration(0)
	// As if that time had passed: the change before lies further back.
	r.device.pace.sleep = func(d time.Duration) { slept += d; r.device.pace.last = r.device.pace.last.Add(-d) }
	for range 30 {
		r.ok(r.device.SetVringEnable(0, false))
		r.ok(r.device.SetVringEnable(0, true))
	}
	if slept != 0 {
		t.Errorf("60 changes wait for %v", slept)
	}
	for range 500 {
		r.ok(r.device.SetVringEnable(0, false))
		r.ok(r.device.SetVringEnable(0, true))
	}
	if slept < 5*time.Second {
		t.Errorf("1060 changes wait for %v only", slept)
	}
}

// TestCallSockets: user-mode-linux passes one end of a socket pair to be woken by. It is signalled like an eventfd, and never blocks.
func TestCallSockets(t *testing.T) {
	for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_SEQPACKET} {
		r := running(t)
		pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[1])
		r.ok(r.device.SetVringCall(0, pair[0]))
		q := r.port.last.Rings[0]
		done := make(chan bool)
		go func() {
			defer close(done)
			for range 100000 { // many times what a socket holds; the other end reads nothing meanwhile
				q.Call()
			}
		}()
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			t.Fatal("a full socket blocks")
		}
		var b [8]byte
		if n, err := unix.Read(pair[1], b[:]); n != 8 || b != [8]byte{1} {
			t.Errorf("kind %d: the driver reads %d bytes % x, %v", kind, n, b, err)
		}
	}
}

// TestDescriptorsThatAreNoCalls: sockets that are not connected, of other families, and other files; and no socket for a kick.
func TestDescriptorsThatAreNoCalls(t *testing.T) {
	r := running(t)
	socket := func(domain int) int {
		fd, err := unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	for name, fd := range map[string]int{"unconnected": socket(unix.AF_UNIX), "tcp": socket(unix.AF_INET), "memory": r.memfd(4096)} {
		if name == "memory" {
			fd, _ = unix.Dup(fd) // the device takes it
		}
		if err := r.device.SetVringCall(0, fd); err == nil || !strings.Contains(err.Error(), "eventfd") {
			t.Errorf("%s: %v", name, err)
		}
		for end := time.Now().Add(5 * time.Second); open(fd); time.Sleep(time.Millisecond) { // closed by somebody who may wait
			if time.Now().After(end) {
				t.Fatalf("%s: the descriptor stays open", name)
			}
		}
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	if err := r.device.SetVringKick(0, pair[0]); err == nil || !strings.Contains(err.Error(), "eventfd") {
		t.Errorf("kick: %v", err)
	}
}

// TestRetiredDescriptorsAreBounded: a front-end quicker than the workers waits.
func TestRetiredDescriptorsAreBounded(t *testing.T) {
	r := running(t)
	var once sync.Once
	held, release := make(chan bool), make(chan bool)
	r.port.quiesce = func() { once.Do(func() { close(held) }); <-release }
	swapped := make(chan int, 3*maxRetired)
	go func() {
		for i := range 3 * maxRetired {
			fd, _ := unix.Eventfd(0, unix.EFD_CLOEXEC)
			if r.device.SetVringCall(0, fd) == nil {
				swapped <- i
			}
		}
		close(swapped)
	}()
	<-held
	time.Sleep(50 * time.Millisecond)
	if n := len(swapped); n > 2*maxRetired {
		t.Errorf("%d descriptors wait", n)
	}
	close(release)
	for range swapped {
	}
}

// TestWaiting: the port is told which step is missing.
func TestWaiting(t *testing.T) {
	r := newRig(t, nil)
	defer r.device.Close(false)
	steps := r.startup(splitFeatures)
	want := func(text string) {
		t.Helper()
		r.ok(nil)
		if text == "" && r.port.waiting != "" || !strings.Contains(r.port.waiting, text) {
			t.Errorf("waiting for %q, want %q", r.port.waiting, text)
		}
	}
	want("no features")
	r.ok(steps[0]())
	want("driver not started (no ring runs)")
	_ = r.device.SetMTU(9000)
	want("refused: too large")
	r.ok(r.device.SetMTU(1500))
	for _, i := range []int{2, 3, 4} {
		r.ok(steps[i]())
	}
	want("no memory table yet")
	r.ok(steps[1]())
	want("no ring enabled")
	r.ok(steps[5]())
	want("")
	elsewhere := r.table()
	elsewhere[0].UserAddr *= 2
	r.ok(r.device.SetMemTable(elsewhere))
	want("memory not shared")
	r.ok(r.device.SetMemTable(r.table()))
	want("")
	if _, err := r.device.VringBase(0); err != nil {
		t.Fatal(err)
	}
	want("driver not started (no ring runs)")
}
