// Package leaks finds what the tests of a package leave behind: goroutines that still run, and descriptors that are still open. A package
// that owns such things has in one of its test files
//
//	func TestMain(m *testing.M) { leaks.Main(m) }
package leaks

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// patience is how long what is on its way out may take.
const patience = 10 * time.Second

// Main runs the tests and ends the process; it fails if they leave anything behind. While fuzzing, the engine's own pipes and goroutines
// cannot be told from leaks: then the tests only run.
func Main(m *testing.M) {
	flag.Parse()
	if set("test.fuzz") || set("test.fuzzworker") || set("test.cpuprofile") || set("test.trace") {
		os.Exit(m.Run())
	}
	before, err := Take()
	if err != nil {
		fmt.Fprintln(os.Stderr, "leaks:", err)
		os.Exit(1)
	}
	code := m.Run()
	if left := before.Left(patience); code == 0 && left != nil {
		fmt.Fprintln(os.Stderr, "FAIL: the tests leave behind:\n"+left.Error())
		code = 1
	}
	os.Exit(code)
}

func set(name string) bool {
	f := flag.Lookup(name)
	return f != nil && f.Value.String() != "" && f.Value.String() != "false"
}

// Snapshot is what a process has at some time.
type Snapshot struct {
	descriptors map[string]string // number to what it is
	goroutines  map[string]bool   // by number
}

// Take looks at this process. The runtime opens its own descriptors for polling with the first pipe, so that they count as there before.
func Take() (Snapshot, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return Snapshot{}, fmt.Errorf("a pipe to start the runtime's poller: %w", err)
	}
	r.Close()
	w.Close()
	s := Snapshot{goroutines: map[string]bool{}}
	for id := range stacks() {
		s.goroutines[id] = true
	}
	s.descriptors, err = descriptors()
	return s, err
}

// Left waits until nothing is left that was not there at the snapshot, at most for limit, and then says what is.
func (s Snapshot) Left(limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(10 * time.Millisecond) {
		err := s.compare()
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

func (s Snapshot) compare() error {
	var all []error
	now, err := descriptors()
	if err != nil {
		return err
	}
	for number, what := range now {
		if s.descriptors[number] != what {
			all = append(all, fmt.Errorf("descriptor %s: %s", number, what))
		}
	}
	for id, stack := range stacks() {
		if !s.goroutines[id] {
			all = append(all, errors.New(stack))
		}
	}
	return errors.Join(all...)
}

// descriptors reads what is open, but for the directory that is read for it.
func descriptors() (map[string]string, error) {
	const dir = "/proc/self/fd"
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list open descriptors: %w", err)
	}
	open := map[string]string{}
	for _, e := range list {
		what, err := os.Readlink(dir + "/" + e.Name())
		if errors.Is(err, fs.ErrNotExist) || strings.HasPrefix(what, "/proc/") && strings.HasSuffix(what, "/fd") {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("what is descriptor %s: %w", e.Name(), err)
		}
		open[e.Name()] = what
	}
	return open, nil
}

var header = regexp.MustCompile(`^goroutine (\d+) `)

// stacks gives the stack of every other goroutine by its number.
func stacks() map[string]string {
	text := make([]byte, 1<<20)
	for {
		n := runtime.Stack(text, true)
		if n < len(text) {
			text = text[:n]
			break
		}
		text = make([]byte, 2*len(text))
	}
	list := map[string]string{}
	for i, stack := range strings.Split(string(text), "\n\n") {
		m := header.FindStringSubmatch(stack)
		if i == 0 || m == nil || strings.Contains(stack, "os/signal.loop") || strings.Contains(stack, "signal.signal_recv") {
			continue // the first is the one that asks; the runtime's for signals stays once it is there
		}
		list[m[1]] = stack
	}
	return list
}
