package logging

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is set by hand.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// rig is an output into files, with a clock.
type rig struct {
	*Output
	clock    clock
	out, err string // paths
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{clock: clock{now: time.Unix(1e9, 0)}, out: filepath.Join(dir, "out"), err: filepath.Join(dir, "err")}
	c := Config{Stdout: create(t, r.out), Stderr: create(t, r.err), Level: slog.LevelDebug, Addresses: 64, Now: r.clock.Now}
	if change != nil {
		change(&c)
	}
	var err error
	if r.Output, err = Open(c); err != nil {
		t.Fatal(err)
	}
	return r
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

var stamp = regexp.MustCompile(`time=\S+ |"time":"[^"]*",`)

// end closes the output and reads what was written, without times.
func (r *rig) end(t *testing.T) (out, log string) {
	t.Helper()
	r.Close()
	a, errA := os.ReadFile(r.out)
	b, errB := os.ReadFile(r.err)
	if errA != nil || errB != nil {
		t.Fatal(errA, errB)
	}
	return string(a), stamp.ReplaceAllString(string(b), "")
}

// talk is an ordinary operation's log.
func talk(log *slog.Logger) {
	log.Info("ready", "sockets", []string{"/s"}, "uplink", "none", "vm2vm", 1)
	device := log.With("socket", "/s", "pid", 7, "uid", 0, "comm", "qemu")
	device = device.With("port", 3)
	device.Info("device connected")
	device.Debug("message", "request", "GET_FEATURES", "bytes", 0)
	log.Info("address unregistered", "port", 3, "mac", "02:00:00:00:00:01", "vlan", 1003)
	device.Warn("request refused", "error", fmt.Errorf("%w: no", io.EOF))
	device.WithGroup("g").Info("in a group", "port", "not one")
	device.WithGroup("").Error("device stopped", "error", io.EOF)
	log.Info("")
}

// TestOrdinaryText: the log is byte for byte what log/slog makes of it, in both formats, attributes and their order included.
func TestOrdinaryText(t *testing.T) {
	for _, json := range []bool{false, true} {
		r := newRig(t, func(c *Config) { c.JSON = json })
		talk(r.Log())
		r.Address(3, "DATA: (3) MAC_ADDRESS 02:00:00:00:00:01 and VLAN_TAG 1003 registered\n")
		out, log := r.end(t)
		var plain strings.Builder
		c := Config{JSON: json, Level: slog.LevelDebug}
		talk(slog.New(c.format(&plain)))
		if got, want := log, stamp.ReplaceAllString(plain.String(), ""); got != want {
			t.Errorf("json %v: the log is\n%s\nwant\n%s", json, got, want)
		}
		if want := "DATA: (3) MAC_ADDRESS 02:00:00:00:00:01 and VLAN_TAG 1003 registered\n"; out != want {
			t.Errorf("standard output: %q, want %q", out, want)
		}
	}
}

// TestGolden: the text itself.
func TestGolden(t *testing.T) {
	r := newRig(t, nil)
	talk(r.Log())
	_, log := r.end(t)
	const want = `level=INFO msg=ready sockets=[/s] uplink=none vm2vm=1
level=INFO msg="device connected" socket=/s pid=7 uid=0 comm=qemu port=3
level=DEBUG msg=message socket=/s pid=7 uid=0 comm=qemu port=3 request=GET_FEATURES bytes=0
level=INFO msg="address unregistered" port=3 mac=02:00:00:00:00:01 vlan=1003
level=WARN msg="request refused" socket=/s pid=7 uid=0 comm=qemu port=3 error="EOF: no"
level=INFO msg="in a group" socket=/s pid=7 uid=0 comm=qemu port=3 g.port="not one"
level=ERROR msg="device stopped" socket=/s pid=7 uid=0 comm=qemu port=3 error=EOF
level=INFO msg=""
`
	if log != want {
		t.Errorf("the log is\n%s\nwant\n%s", log, want)
	}
}

// TestAddressChurn: a guest at its limit replaces all addresses each second, for ten minutes; another port is not affected.
func TestAddressChurn(t *testing.T) {
	r := newRig(t, nil)
	const addresses, seconds = 64, 600
	type portNumber int // as the switch has it
	for range seconds {
		for i := range addresses {
			r.Address(7, fmt.Sprintf("DATA: (7) %d\n", i))
			r.Log().Info("address unregistered", "port", portNumber(7), "mac", i, "vlan", 1007)
		}
		r.clock.step(time.Second)
	}
	r.Address(8, "DATA: (8) other\n")
	r.Log().Info("device disconnected", "socket", "/s", "port", 7)
	out, log := r.end(t)
	bound := 50 + 2*addresses + seconds
	if n := strings.Count(out, "(7)") + strings.Count(log, "unregistered"); n > bound || n < addresses {
		t.Errorf("%d lines about port 7 for %d changes; at most %d are allowed", n, 2*addresses*seconds, bound)
	}
	for _, want := range []string{"(8) other", `msg="device disconnected" socket=/s port=7`,
		`level=WARN msg="lines about this port's addresses were left out" port=7 lines=`, "seconds=600\n"} {
		if !strings.Contains(out+log, want) {
			t.Errorf("there is no %s", want)
		}
	}
}

// TestConnectLoop: a front-end that comes and goes, or is refused, as fast as it can costs so many lines and no more; a warning about its port, and
// all about another socket, still comes through.
func TestConnectLoop(t *testing.T) {
	r := newRig(t, nil)
	const loops, seconds = 5000, 60
	for i := range loops {
		device := r.Log().With("socket", "/shared", "pid", i, "port", 5)
		device.Info("device connected")
		device.Info("device disconnected")
		r.Log().With("socket", "/named", "pid", i).Error("connection refused", "error", "in use")
		r.clock.step(seconds * time.Second / loops)
	}
	r.Log().Error("device stopped", "socket", "/shared", "port", 5)
	r.Log().Error("connection refused", "socket", "/other")
	r.sumUp()
	_, log := r.end(t)
	connects, refused := strings.Count(log, "connected"), strings.Count(log, "socket=/named")
	if connects > 50+seconds || refused > 51+seconds || connects < 50 || refused < 50 {
		t.Errorf("%d lines about connections, %d about refused ones, in %d s", connects, refused, seconds)
	}
	for _, want := range []string{
		fmt.Sprintf(`level=WARN msg="lines about this port were left out" port=5 lines=%d seconds=60`, 2*loops-connects),
		fmt.Sprintf(`level=WARN msg="lines about this socket were left out" socket=/named lines=%d warnings=%[1]d seconds=60`, loops-refused+1),
		`msg="device stopped" socket=/shared port=5`, "socket=/other",
	} {
		if !strings.Contains(log, want+"\n") {
			t.Errorf("there is no %s", want)
		}
	}
	if t.Failed() {
		t.Log(log[len(log)-1000:])
	}
}

// TestManySubjects: with more ports and sockets than there can be, keys, lines and summaries stay bounded, and idle keys are forgotten.
func TestManySubjects(t *testing.T) {
	r := newRig(t, nil)
	for i := range 4 * maxKeys {
		r.Log().Info("device connected", "socket", fmt.Sprint("/", i), "port", i)
		r.Log().Info("address unregistered", "mac", i, "port", i)
	}
	if n := len(r.budgets.keys); n > maxKeys+2 {
		t.Errorf("%d keys", n)
	}
	r.clock.step(time.Hour)
	r.sumUp()
	if n := len(r.budgets.keys); n != 0 {
		t.Errorf("%d keys an hour later", n)
	}
	_, log := r.end(t)
	all, left := strings.Count(log, "\n"), strings.Count(log, "left out")
	if burst := rates(64)[kindAll][classNormal].burst; all-left > burst || left == 0 || left > maxSummaries+1 {
		t.Errorf("%d lines, of them %d summaries", all, left)
	}
	if !strings.Contains(log, `"lines about further ports and sockets were left out"`) {
		t.Error("the summaries do not say that there were more")
	}
}

// TestStandingReaders: nobody reads either output; logging, printing and closing end all the same.
func TestStandingReaders(t *testing.T) {
	_, out := pipe(t)
	_, err := pipe(t)
	o, openErr := Open(Config{Stdout: out, Stderr: err, Addresses: 64})
	if openErr != nil {
		t.Fatal(openErr)
	}
	within(t, "output", func() {
		for i := range 20000 {
			o.Address(i%1280, "DATA: (0) MAC_ADDRESS 02:00:00:00:00:01 and VLAN_TAG 1000 registered\n")
			o.Log().Error("device stopped", "port", i%1280)
			o.Screen(strings.Repeat("a screen\n", 1000))
		}
		o.Close()
	})
}

// TestSameFile: where standard output and standard error are one file, lines keep their order.
func TestSameFile(t *testing.T) {
	dir := t.TempDir()
	f := create(t, filepath.Join(dir, "both"))
	o, err := Open(Config{Stdout: f, Stderr: f, Addresses: 64})
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for i := range 40 {
		o.Address(1, fmt.Sprintln("DATA:", i))
		o.Log().Info("log", "port", 1, "i", i)
		fmt.Fprintf(&want, "DATA: %d\nlevel=INFO msg=log port=1 i=%[1]d\n", i)
	}
	o.Close()
	data, err := os.ReadFile(f.Name())
	if got := stamp.ReplaceAllString(string(data), ""); err != nil || got != want.String() {
		t.Errorf("%v\n%s", err, got)
	}
}

// TestLossLine has the log's format.
func TestLossLine(t *testing.T) {
	c := Config{Now: time.Now}
	if got := string(c.lossLine(312)); !strings.Contains(got, "level=WARN") || !strings.HasSuffix(got, " lines=312\n") {
		t.Errorf("text: %q", got)
	}
	c.JSON = true
	if got := string(c.lossLine(312)); !strings.HasPrefix(got, "{") || !strings.HasSuffix(got, `"lines":312}`+"\n") {
		t.Errorf("JSON: %q", got)
	}
}
