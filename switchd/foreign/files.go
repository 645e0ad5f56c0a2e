package foreign

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
)

// Files closes and asks for one front-end, or for the front-ends of one port. A nil Files counts nothing and has no bounds: it is for tests
// and tools. It is safe for concurrent use.
type Files struct {
	account *budget.Account

	mu      sync.Mutex
	waiting []job
	busy    bool  // a goroutine works on waiting
	retry   bool  // a timer will start one
	refused error // why there is none
	last    bool  // the account ends when nothing waits any more
}

// job is a system call that may wait, and what it gives back when it has returned.
type job struct {
	call        func()
	descriptors uint64
}

// New makes Files for an account, which may be nil.
func New(account *budget.Account) *Files { return &Files{account: account} }

// Account is what the Files count to.
func (f *Files) Account() *budget.Account {
	if f == nil {
		return nil
	}
	return f.account
}

// Close closes descriptors that the account has counted, and gives each back when its close(2) has returned. It does not wait. Negative ones
// are none.
func (f *Files) Close(fds ...int) {
	for _, fd := range fds {
		switch {
		case fd < 0:
		case !waits(fd):
			unix.Close(fd)
			f.Account().Give(budget.Descriptors, 1)
		default:
			f.Later(1, func() { unix.Close(fd) })
		}
	}
}

// Later makes a call that may wait, off the caller's goroutine, and gives back so many descriptors when it has returned.
func (f *Files) Later(descriptors uint64, call func()) {
	if f == nil {
		go call()
		return
	}
	f.mu.Lock()
	f.waiting = append(f.waiting, job{call, descriptors})
	f.mu.Unlock()
	f.start()
}

// retryAfter is how long a queue waits where its user has no threads left.
const retryAfter = time.Second

// start has the queue worked on. The number of threads in use is the user's own doing, so it is the user's files that wait.
func (f *Files) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.busy || len(f.waiting) == 0 {
		return
	}
	f.refused = f.account.Take(budget.Threads, 1)
	if f.refused == nil {
		f.busy = true
		go f.work()
		return
	}
	if !f.retry {
		f.retry = true
		time.AfterFunc(retryAfter, func() {
			f.mu.Lock()
			f.retry = false
			f.mu.Unlock()
			f.start()
		})
	}
}

func (f *Files) work() {
	for {
		f.mu.Lock()
		if len(f.waiting) == 0 {
			f.busy, f.waiting = false, nil
			last := f.last
			f.mu.Unlock()
			f.account.Give(budget.Threads, 1)
			if last {
				f.account.Close()
			}
			return
		}
		j := f.waiting[0]
		f.waiting = f.waiting[1:]
		f.mu.Unlock()
		j.call()
		f.account.Give(budget.Descriptors, j.descriptors)
	}
}

// Finish ends the account (budget.Account.Close) as soon as nothing waits any more: closing takes threads of it.
func (f *Files) Finish() {
	f.mu.Lock()
	f.last = true
	idle := !f.busy && len(f.waiting) == 0
	f.mu.Unlock()
	if idle {
		f.account.Close()
	}
}

// Waiting is how many calls wait for their turn.
func (f *Files) Waiting() int {
	if f == nil {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiting)
}

// Err is not nil while files wait because their user has no threads left: whoever brings such files should bring no more.
func (f *Files) Err() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refused == nil {
		return nil
	}
	return fmt.Errorf("%d descriptors wait to be closed, and closing earlier ones does not end: %w", len(f.waiting), f.refused)
}

// ErrSlow says that a file's owner lets questions about the file wait.
var ErrSlow = errors.New("the file system of the descriptor does not answer")

// askTimeout is how long a file system may take to say what a file is.
const askTimeout = time.Second

// Ask makes a call about a descriptor and returns its error. Where the call may wait it is made by a goroutine that is counted as a thread;
// after a second Ask returns ErrSlow, and what the call writes must not be looked at.
func (f *Files) Ask(fd int, call func() error) error {
	if !waits(fd) {
		return call()
	}
	a := f.Account()
	if err := a.Take(budget.Threads, 1); err != nil {
		return fmt.Errorf("asking about a descriptor: %w", err)
	}
	answer := make(chan error, 1)
	go func() {
		err := call()
		a.Give(budget.Threads, 1)
		answer <- err
	}()
	timeout := time.NewTimer(askTimeout)
	defer timeout.Stop()
	select {
	case err := <-answer:
		return err
	case <-timeout.C:
		return fmt.Errorf("%w within %v", ErrSlow, askTimeout)
	}
}

// Stat is fstat(2) by way of Ask.
func (f *Files) Stat(fd int) (unix.Stat_t, error) {
	st := new(unix.Stat_t)
	err := f.Ask(fd, func() error { return unix.Fstat(fd, st) })
	if err != nil {
		return unix.Stat_t{}, err
	}
	return *st, nil
}

// FileSystem is the type that fstatfs(2) tells, such as unix.EXT4_SUPER_MAGIC, by way of Ask.
func (f *Files) FileSystem(fd int) (int64, error) {
	st := new(unix.Statfs_t)
	err := f.Ask(fd, func() error { return unix.Fstatfs(fd, st) })
	if err != nil {
		return 0, err
	}
	return int64(st.Type), nil
}
