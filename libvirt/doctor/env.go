package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"vhostkit/switchd/control"
)

// Switch is a running switchd; control.Client is one.
type Switch interface {
	Version(context.Context) (control.VersionInfo, error)
	Stats(context.Context) (control.Stats, error)
}

// Libvirt is a connection to libvirt.
type Libvirt interface {
	// Version is libvirt's, as major*1000000 + minor*1000 + release.
	Version(context.Context) (int, error)
	// Capabilities is the host's capabilities document.
	Capabilities(context.Context) (string, error)
	// DomainNames are all domains, running or not.
	DomainNames(context.Context) ([]string, error)
	// Domain finds one by name or UUID.
	Domain(ctx context.Context, name string) (DomainXML, error)
}

// DomainXML is a domain as libvirt describes it.
type DomainXML struct {
	Name   string
	Config string // what the next start uses; "" for a transient domain
	Live   string // what runs; "" while it does not
}

// Runner runs a command and gives its standard output.
type Runner func(ctx context.Context, name string, args ...string) (string, error)

// Exec runs commands of this system.
func Exec(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C") // what is read must be in one language
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && stderr.Len() > 0 {
		err = fmt.Errorf("%s: %w: %s", name, err, strings.Join(strings.Fields(stderr.String()), " "))
	}
	return string(out), err
}

// Env is what checks see of the world.
type Env struct {
	Files  Files
	Run    Runner
	Switch Switch
	// Connect opens the libvirt connection, at the first check that needs it.
	Connect func(context.Context) (Libvirt, error)
	URI     string // of that connection; "" is the system's
	Domain  string // name or UUID; "" is the host only
	Version string // of this program, to compare with switchd's
	// SocketDir is where switchd has its sockets.
	SocketDir string
	// Interval lies between the two readings of counters that tell what rises.
	Interval time.Duration

	libvirt once[Libvirt]
	domain  once[*domain]
	stats   once[[2]control.Stats]
	procs   once[[]process]
	caps    once[string]
	qemu    once[identity]
}

// once keeps an answer that several checks need. Checks run one after the other.
type once[T any] struct {
	done  bool
	value T
	err   error
}

func (o *once[T]) get(f func() (T, error)) (T, error) {
	if !o.done {
		o.value, o.err = f()
		o.done = true
	}
	return o.value, o.err
}

var errNoLibvirt = errors.New("no connection to libvirt")

func (e *Env) connection(ctx context.Context) (Libvirt, error) {
	return e.libvirt.get(func() (Libvirt, error) {
		if e.Connect == nil {
			return nil, errNoLibvirt
		}
		return e.Connect(ctx)
	})
}

// theDomain is the domain that is examined.
func (e *Env) theDomain(ctx context.Context) (*domain, error) {
	return e.domain.get(func() (*domain, error) {
		l, err := e.connection(ctx)
		if err != nil {
			return nil, err
		}
		x, err := l.Domain(ctx, e.Domain)
		if err != nil {
			return nil, err
		}
		return newDomain(x)
	})
}

// readings are switchd's counters, twice.
func (e *Env) readings(ctx context.Context) (before, after control.Stats, err error) {
	both, err := e.stats.get(func() (r [2]control.Stats, err error) {
		if e.Switch == nil {
			return r, control.ErrUnreachable
		}
		if r[0], err = e.Switch.Stats(ctx); err != nil {
			return r, err
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-time.After(e.Interval):
		}
		r[1], err = e.Switch.Stats(ctx)
		return r, err
	})
	return both[0], both[1], err
}

func (e *Env) processes() ([]process, error) {
	return e.procs.get(func() ([]process, error) { return readProcesses(e.Files) })
}

func (e *Env) capabilities(ctx context.Context) (string, error) {
	return e.caps.get(func() (string, error) {
		l, err := e.connection(ctx)
		if err != nil {
			return "", err
		}
		return l.Capabilities(ctx)
	})
}

// session tells that libvirt runs everything as the caller, without labels, namespaces or cgroups of its own.
func (e *Env) session() bool { return strings.HasSuffix(e.URI, "/session") }

// onDomain makes a check of what needs the domain's description; that there is none is said once, by the first.
func onDomain(f func(context.Context, *Env, *domain) Result) func(context.Context, *Env) Result {
	return func(ctx context.Context, e *Env) Result {
		d, err := e.theDomain(ctx)
		if err != nil {
			return notApplicable("the domain's description could not be read")
		}
		return f(ctx, e, d)
	}
}
