package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// memcpy is no competitor: it is in no ratio, and a switch that comes near to it is limited by the machine.
func TestMemcpyIsTheLimit(t *testing.T) {
	w := work{Name: "W3", Size: 1518, Ring: 256, Ports: 2, Addresses: 1}
	r := &results{Summaries: []summary{
		{Peer: "switchd", Work: w, Median: 6.5, Limit: "switch"}, {Peer: "pipe", Work: w, Median: 4, Limit: "switch"}, {Peer: "memcpy", Work: w, Median: 7},
	}}
	if got := r.ratio(w); !strings.Contains(got, "1.6") || !strings.Contains(got, "pipe") {
		t.Errorf("ratio %q", got)
	}
	if got := r.limit(w); got != "switchd: the machine's memory, pipe: switch" {
		t.Errorf("limited by %q", got)
	}
	for _, c := range []struct {
		w    work
		want bool
	}{
		{w, true}, {work{Name: "W2", Ports: 2}, true}, {work{Name: "W1", Ports: 2}, false}, {work{Name: "latency", Ports: 2}, false},
		{work{Name: "W2", Ports: 4}, false}, {work{Name: "W2", Ports: 2, Addresses: 64}, false},
	} {
		if memcpy().takes(c.w) != c.want {
			t.Errorf("memcpy takes %v: %v", c.w, !c.want)
		}
	}
}

func TestLooksInVain(t *testing.T) {
	start := time.Now()
	if got := (looks{200, 90, start.Add(time.Second)}).idleSince(looks{100, 40, start}, 10*time.Millisecond); got != 0.5 {
		t.Errorf("%v of the time went into 50 looks in vain of 10 ms, want 0.5", got)
	}
	if got := (looks{}).idleSince(looks{}, time.Second); got != 0 {
		t.Errorf("without looks: %v", got)
	}
	s := summarize([]sample{{Peer: "switchd", Work: work{Name: "W1"}, Mpps: 1, SwitchIdle: 0.6}})
	if s.Limit != "generator" {
		t.Errorf("a switch that found nothing 60 %% of the time was limited by %q", s.Limit)
	}
}

// The generator's copying thread moves frames, at both kinds of work.
func TestCopy(t *testing.T) {
	if _, err := exec.LookPath("gcc"); err != nil && os.Getenv("CI") != "true" {
		t.Skip("gcc is not installed")
	}
	generator := filepath.Join(t.TempDir(), "generator")
	t.Chdir("../..")
	if err := buildGenerator(context.Background(), generator); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"copy", "copy-w2"} {
		out, err := exec.Command(generator, "--mode", mode, "--size", "1518", "--seconds", "0.2", "--warmup", "0.1", "--core", "0", "--copy-core", "1").Output()
		var result struct {
			Frames uint64  `json:"frames"`
			Gbps   float64 `json:"gbps"`
			Mpps   float64 `json:"mpps"`
		}
		if err != nil || json.Unmarshal(out, &result) != nil || result.Frames < 1000 {
			t.Fatalf("%s: %v: %s", mode, err, out)
		}
		if per := result.Gbps * 1000 / 8 / result.Mpps; per < 1500 || per > 1540 {
			t.Errorf("%s: %v bytes a frame: %s", mode, per, out)
		}
	}
}
