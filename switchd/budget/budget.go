package budget

import (
	"fmt"
	"sync"
)

// Resource is something that foreigners can make the switch take.
type Resource int

// The resources, in the order in which they are shown.
const (
	Ports        Resource = iota
	Connections           // of front-ends, devices or not yet
	Requests              // connections to the broker's and to the control socket
	Descriptors           // open files
	Threads               // that wait for a foreigner in a system call
	Mappings              // entries of the process's memory map
	AddressSpace          // bytes mapped, whole pages
	GuestMemory           // bytes of guests' memory, as their front-ends describe it
	NumResources
)

var names = [NumResources]string{
	"ports", "connections", "requests", "descriptors", "threads", "mappings", "address_space", "guest_memory",
}

// String is the name in the statistics.
func (r Resource) String() string { return names[r] }

// Limit bounds a resource. A value of 0 allows nothing.
type Limit struct {
	Total   uint64 // of all accounts
	Reserve uint64 // part of Total that only reserved accounts may use
	User    uint64 // of all accounts of one user, reserved ones not counted
	Account uint64 // of one account
}

// Limits has a bound for each resource.
type Limits [NumResources]Limit

// Scope says whose bound was met.
type Scope string

// The scopes, from the narrowest on.
const (
	ScopeAccount Scope = "device"
	ScopeUser    Scope = "user"
	ScopeTotal   Scope = "switch"
)

// ExceededError says that a bound does not allow what was asked for. Nothing was taken.
type ExceededError struct {
	Resource    Resource
	Scope       Scope
	User        int
	Want        uint64 // what was asked for
	Used, Limit uint64 // at that scope
}

func (e *ExceededError) Error() string {
	whose := "this device"
	switch e.Scope {
	case ScopeUser:
		whose = fmt.Sprintf("user %d", e.User)
	case ScopeTotal:
		whose = "the switch"
	}
	return fmt.Sprintf("budget of %s used up: %s has %d of %d, and %d more are asked for", e.Resource, whose, e.Used, e.Limit, e.Want)
}

// Budget keeps the books: what is used, by whom, and how much of it there may be. It is safe for concurrent use.
type Budget struct {
	limits  Limits
	tighten func(Usage)

	mu    sync.Mutex
	used  [NumResources]uint64
	most  [NumResources]uint64
	tight [NumResources]bool
	users map[int]*user
}

// user is what the accounts of one user have together; it exists while there are any.
type user struct {
	accounts int
	used     [NumResources]uint64 // without reserved accounts
}

// New makes a budget. tighten, which may be nil, is called when three quarters of a resource come into use, and not again for it before
// less than half are. It is called without a lock held, from whoever takes, and must not block.
func New(limits Limits, tighten func(Usage)) *Budget {
	return &Budget{limits: limits, tighten: tighten, users: map[int]*user{}}
}

// Limits gives the bounds.
func (b *Budget) Limits() Limits { return b.limits }

// Account is what one device, or one connection, has taken. It is safe for concurrent use.
type Account struct {
	budget   *Budget
	user     int
	reserved bool
	used     [NumResources]uint64 // budget.mu
	closed   bool                 // budget.mu
}

// Open opens an account for a user. A reserved one may use what the limits keep in reserve, and is not counted to its user: it is the
// administrator's, or of a port that the administrator made.
func (b *Budget) Open(uid int, reserved bool) *Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	u := b.users[uid]
	if u == nil {
		u = &user{}
		b.users[uid] = u
	}
	u.accounts++
	return &Account{budget: b, user: uid, reserved: reserved}
}

// Take counts n of a resource, before they are taken, or returns an *ExceededError. A nil account has no bounds.
func (a *Account) Take(r Resource, n uint64) error {
	if a == nil || n == 0 {
		return nil
	}
	usage, err := a.take(r, n)
	if usage != nil && a.budget.tighten != nil {
		a.budget.tighten(*usage)
	}
	return err
}

// take returns the usage if it has just become tight.
func (a *Account) take(r Resource, n uint64) (*Usage, error) {
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	limit, u := b.limits[r], b.users[a.user]
	total := limit.Total
	if !a.reserved {
		total -= min(limit.Reserve, total)
	}
	exceeded := func(s Scope, used, bound uint64) error {
		return &ExceededError{Resource: r, Scope: s, User: a.user, Want: n, Used: used, Limit: bound}
	}
	switch {
	case a.closed || !fits(a.used[r], n, limit.Account):
		return nil, exceeded(ScopeAccount, a.used[r], limit.Account)
	case !a.reserved && !fits(u.used[r], n, limit.User):
		return nil, exceeded(ScopeUser, u.used[r], limit.User)
	case !fits(b.used[r], n, total):
		return nil, exceeded(ScopeTotal, b.used[r], total)
	}
	a.used[r] += n
	b.used[r] += n
	b.most[r] = max(b.most[r], b.used[r])
	if !a.reserved {
		u.used[r] += n
	}
	if b.tight[r] || b.used[r] < limit.Total-limit.Total/4 {
		return nil, nil
	}
	b.tight[r] = true
	usage := b.usage(r)
	return &usage, nil
}

// fits tells whether n more are within the limit; no sum can wrap around.
func fits(used, n, limit uint64) bool { return used <= limit && n <= limit-used }

// Give returns n of a resource. Giving more than was taken is a bug of the caller's, and panics.
func (a *Account) Give(r Resource, n uint64) {
	if a == nil || n == 0 {
		return
	}
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	a.give(r, n)
}

func (a *Account) give(r Resource, n uint64) {
	b := a.budget
	if n > a.used[r] {
		panic(fmt.Sprintf("budget: %d of %s given back, %d were taken", n, r, a.used[r]))
	}
	a.used[r] -= n
	b.used[r] -= n
	if !a.reserved {
		b.users[a.user].used[r] -= n
	}
	if b.used[r] < b.limits[r].Total/2 {
		b.tight[r] = false
	}
	if a.closed {
		a.forget()
	}
}

// Used is how much of a resource the account has.
func (a *Account) Used(r Resource) uint64 {
	if a == nil {
		return 0
	}
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	return a.used[r]
}

// Close ends the account: it can take nothing more. What it still has stays counted until it is given back, such as a descriptor whose
// close(2) has not returned yet.
func (a *Account) Close() {
	if a == nil {
		return
	}
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	if !a.closed {
		a.closed = true
		a.forget()
	}
}

// forget drops the user of a closed account that has nothing left. The caller holds budget.mu.
func (a *Account) forget() {
	if a.used != [NumResources]uint64{} {
		return
	}
	u := a.budget.users[a.user]
	if u.accounts--; u.accounts == 0 {
		delete(a.budget.users, a.user)
	}
}

// Usage is how much of a resource is in use.
type Usage struct {
	Resource                  Resource
	Used, Most, Limit         uint64 // now; at most so far; and the bound for all
	Reserve                   uint64
	BusiestUser               int // who has most of it; -1 if nobody has any
	BusiestUsed, LimitPerUser uint64
	LimitPerDevice            uint64
}

// Usage lists all resources.
func (b *Budget) Usage() []Usage {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]Usage, NumResources)
	for r := range list {
		list[r] = b.usage(Resource(r))
	}
	return list
}

func (b *Budget) usage(r Resource) Usage {
	limit := b.limits[r]
	u := Usage{
		Resource: r, Used: b.used[r], Most: b.most[r], Limit: limit.Total, Reserve: limit.Reserve, BusiestUser: -1, LimitPerUser: limit.User,
		LimitPerDevice: limit.Account,
	}
	for uid, v := range b.users {
		if v.used[r] > u.BusiestUsed || v.used[r] == u.BusiestUsed && v.used[r] > 0 && uid < u.BusiestUser {
			u.BusiestUser, u.BusiestUsed = uid, v.used[r]
		}
	}
	return u
}
