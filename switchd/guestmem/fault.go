package guestmem

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Fault is an access to guest memory that the kernel could not serve: the front-end truncated or punched the file behind it.
type Fault struct {
	Addr Ptr // the host address that was touched
}

func (f *Fault) Error() string {
	return fmt.Sprintf("guest memory at host address %#x is gone: the front-end truncated or unmapped the file behind it", uintptr(f.Addr))
}

// Recovered turns the value of recover() into a *Fault. Anything that is not a memory fault with an address is a bug of ours and is
// panicked again. The goroutine must have called debug.SetPanicOnFault(true).
func Recovered(r any) *Fault {
	if r == nil {
		return nil
	}
	if e, ok := r.(interface {
		runtime.Error
		Addr() uintptr
	}); ok {
		return &Fault{Addr: Ptr(e.Addr())}
	}
	panic(r)
}

// Contain runs f and returns the fault on guest memory that ended it early, or nil. For the control side; workers recover once a burst.
func Contain(f func()) (fault *Fault) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { fault = Recovered(recover()) }()
	f()
	return nil
}
