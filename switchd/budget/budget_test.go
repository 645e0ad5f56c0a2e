package budget

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

func limits(l Limit) (all Limits) {
	for r := range all {
		all[r] = l
	}
	return all
}

func scopeOf(err error) Scope {
	var e *ExceededError
	if errors.As(err, &e) {
		return e.Scope
	}
	return ""
}

func TestScopes(t *testing.T) {
	b := New(limits(Limit{Total: 100, Reserve: 20, User: 60, Account: 40}), nil)
	a1, a2, other, admin := b.Open(1, false), b.Open(1, false), b.Open(2, false), b.Open(1, true)
	steps := []struct {
		a    *Account
		n    uint64
		want Scope
	}{
		{a1, 41, ScopeAccount}, {a1, 40, ""}, {a1, 1, ScopeAccount}, {a1, math.MaxUint64, ScopeAccount},
		{a2, 21, ScopeUser}, {a2, 20, ""}, {a2, 1, ScopeUser},
		{other, 21, ScopeTotal}, {other, 20, ""}, {other, 1, ScopeTotal},
		{admin, 21, ScopeTotal}, {admin, 20, ""}, {admin, 1, ScopeTotal},
	}
	for i, s := range steps {
		if got := scopeOf(s.a.Take(Mappings, s.n)); got != s.want {
			t.Errorf("step %d: refused by %q, want %q", i, got, s.want)
		}
	}
	a1.Give(Mappings, 40)
	if err := other.Take(Mappings, 20); err != nil {
		t.Error(err)
	}
	if u := b.Usage()[Mappings]; u.Used != 80 || u.Most != 100 || u.BusiestUser != 2 || u.BusiestUsed != 40 {
		t.Errorf("%+v", u)
	}
}

// TestSums: whatever is taken, given and closed in any order, the sums are those of the accounts, no bound is passed, and nothing is left over.
func TestSums(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	l := Limit{Total: 50, Reserve: 10, User: 30, Account: 12}
	b := New(limits(l), nil)
	var accounts []*Account
	for range 20000 {
		switch rng.IntN(8) {
		case 0:
			accounts = append(accounts, b.Open(rng.IntN(4), rng.IntN(4) == 0))
		case 1:
			if len(accounts) > 0 {
				i := rng.IntN(len(accounts))
				a := accounts[i]
				a.Close()
				if a.Take(Ports, 1) == nil {
					t.Fatal("a closed account took something")
				}
				a.Give(Ports, a.Used(Ports))
				accounts = append(accounts[:i], accounts[i+1:]...)
			}
		default:
			if len(accounts) > 0 {
				a := accounts[rng.IntN(len(accounts))]
				if rng.IntN(2) == 0 {
					_ = a.Take(Ports, uint64(rng.IntN(6)))
				} else if n := a.Used(Ports); n > 0 {
					a.Give(Ports, 1+rng.Uint64N(n))
				}
			}
		}
		var sum, plain uint64
		users := map[int]uint64{}
		for _, a := range accounts {
			n := a.Used(Ports)
			sum += n
			if !a.reserved {
				plain += n
				users[a.user] += n
			}
			if n > l.Account || users[a.user] > l.User {
				t.Fatalf("account has %d, user %d", n, users[a.user])
			}
		}
		if u := b.Usage()[Ports]; u.Used != sum || sum > l.Total {
			t.Fatalf("%d in use, the accounts have %d", u.Used, sum)
		}
	}
	for _, a := range accounts {
		a.Give(Ports, a.Used(Ports))
		a.Close()
		a.Close()
	}
	if len(b.users) != 0 {
		t.Errorf("%d users left", len(b.users))
	}
}

func TestTightenOnce(t *testing.T) {
	var told []Usage
	b := New(limits(Limit{Total: 100, User: 100, Account: 100}), func(u Usage) { told = append(told, u) })
	a := b.Open(0, false)
	take := func(n uint64) {
		if err := a.Take(Threads, n); err != nil {
			t.Fatal(err)
		}
	}
	take(74)
	if len(told) != 0 {
		t.Fatal("told too early")
	}
	take(1)
	take(10)
	a.Give(Threads, 30)
	take(30)
	if len(told) != 1 || told[0].Used != 75 || told[0].Resource != Threads {
		t.Fatalf("told %+v", told)
	}
	a.Give(Threads, 50)
	take(50)
	if len(told) != 2 {
		t.Errorf("told %d times after it had eased", len(told))
	}
}

func TestNilAccountHasNoBounds(t *testing.T) {
	var a *Account
	if err := a.Take(Ports, math.MaxUint64); err != nil {
		t.Error(err)
	}
	a.Give(Ports, 1)
	a.Close()
}

func TestGivingTooMuchPanics(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	New(limits(Limit{}), nil).Open(0, false).Give(Ports, 1)
}

func TestFor(t *testing.T) {
	h := Host{MaxMapCount: 65530, Descriptors: 65536, Memory: 32 << 30}
	l, err := For(h, Sizes{QueuePairs: 16})
	if err != nil {
		t.Fatal(err)
	}
	// 1024 ports of one user are ordinary, with one or two queue pairs each running.
	if l[Ports].User < 1024 || l[Descriptors].User < 1024*7 || l[Mappings].Total > 65530*3/4 || l[Descriptors].Total >= h.Descriptors {
		t.Errorf("%+v", l)
	}
	for r, v := range l {
		if v.Reserve == 0 || v.Reserve+v.User > v.Total || v.Account == 0 || v.Account > v.User {
			t.Errorf("%v: %+v", Resource(r), v)
		}
	}
	if _, err := For(h, Sizes{Ports: 1024, QueuePairs: 16}); err == nil {
		t.Error("1024 ports × 67 descriptors fit into 65536?")
	} else {
		t.Log(err)
	}
	if l, err := For(Host{MaxMapCount: 65530, Descriptors: 1024, Memory: 1 << 30}, Sizes{QueuePairs: 16}); err != nil || l[Ports].Total == 0 {
		t.Errorf("with 1024 descriptors: %+v, %v", l[Ports], err)
	}
	if _, err := For(Host{MaxMapCount: 65530, Descriptors: 300, Memory: 1 << 30}, Sizes{QueuePairs: 16}); err == nil {
		t.Error("300 descriptors are enough for 1 port?")
	}
}
