package pool

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/hashicorp/go-multierror"

	"vhostkit/hugepages/bytesize"
)

// ErrShort says that the kernel gave fewer pages than asked.
var ErrShort = errors.New("the kernel gave fewer pages than asked")

// Target is how many pages a node's pool shall have.
type Target struct {
	Node  int           `json:"node"`
	Size  bytesize.Size `json:"size"`
	Count uint64        `json:"count"`
}

// Done is a pool that was set.
type Done struct {
	Target        // Count is what it has now
	Before uint64 `json:"before"`
}

// Set gives the pools their counts: those that get smaller first, then the largest pages, since small ones break up what large ones need.
// No pool gets smaller than what is in use of it. Counts are read back; if one is short, all pools are put back: ErrShort. A pool that has
// its count already is not touched, and is not in the list that is returned.
func Set(f Files, targets []Target) ([]Done, error) {
	state, err := Look(f)
	if err != nil {
		return nil, err
	}
	type step struct {
		Target
		node Node
		is   Pool
	}
	var steps []step
	for _, t := range targets {
		node, ok := state.Node(t.Node)
		if !ok || !slices.Contains(state.Sizes(), t.Size) {
			return nil, fmt.Errorf("there is no pool of %v pages on node %d", t.Size, t.Node)
		}
		is := node.Pool(t.Size)
		t.Count = max(t.Count, min(is.InUse(), is.Total))
		if t.Count != is.Total {
			steps = append(steps, step{t, node, is})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int {
		switch lowersA, lowersB := a.Count < a.is.Total, b.Count < b.is.Total; {
		case lowersA != lowersB && lowersA:
			return -1
		case lowersA != lowersB:
			return 1
		case a.Size > b.Size:
			return -1
		case a.Size < b.Size:
			return 1
		}
		return 0
	})
	var done []Done
	for _, s := range steps {
		got, err := set(f, s.node, s.Target)
		if err == nil && got < s.Count {
			err = fmt.Errorf("%w: %d of %d pages of %v on node %d; memory is in pieces, so reserve them at boot (--persist) and reboot, or stop what uses memory",
				ErrShort, got, s.Count, s.Size, s.Node)
		}
		done = append(done, Done{Target{s.Node, s.Size, got}, s.is.Total})
		if err != nil {
			return nil, joined(err, Restore(f, done))
		}
	}
	return done, nil
}

func joined(err, also error) error {
	if also == nil {
		return err
	}
	return multierror.Append(err, also)
}

// Restore puts pools back to what they were Before, as far as their pages are not in use.
func Restore(f Files, done []Done) error {
	var all error
	for _, d := range slices.Backward(done) {
		state, err := Look(f)
		if err != nil {
			return joined(err, all)
		}
		node, ok := state.Node(d.Node)
		if !ok {
			continue
		}
		is := node.Pool(d.Size)
		to := max(d.Before, min(is.InUse(), is.Total))
		if to == is.Total {
			continue
		}
		if got, err := set(f, node, Target{d.Node, d.Size, to}); err != nil {
			all = joined(err, all)
		} else if got != to {
			all = joined(fmt.Errorf("%w: restoring %d pages of %v on node %d, got %d", ErrShort, to, d.Size, d.Node, got), all)
		}
	}
	return all
}

// set writes a count and reads it back. If the kernel falls short it is asked once more after it has put memory together.
func set(f Files, node Node, t Target) (uint64, error) {
	dir := filepath.Join(node.dir, fmt.Sprintf("hugepages-%dkB", t.Size/bytesize.KiB))
	file := filepath.Join(dir, "nr_hugepages")
	p := Pool{}
	for try := range 2 {
		if err := f.Write(file, strconv.FormatUint(t.Count, 10)); err != nil {
			return 0, fmt.Errorf("writing %d to %s: %w; run it as root", t.Count, file, err)
		}
		if err := p.read(f, dir); err != nil {
			return 0, err
		}
		if p.Total >= t.Count || try > 0 {
			break
		}
		// Best effort: not every kernel has it.
		_ = f.Write("/proc/sys/vm/compact_memory", "1")
	}
	return p.Total, nil
}
