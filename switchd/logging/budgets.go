package logging

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// kind is what a budget is about.
type kind int

const (
	kindPort      kind = iota // one port
	kindAddresses             // one port's addresses: DATA: lines, and log lines with "port" and "mac"
	kindSocket                // one socket, or one device of vhost-cuse, without a port
	kindShared                // all ports of one socket or device
	kindRest                  // what is about none of these, and what came when there were too many keys
	kindAll                   // everything
	numKinds
)

// class separates what may be cut first from what must not be hidden by it.
type class int

const (
	classDetail class = iota // DEBUG
	classNormal              // INFO, and DATA: lines
	classUrgent              // WARN and ERROR
	numClasses
)

// rate allows burst lines at once, then one every so often.
type rate struct {
	burst int
	every time.Duration
}

// key is the subject that a budget belongs to.
type key struct {
	kind kind
	port int64
	path string
}

// maxKeys bounds the keys that are remembered: two for each port that there can be, and as many sockets.
const maxKeys = 1 << 13

// rates are the budgets. An address that is at home on a port may come, go and come again (a guest that restarts) without a line being left
// out; addresses is how many a port may have. All together stay below what journald takes from a service (10000 lines in 30 s): beyond that
// it would drop lines itself, anyone's.
func rates(addresses int) [numKinds][numClasses]rate {
	own := rate{min(50+2*addresses, 2000), time.Second}
	return [numKinds][numClasses]rate{
		kindPort:      {{500, 100 * time.Millisecond}, {50, time.Second}, {200, time.Second}},
		kindAddresses: {own, own, own},
		kindSocket:    {{500, 100 * time.Millisecond}, {50, time.Second}, {50, time.Second}},
		kindShared:    {{1000, 40 * time.Millisecond}, {2000, time.Second / 4}, {1000, time.Second / 4}},
		kindRest:      {{500, 100 * time.Millisecond}, {200, time.Second / 4}, {200, time.Second / 4}},
		kindAll:       {{1000, 40 * time.Millisecond}, {4000, 20 * time.Millisecond}, {2000, 40 * time.Millisecond}},
	}
}

// account is what a key has used. spent is when the bucket will be full again, as time since the start: one number is the whole bucket.
type account struct {
	spent [numClasses]time.Duration
	left  [numClasses]int // lines left out in this period
}

// budgets decide which lines are written. Safe for concurrent use; nothing in it waits.
type budgets struct {
	now   func() time.Time
	start time.Time
	rates [numKinds][numClasses]rate

	mu    sync.Mutex
	keys  map[key]*account
	since time.Duration // when the period began
}

// newBudgets takes the time from now.
func newBudgets(addresses int, now func() time.Time) *budgets {
	return &budgets{now: now, start: now(), rates: rates(addresses), keys: map[key]*account{}}
}

// allow takes a line out of the budgets of all keys, or of none. A line that is left out counts for the first key.
func (b *budgets) allow(c class, keys ...key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now().Sub(b.start)
	for _, k := range keys {
		a, r := b.account(k), b.rates[k.kind][c]
		if max(a.spent[c], now)+r.every-now > time.Duration(r.burst)*r.every {
			b.account(keys[0]).left[c]++
			return false
		}
	}
	for _, k := range keys {
		a := b.account(k)
		a.spent[c] = max(a.spent[c], now) + b.rates[k.kind][c].every
	}
	return true
}

// account finds a key's account, or that of the rest when there are too many. The caller holds mu.
func (b *budgets) account(k key) *account {
	a := b.keys[k]
	if a != nil {
		return a
	}
	if rest := (key{kind: kindRest}); len(b.keys) >= maxKeys && k.kind != kindAll && k != rest {
		return b.account(rest)
	}
	a = &account{}
	b.keys[k] = a
	return a
}

// summary is what was left out about one subject in a period.
type summary struct {
	key
	lines  int // of all classes
	urgent int // of them WARN and ERROR
	period time.Duration
}

// period ends a period: it returns what was left out, most first, and forgets the keys that are as if they had never been used.
func (b *budgets) period() []summary {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now().Sub(b.start)
	var list []summary
	for k, a := range b.keys {
		s := summary{key: k, urgent: a.left[classUrgent], period: now - b.since}
		for c := range a.left {
			s.lines += a.left[c]
		}
		if s.lines > 0 {
			list = append(list, s)
		}
		a.left = [numClasses]int{}
		if slices.Max(a.spent[:]) <= now {
			delete(b.keys, k)
		}
	}
	b.since = now
	slices.SortFunc(list, func(x, y summary) int {
		return cmp.Or(cmp.Compare(y.lines, x.lines), cmp.Compare(x.kind, y.kind), cmp.Compare(x.port, y.port), cmp.Compare(x.path, y.path))
	})
	return list
}
