package doctor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestChecks(t *testing.T) {
	for _, list := range [][]scenario{hostScenarios, domainScenarios} {
		for _, s := range list {
			t.Run(s.check+"/"+s.name, s.run)
		}
	}
}

// Each check must be seen finding something wrong, and finding nothing wrong: one that cannot fail is no check.
func TestEachCheckIsSeenBothWays(t *testing.T) {
	well, wrong := map[string]bool{}, map[string]bool{}
	for _, s := range append(append([]scenario{}, hostScenarios...), domainScenarios...) {
		well[s.check] = well[s.check] || s.want == OK
		wrong[s.check] = wrong[s.check] || s.want == Warn || s.want == Fail
	}
	ids := map[string]bool{}
	for _, c := range Checks() {
		if ids[c.ID] || !regexp.MustCompile(`^[a-z0-9-]+$`).MatchString(c.ID) || c.Title == "" || c.Group == "" {
			t.Errorf("check %+v: identifier not unique or not plain, or no title", c)
		}
		ids[c.ID] = true
		if !well[c.ID] || !wrong[c.ID] {
			t.Errorf("check %s: seen well %v, seen wrong %v", c.ID, well[c.ID], wrong[c.ID])
		}
	}
}

func TestHealthyHost(t *testing.T) {
	r := Examine(context.Background(), newRig().env, Checks())
	for _, c := range r.Checks {
		if c.Status != OK && c.Status != NotApplicable {
			t.Errorf("%s: %s %s", c.ID, c.Status, c.Detail)
		}
	}
	if r.ExitCode() != 0 || r.Status != OK || r.Counts[OK] < 30 {
		t.Errorf("status %s, exit code %d, counts %v", r.Status, r.ExitCode(), r.Counts)
	}
}

func TestNothingIsThere(t *testing.T) {
	env := &Env{Files: fakeFiles{}, Domain: "vm1", Run: func(context.Context, string, ...string) (string, error) { return "", errors.New("no such program") }}
	r := Examine(context.Background(), env, Checks())
	if r.ExitCode() == 0 || len(r.Checks) != len(Checks()) {
		t.Errorf("%d of %d checks, exit code %d", len(r.Checks), len(Checks()), r.ExitCode())
	}
	for _, c := range r.Checks {
		if strings.Contains(c.Detail, "the check itself failed") {
			t.Errorf("%s: %s", c.ID, c.Detail)
		}
	}
}

func TestExamine(t *testing.T) {
	fixed := func(r Result) func(context.Context, *Env) Result {
		return func(context.Context, *Env) Result { return r }
	}
	tests := []struct {
		name   string
		domain string
		checks []Check
		status Status
		code   int
		ran    int
	}{
		{"nothing", "", nil, OK, 0, 0},
		{"not applicable", "", []Check{{Scope: Host, Run: fixed(notApplicable(""))}}, OK, 0, 1},
		{"warning", "", []Check{{Scope: Host, Run: fixed(warn("x", ""))}, {Scope: Host, Run: fixed(ok(""))}}, Warn, 1, 2},
		{"unknown is not well", "", []Check{{Scope: Host, Run: fixed(unknown(""))}}, Warn, 1, 1},
		{"failure before a warning", "", []Check{{Scope: Host, Run: fixed(fail("x", ""))}, {Scope: Host, Run: fixed(warn("x", ""))}}, Fail, 2, 2},
		{"no domain", "", []Check{{Scope: Domain, Run: fixed(fail("x", ""))}}, OK, 0, 0},
		{"domain", "d", []Check{{Scope: Domain, Run: fixed(fail("x", ""))}}, Fail, 2, 1},
		{"panic is contained", "", []Check{{Scope: Host, Run: func(context.Context, *Env) Result { panic("oh") }}, {Scope: Host, Run: fixed(ok(""))}}, Warn, 1, 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := Examine(context.Background(), &Env{Domain: test.domain}, test.checks)
			if r.Status != test.status || r.ExitCode() != test.code || len(r.Checks) != test.ran {
				t.Errorf("status %s, exit code %d, %d checks", r.Status, r.ExitCode(), len(r.Checks))
			}
		})
	}
}

func TestSelect(t *testing.T) {
	if all, err := Select(nil); len(all) != len(Checks()) || err != nil {
		t.Errorf("%d checks, %v", len(all), err)
	}
	some, err := Select([]string{"switchd", "kvm"})
	if err != nil || len(some) != 2 || some[0].ID != "kvm" || some[1].ID != "switchd" {
		t.Errorf("%d checks, %v", len(some), err)
	}
	if _, err := Select([]string{"kvm", "nonsense"}); err == nil || !strings.Contains(err.Error(), `"nonsense"`) {
		t.Errorf("an unknown check: %v", err)
	}
}

// The names in JSON are what scripts use.
func TestJSON(t *testing.T) {
	r := Examine(context.Background(), &Env{}, []Check{{ID: "a", Group: "g", Title: "t", Scope: Host,
		Run: func(context.Context, *Env) Result { return warn("do it", "seen").from("/proc") }}})
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"status":"warn","counts":{"warn":1},"checks":[{"id":"a","group":"g","title":"t","scope":"host","status":"warn","detail":"seen","fix":"do it","source":"/proc"}]}`
	if string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
}

func TestWrite(t *testing.T) {
	r := Report{Domain: "vm\x1b1", Status: Fail, Counts: map[Status]int{OK: 1, Fail: 1, NotApplicable: 1}, Checks: []Finding{
		{ID: "a", Group: "one", Title: "is well", Status: OK, Detail: "seen"},
		{ID: "b", Group: "one", Title: "is much better", Status: Fail, Detail: "no\x1b[2Jt", Fix: "first\nsecond"},
		{ID: "c", Group: "two", Title: "hidden", Status: NotApplicable, Detail: "no such thing"},
	}}
	var b bytes.Buffer
	Write(&b, r, false, false)
	const want = `one
  ok    is well         seen
  FAIL  is much better  no?[2Jt

what to do
  FAIL b
      first
      second

1 problem found for domain vm?1 and this host (1 ok, 1 failed, 0 warnings, 0 unknown, 1 skipped; --all lists them)
`
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", &b, want)
	}
	b.Reset()
	Write(&b, r, true, true)
	if s := b.String(); !strings.Contains(s, "\x1b[31mFAIL\x1b[0m") || !strings.Contains(s, "hidden") || strings.Contains(s, "\x1b[2J") {
		t.Errorf("%q", s)
	}
}

func TestConf(t *testing.T) {
	f := fakeFiles{}
	f.put("/c", "#user = \"a\"\nuser = \"b\" # \"c\"\nuser = 'd#e'\nempty = []\r\nlist = [ \"x\",\n # \"no\",\n \"y\", ] \n n=1\n")
	got := readConf(f, "/c")
	want := conf{"user": {"d#e"}, "empty": nil, "list": {"x", "y"}, "n": {"1"}}
	if !reflect.DeepEqual(got, want) || !got.set("empty") || got.set("other") {
		t.Errorf("got %#v", got)
	}
}

func TestSizesAndSets(t *testing.T) {
	for in, want := range map[string]uint64{"2M": 2048, "1G": 1 << 20, "2048K": 2048, "2097152": 2048, "x": 0, "": 0} {
		if got := kibibytes(in); got != want {
			t.Errorf("kibibytes(%q) = %d, want %d", in, got, want)
		}
	}
	for in, want := range map[string][]int{"0-2,5,^1": {0, 2, 5}, "": nil, "x": nil, "3": {3}, "0-99999999": nil} {
		if got := numberSet(in); !reflect.DeepEqual(got, want) {
			t.Errorf("numberSet(%q) = %v, want %v", in, got, want)
		}
	}
	for unit, want := range map[string]uint64{"b": 4, "KiB": 4096, "MiB": 4 << 20, "G": 4 << 30, "KB": 4000} {
		if got := kib(4096, unit); got != want {
			t.Errorf("4096 %s = %d KiB, want %d", unit, got, want)
		}
	}
}

// The view of a real file system.
func TestDir(t *testing.T) {
	root := t.TempDir()
	d := Dir(root)
	if err := os.MkdirAll(filepath.Join(root, "a/b"), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "a/b/c"), []byte(" text\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("b/c", filepath.Join(root, "a/link")); err != nil {
		t.Fatal(err)
	}
	info, err := d.Stat("/a/link")
	if err != nil || info.Mode.Perm() != 0o640 || info.UID != os.Getuid() || info.Inode == 0 || time.Since(info.Changed) > time.Minute {
		t.Errorf("%+v, %v", info, err)
	}
	if got, err := d.Resolve("/a/link"); got != "/a/b/c" || err != nil {
		t.Errorf("resolved to %q, %v", got, err)
	}
	if got := text(d, "/a/link"); got != "text" {
		t.Errorf("read %q", got)
	}
	if names, err := d.ReadDir("/a"); !reflect.DeepEqual(names, []string{"b", "link"}) || err != nil {
		t.Errorf("%v, %v", names, err)
	}
	if got := d.Attribute("/a", selinuxAttribute+"x"); got != "" {
		t.Errorf("attribute %q", got)
	}
	big := filepath.Join(root, "big")
	if err := os.WriteFile(big, make([]byte, maxRead+1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadFile("/big"); err == nil || !strings.Contains(err.Error(), "4 MiB") {
		t.Errorf("a huge file: %v", err)
	}
}

// This process is found as it is.
func TestOwnProcess(t *testing.T) {
	list, err := readProcesses(Dir(""))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list {
		if p.PID != os.Getpid() {
			continue
		}
		if age := time.Since(p.Started); p.UID != os.Geteuid() || !reflect.DeepEqual(p.Args, os.Args) || age < -5*time.Second || age > time.Hour {
			t.Errorf("%+v, started %v ago", p, age)
		}
		return
	}
	t.Errorf("process %d is not in the list of %d", os.Getpid(), len(list))
}

func TestVirsh(t *testing.T) {
	answers := map[string]string{
		"uri": "qemu:///system\n", "version --daemon": "Using library: libvirt 10.0.0\nUsing API: QEMU 9.0.0\nRunning against daemon: 9.1.2\n", "capabilities": "<capabilities/>",
		"list --all --name": "vm1\nvm 2\n\n", "dominfo --domain vm1": "Id:  1\nName:   vm1\nState:          running\nPersistent:     yes\n",
		"dumpxml --domain vm1": "<live/>", "dumpxml --inactive --domain vm1": "<config/>",
		"dominfo --domain off": "Name: off\nState:  shut off\nPersistent: yes\n", "dumpxml --inactive --domain off": "<off/>",
		"dominfo --domain short": "Name: short\nState:  paused\nPersistent: no\n", "dumpxml --domain short": "<short/>",
	}
	run := func(_ context.Context, name string, args ...string) (string, error) {
		if name != "virsh" || len(args) < 4 || !reflect.DeepEqual(args[:3], []string{"-q", "-c", "qemu:///system"}) {
			t.Errorf("%s %v", name, args)
		}
		out, found := answers[strings.Join(args[3:], " ")]
		if !found {
			return "", fmt.Errorf("no such call: %v", args[3:])
		}
		return out, nil
	}
	ctx := context.Background()
	v, err := ConnectVirsh(ctx, run, "")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := v.Version(ctx); n != 9_001_002 || err != nil {
		t.Errorf("version %d, %v", n, err)
	}
	if names, err := v.DomainNames(ctx); !reflect.DeepEqual(names, []string{"vm1", "vm 2"}) || err != nil {
		t.Errorf("%v, %v", names, err)
	}
	for name, want := range map[string]DomainXML{"vm1": {"vm1", "<config/>", "<live/>"}, "off": {"off", "<off/>", ""}, "short": {"short", "", "<short/>"}} {
		if got, err := v.Domain(ctx, name); got != want || err != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	if _, err := v.Domain(ctx, "missing"); err == nil {
		t.Error("a missing domain was found")
	}
	delete(answers, "uri")
	if _, err := ConnectVirsh(ctx, run, ""); err == nil || !strings.Contains(err.Error(), "qemu:///system") {
		t.Errorf("connected without an answer: %v", err)
	}
}
