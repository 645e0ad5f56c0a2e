package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// machine is what the figures were taken on.
type machine struct {
	CPU      string `json:"cpu"`
	Kernel   string `json:"kernel"`
	Siblings bool   `json:"cores_are_siblings"` // the two cores are threads of one: figures are then of little use
	Cores    [2]int `json:"cores"`              // of the generator and of the switch
}

func thisMachine(gen, sw int) machine {
	m := machine{Cores: [2]int{gen, sw}}
	info, _ := os.ReadFile("/proc/cpuinfo")
	for _, line := range strings.Split(string(info), "\n") {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	m.Kernel = strings.TrimSpace(string(release))
	siblings := func(core int) string {
		data, _ := os.ReadFile(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", core))
		return strings.TrimSpace(string(data))
	}
	m.Siblings = siblings(gen) == siblings(sw) && siblings(gen) != ""
	return m
}

// results is what a run writes.
type results struct {
	Date      time.Time `json:"date"`
	Machine   machine   `json:"machine"`
	Placement placement `json:"placement"`
	Survey    []float64 `json:"round_trips_ns"` // of a cache line between the cores, before the first sample
	Rounds    int       `json:"rounds"`
	Seconds   float64   `json:"seconds"`
	Summaries []summary `json:"summaries"`
	Samples   []sample  `json:"samples"`
}

// find gives the summary of a peer's work.
func (r *results) find(peer string, w work) *summary {
	for i := range r.Summaries {
		if s := &r.Summaries[i]; s.Peer == peer && s.Work == w && s.Median > 0 {
			return s
		}
	}
	return nil
}

// works lists the kinds of work in the order of their first summary.
func (r *results) works() (list []work) {
	seen := map[work]bool{}
	for _, s := range r.Summaries {
		if !seen[s.Work] {
			seen[s.Work] = true
			list = append(list, s.Work)
		}
	}
	return list
}

// peers lists their names in the order of their first summary.
func (r *results) peers() (list []string) {
	seen := map[string]bool{}
	for _, s := range r.Summaries {
		if !seen[s.Peer] {
			seen[s.Peer] = true
			list = append(list, s.Peer)
		}
	}
	return list
}

// table is the Markdown that people read.
func (r *results) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Comparison of %s\n\n%s, kernel %s; generator on core %d, switch on core %d", r.Date.Format("2006-01-02 15:04"), r.Machine.CPU,
		r.Machine.Kernel, r.Machine.Cores[0], r.Machine.Cores[1])
	if r.Machine.Siblings {
		b.WriteString(" (**threads of one core**: these figures say little)")
	}
	fmt.Fprintf(&b, ". %d rounds of %.1f s, the switches in turn; median, (lowest–highest), +N discarded: a thread had waited for its processor, or the host had moved the cores.\n"+
		"A cache line's round trip between the cores: %s.\n"+
		"Throughput in millions of frames a second, latency in microseconds (p50, p99 / p99.9).\n\n", r.Rounds, r.Seconds, r.Placement)
	names := r.peers()
	fmt.Fprintf(&b, "| work | %s | ratio to the best other | limited by |\n|---|%s---|---|\n", strings.Join(names, " | "), strings.Repeat("---|", len(names)))
	for _, w := range r.works() {
		fmt.Fprintf(&b, "| %s |", w)
		for _, n := range names {
			b.WriteString(" " + r.cell(n, w) + " |")
		}
		fmt.Fprintf(&b, " %s | %s |\n", r.ratio(w), r.limit(w))
	}
	return b.String()
}

func (r *results) cell(peer string, w work) string {
	s := r.find(peer, w)
	if s == nil {
		for _, f := range r.Summaries {
			if f.Peer == peer && f.Work == w && f.Failed != "" {
				return "failed: " + strings.SplitN(f.Failed, "\n", 2)[0]
			}
		}
		return ""
	}
	extra := ""
	if s.Discarded > 0 {
		extra = fmt.Sprintf(" +%d", s.Discarded)
	}
	if w.latency() {
		return fmt.Sprintf("%.2f, %.2f / %.2f%s", s.Median, s.P99, s.P999, extra)
	}
	return fmt.Sprintf("**%.2f** (%.2f–%.2f)%s", s.Median, s.Low, s.High, extra)
}

// ratio compares switchd with the best of the others: above 1 is better, for latencies too.
func (r *results) ratio(w work) string {
	own := r.find("switchd", w)
	if own == nil {
		return ""
	}
	best, name := 0.0, ""
	for _, n := range r.peers() {
		s := r.find(n, w)
		if n == "switchd" || n == memcpy().name || s == nil {
			continue
		}
		value := own.Median / s.Median
		if w.latency() {
			value = s.Median / own.Median
		}
		if name == "" || value < best {
			best, name = value, n
		}
	}
	if name == "" {
		return ""
	}
	return fmt.Sprintf("%.2f× (%s)", best, name)
}

// nearLimit is the share of what memcpy alone reaches from which on it is the machine that limits a switch.
const nearLimit = 0.8

func (r *results) limit(w work) string {
	var list []string
	most := r.find(memcpy().name, w)
	for _, n := range r.peers() {
		s := r.find(n, w)
		if s == nil || s.Limit == "" || s == most {
			continue
		}
		by := s.Limit
		if most != nil && s.Median > nearLimit*most.Median {
			by = "the machine's memory"
		}
		list = append(list, n+": "+by)
	}
	return strings.Join(list, ", ")
}

// write puts table, JSON and plot into a directory.
func (r *results) write(dir string) (base string, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	base = filepath.Join(dir, r.Date.Format("2006-01-02T150405"))
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return "", err
	}
	return base, errors.Join(os.WriteFile(base+".json", append(data, '\n'), 0o644), os.WriteFile(base+".md", []byte(r.table()), 0o644),
		os.WriteFile(base+".svg", []byte(r.plot()), 0o644))
}
