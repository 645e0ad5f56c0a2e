package hugepages

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/grub"
	"vhostkit/hugepages/mount"
	"vhostkit/hugepages/pool"
	"vhostkit/internal/sysedit"
)

const debian = "testdata/corpus/debian-12/in"

// guide is the first set-up: 1 GiB for guests, 2 MiB for the switch.
func guide() Request {
	return Request{ForVMs: 7*bytesize.GiB + 1, ForSwitch: 512 * bytesize.MiB}
}

func small() Request {
	return Request{ForVMs: bytesize.GiB, ForSwitch: 512 * bytesize.MiB, PageSize: 2 * bytesize.MiB}
}

func TestGuide(t *testing.T) {
	r := newRig(t, debian)
	before := r.state()
	p := r.plan(guide())
	if r.state() != before {
		t.Fatal("planning changed something")
	}
	for _, want := range []string{"+GRUB_CMDLINE_LINUX=\"default_hugepagesz=1G hugepagesz=1G hugepages=8 hugepagesz=2M hugepages=256\"", "+hugetlbfs /mnt/huge hugetlbfs pagesize=2M 0 0"} {
		if !strings.Contains(p.Diff(), want) {
			t.Errorf("the diff lacks %q:\n%s", want, p.Diff())
		}
	}
	if len(p.Reboot) != 1 || !strings.Contains(p.Reboot[0], "default page size stays 2M") {
		t.Errorf("reboot: %q", p.Reboot)
	}
	if err := p.Apply(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.kernel.Count(0, bytesize.GiB) != 4 || r.kernel.Count(1, bytesize.GiB) != 4 || r.kernel.Count(1, 2*bytesize.MiB) != 128 {
		t.Errorf("pools: %v", r.kernel.Writes)
	}
	want := []mount.Mount{{Path: r.at("/dev/hugepages"), Size: bytesize.GiB}, {Path: r.at("/mnt/huge"), Size: 2 * bytesize.MiB}}
	if !slices.Equal(r.mounter.list, want) {
		t.Errorf("mounts: %+v", r.mounter.list)
	}
	if !slices.Equal(r.runner.ran, []string{"update-grub"}) {
		t.Errorf("ran %q", r.runner.ran)
	}

	after := r.state()
	again := r.provision(guide())
	if !again.Empty() || again.Diff() != "" || r.state() != after || len(r.runner.ran) != 1 {
		t.Errorf("a second time: %s ran %q", again.Diff(), r.runner.ran)
	}
	r.undo()
	if got := r.state(); got != before {
		t.Errorf("undone:\n%s\nwas:\n%s", got, before)
	}
	if len(r.runner.ran) != 2 {
		t.Errorf("after undo ran %q", r.runner.ran)
	}
	if _, err := r.Undo(false); !errors.Is(err, sysedit.ErrNothing) {
		t.Errorf("undo twice: %v", err)
	}
}

// TestSmall is the second set-up: 2 MiB for both on one mount.
func TestSmall(t *testing.T) {
	r := newRig(t, debian)
	p := r.provision(small())
	if len(p.Reboot) > 0 || len(p.Mounts) > 0 || strings.Contains(p.Diff(), "fstab") ||
		!strings.Contains(p.Diff(), "+GRUB_CMDLINE_LINUX=\"hugepagesz=2M hugepages=768\"") {
		t.Errorf("reboot %q, mounts %v\n%s", p.Reboot, p.Mounts, p.Diff())
	}
	if r.kernel.Count(0, 2*bytesize.MiB) != 384 {
		t.Errorf("%v", r.kernel.Writes)
	}
	// More, then undo: back to the beginning.
	more := small()
	more.ForVMs = 2 * bytesize.GiB
	r.provision(more)
	if r.kernel.Count(0, 2*bytesize.MiB) != 640 {
		t.Errorf("%v", r.kernel.Writes)
	}
	r.undo()
	if r.kernel.Count(0, 2*bytesize.MiB) != 0 {
		t.Errorf("%v", r.kernel.Writes)
	}
}

func TestOthersPagesStay(t *testing.T) {
	r := newRig(t, debian)
	r.kernel.Use(0, bytesize.GiB, 6, 5)
	r.write("/etc/default/grub", "GRUB_CMDLINE_LINUX=\"hugepagesz=1G hugepages=12\"\n")
	request := Request{ForVMs: 4 * bytesize.GiB}
	p := r.provision(request)
	if r.kernel.Count(0, bytesize.GiB) != 6 || r.kernel.Count(1, bytesize.GiB) != 0 || strings.Contains(p.Diff(), "hugepages=4") {
		t.Errorf("%v\n%s", r.kernel.Writes, p.Diff())
	}
	// Exact takes what nobody uses, and no more.
	request.Exact = true
	request.ForVMs = 2 * bytesize.GiB
	p = r.provision(request)
	if r.kernel.Count(0, bytesize.GiB) != 5 || !strings.Contains(p.Diff(), "hugepagesz=1G hugepages=2 default_hugepagesz=1G") {
		t.Errorf("%v\n%s", r.kernel.Writes, p.Diff())
	}
	// Pages that came into use meanwhile survive the undo.
	r.kernel.Use(1, 2*bytesize.MiB, 50, 50)
	r.undo()
	if r.kernel.Count(0, bytesize.GiB) != 6 || r.kernel.Count(1, 2*bytesize.MiB) != 50 {
		t.Errorf("%v", r.kernel.Writes)
	}
}

func TestNodes(t *testing.T) {
	r := newRig(t, debian)
	r.provision(Request{Nodes: map[int]uint64{1: 3, 0: 1}})
	data, err := os.ReadFile(r.at("/etc/default/grub"))
	if err != nil || !strings.Contains(string(data), "hugepagesz=1G hugepages=0:1,1:3") || r.kernel.Count(1, bytesize.GiB) != 3 || r.kernel.Count(0, bytesize.GiB) != 1 {
		t.Fatalf("%s %v %v", data, r.kernel.Writes, err)
	}
	r.kernel.Texts["/proc/sys/kernel/osrelease"] = "5.14.0-427.el9\n"
	if _, err := r.Plan(t.Context(), Request{Nodes: map[int]uint64{0: 2}}); !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), "5.16") {
		t.Errorf("an old kernel: %v", err)
	}
	if _, err := r.Plan(t.Context(), Request{Nodes: map[int]uint64{0: 2}, Runtime: true}); err != nil {
		t.Errorf("an old kernel at run time: %v", err)
	}
}

func TestDomains(t *testing.T) {
	r := newRig(t, debian)
	p := r.plan(Request{Domains: []Domain{{"a", []bytesize.Size{1536 * bytesize.MiB}}, {"b", []bytesize.Size{bytesize.GiB, bytesize.GiB}}}})
	if p.Need.Pools[0].Count != 4 || len(p.Need.Reasons) != 2 {
		t.Errorf("%+v", p.Need)
	}
}

func TestBadRequests(t *testing.T) {
	r := newRig(t, debian)
	before := r.state()
	for name, request := range map[string]Request{
		"nothing":           {},
		"no such node":      {Nodes: map[int]uint64{2: 1}},
		"too much":          {ForVMs: 40 * bytesize.GiB},
		"nothing left":      {ForVMs: 31 * bytesize.GiB},
		"too much on node":  {Nodes: map[int]uint64{0: 17}},
		"overflow":          {Nodes: map[int]uint64{0: 1 << 60, 1: 1 << 60}},
		"page size":         {ForVMs: bytesize.GiB, PageSize: 16 * bytesize.GiB},
		"too few by node":   {ForVMs: 3 * bytesize.GiB, Nodes: map[int]uint64{0: 2}},
		"no unit":           {ForVMs: 8},
		"no unit, switch":   {ForVMs: bytesize.GiB, ForSwitch: 512},
		"no pages on nodes": {Nodes: map[int]uint64{0: 0, 1: 0}},
		"mount point":       {ForSwitch: bytesize.GiB, Mount: "huge"},
		"default mount":     {ForSwitch: bytesize.GiB, Mount: "/dev/hugepages/"},
		"not free":          {ForVMs: 8 * bytesize.GiB, Runtime: true},
		"not free on nodes": {Nodes: map[int]uint64{0: 9}, Runtime: true},
	} {
		if strings.HasPrefix(name, "not free") {
			r.kernel.Use(0, 2*bytesize.MiB, 6*512, 0)
			r.kernel.Use(1, 2*bytesize.MiB, 6*512, 0)
			if name == "not free" {
				request.ForVMs = 19 * bytesize.GiB
				request.ForSwitch = 0
			} else {
				request.Nodes[0] = 15
			}
		}
		if _, err := r.Plan(t.Context(), request); !errors.Is(err, ErrRequest) {
			t.Errorf("%s: %v", name, err)
		}
		r.kernel.Use(0, 2*bytesize.MiB, 0, 0)
		r.kernel.Use(1, 2*bytesize.MiB, 0, 0)
	}
	if r.state() != before {
		t.Error("something was touched")
	}
}

// TestFailuresRollBack: whatever fails, the system is as it was.
func TestFailuresRollBack(t *testing.T) {
	for name, c := range map[string]struct {
		breakIt func(r *rig)
		runtime bool
	}{
		"generator":      {breakIt: func(r *rig) { r.runner.fail = "update-grub" }},
		"mount":          {breakIt: func(r *rig) { r.mounter.refuse = r.at("/mnt/huge") }},
		"default mount":  {breakIt: func(r *rig) { r.mounter.refuse = r.at("/dev/hugepages") }},
		"pages":          {breakIt: func(r *rig) { r.kernel.Limit(1, bytesize.GiB, 2) }, runtime: true},
		"fstab in a way": {breakIt: func(r *rig) { r.write("/etc/fstab", "/dev/sdb /mnt/huge ext4 ro 0 0\n") }},
		"no parser":      {breakIt: func(r *rig) { r.write("/etc/default/grub", "GRUB_CMDLINE_LINUX=$(date)\n") }},
		"no loader":      {breakIt: func(r *rig) { os.Remove(r.at("/etc/default/grub")) }},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, debian)
			c.breakIt(r)
			if name == "default mount" {
				r.mounter.set()
			}
			before := r.state()
			request := guide()
			request.Runtime = c.runtime
			p, err := r.Plan(t.Context(), request)
			if err == nil {
				err = p.Apply(t.Context())
			}
			if err == nil {
				t.Fatal("no error")
			}
			if name == "no parser" && (!errors.Is(err, grub.ErrUnparsable) || !strings.Contains(err.Error(),
				`GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX default_hugepagesz=1G hugepagesz=1G hugepages=8 hugepagesz=2M hugepages=256"`)) {
				t.Errorf("no line to add by hand in %v", err)
			}
			if got := r.state(); got != before {
				t.Errorf("%v\nleft:\n%s\nwas:\n%s", err, got, before)
			}
			if _, err := r.Undo(false); !errors.Is(err, sysedit.ErrNothing) {
				t.Errorf("something is left to undo: %v", err)
			}
		})
	}
}

// TestShortNow: what the kernel cannot give now comes at the next boot.
func TestShortNow(t *testing.T) {
	r := newRig(t, debian)
	r.kernel.Limit(1, bytesize.GiB, 2)
	p := r.provision(guide())
	if r.kernel.Count(0, bytesize.GiB)+r.kernel.Count(1, bytesize.GiB)+r.kernel.Count(0, 2*bytesize.MiB) != 0 {
		t.Errorf("left %v", r.kernel.Writes)
	}
	if !slices.ContainsFunc(p.Reboot, func(s string) bool { return strings.Contains(s, pool.ErrShort.Error()) }) {
		t.Errorf("reboot: %q", p.Reboot)
	}
}

func TestDefaultMountInUse(t *testing.T) {
	for name, use := range map[string]func(*rig){
		"files": func(r *rig) { r.mounter.files[r.at("/dev/hugepages")] = true },
		"busy":  func(r *rig) { r.mounter.busy[r.at("/dev/hugepages")] = mount.ErrBusy },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, debian)
			use(r)
			before := r.state()
			r.provision(guide())
			want := []mount.Mount{{Path: r.at("/dev/hugepages"), Size: 2 * bytesize.MiB}, {Path: r.at("/dev/hugepages1G"), Size: bytesize.GiB}, {Path: r.at("/mnt/huge"), Size: 2 * bytesize.MiB}}
			if !slices.Equal(r.mounter.list, want) {
				t.Errorf("mounts: %+v", r.mounter.list)
			}
			if p := r.plan(guide()); !p.Empty() {
				t.Errorf("a second time: %+v %s", p.Mounts, p.Diff())
			}
			r.undo()
			if got := r.state(); got != before {
				t.Errorf("undone:\n%s\nwas:\n%s", got, before)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	r := newRig(t, debian)
	if _, err := r.Verify(); !errors.Is(err, ErrNothingAsked) {
		t.Fatal(err)
	}
	request := guide()
	request.Persist = true
	r.provision(request)
	bad := func() (failed, pending int) {
		list, err := r.Verify()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			if !f.OK {
				failed++
				if f.Pending {
					pending++
				}
			}
		}
		return failed, pending
	}
	if failed, pending := bad(); failed != 5 || pending != 5 {
		t.Errorf("before the reboot %d, %d pending", failed, pending)
	}
	data, err := os.ReadFile(r.at("/etc/default/grub"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := grub.Parse(grub.Source{Content: data})
	if err != nil {
		t.Fatal(err)
	}
	r.kernel.Texts["/proc/cmdline"] = config.CommandLine()
	r.kernel.Texts["/proc/sys/kernel/random/boot_id"] = "two\n"
	r.kernel.Reboot(map[bytesize.Size]uint64{bytesize.GiB: 8, 2 * bytesize.MiB: 256}, bytesize.GiB)
	r.mounter.set(mount.Mount{Path: r.at("/dev/hugepages"), Size: bytesize.GiB}, mount.Mount{Path: r.at("/mnt/huge"), Size: 2 * bytesize.MiB})
	if failed, _ := bad(); failed != 0 {
		t.Errorf("after the reboot %d", failed)
	}
	if p := r.plan(guide()); !p.Empty() || len(p.Reboot) > 0 {
		t.Errorf("after the reboot there is something to do: %q %s", p.Reboot, p.Diff())
	}
	// The kernel had no room for all.
	r.kernel.Reboot(map[bytesize.Size]uint64{bytesize.GiB: 7, 2 * bytesize.MiB: 256}, bytesize.GiB)
	if failed, pending := bad(); failed != 1 || pending != 0 {
		t.Errorf("with too few pages %d, %d pending", failed, pending)
	}
}

// TestAgain: a boot whose command line does not bring the pages gets them as they were asked for.
func TestAgain(t *testing.T) {
	r := newRig(t, debian)
	if _, err := r.Again(t.Context()); !errors.Is(err, ErrNothingAsked) {
		t.Fatal(err)
	}
	before := r.state()
	request := guide()
	request.Runtime = true
	r.provision(request)
	r.kernel.Texts["/proc/sys/kernel/random/boot_id"] = "two\n"
	r.kernel.Reboot(nil, 2*bytesize.MiB)
	r.mounter.set(mount.Mount{Path: r.at("/dev/hugepages"), Size: 2 * bytesize.MiB})
	for range 2 {
		p, err := r.Again(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Apply(t.Context()); err != nil {
			t.Fatal(err)
		}
		if r.kernel.Count(0, bytesize.GiB) != 4 || r.kernel.Count(1, 2*bytesize.MiB) != 128 || len(r.mounter.list) != 2 {
			t.Fatalf("%v %v", r.kernel.Writes, r.mounter.list)
		}
	}
	if p, err := r.Again(t.Context()); err != nil || !p.Empty() {
		t.Fatalf("a third time: %v", err)
	}
	r.undo()
	if got := r.state(); got != before {
		t.Errorf("undone:\n%s\nwas:\n%s", got, before)
	}
}

// TestOtherLoaders: what is run where the command line is no file of ours.
func TestOtherLoaders(t *testing.T) {
	const pairs = "default_hugepagesz=1G hugepagesz=1G hugepages=8 hugepagesz=2M hugepages=256"
	for name, c := range map[string]struct {
		files      map[string]string
		programs   map[string]string
		want, undo string // the last command
		then       string // what the program prints afterwards
	}{
		"rpm-ostree": {map[string]string{"/run/ostree-booted": "", "/etc/default/grub": ""}, map[string]string{"rpm-ostree": "rw hugepages=3 quiet\n"},
			"rpm-ostree kargs --delete=hugepages=3 --append=hugepagesz=2M --append=hugepages=256 --append=default_hugepagesz=1G --append=hugepagesz=1G --append=hugepages=8",
			"rpm-ostree kargs --delete=hugepagesz=1G --append=hugepages=3", "rw quiet hugepagesz=1G\n"},
		"kernelstub": {map[string]string{"/etc/kernelstub/configuration": `{"default": {}, "user": {"kernel_options": ["quiet", "splash"]}}`}, map[string]string{"kernelstub": ""},
			"kernelstub -o quiet splash " + pairs, "", ""},
		"grubby": {nil, map[string]string{"grubby": "index=0\nargs=\"ro hugepages=3\"\n"},
			`grubby --update-kernel=ALL --remove-args=default_hugepagesz hugepagesz hugepages --args=hugepagesz=2M hugepages=256 default_hugepagesz=1G hugepagesz=1G hugepages=8`,
			`grubby --update-kernel=ALL --remove-args=default_hugepagesz hugepagesz hugepages --args=hugepages=3`, "args=\"ro hugepagesz=2M hugepages=256\"\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "")
			for path, content := range c.files {
				r.write(path, content)
			}
			r.runner.programs = c.programs
			request := guide()
			request.Persist = true
			r.provision(request)
			if got := r.runner.ran[len(r.runner.ran)-1]; got != c.want {
				t.Errorf("ran\n%s\nwant\n%s", got, c.want)
			}
			if c.undo == "" {
				return
			}
			for program := range c.programs {
				c.programs[program] = c.then
			}
			r.undo()
			if got := r.runner.ran[len(r.runner.ran)-1]; got != c.undo {
				t.Errorf("undo ran\n%s\nwant\n%s", got, c.undo)
			}
		})
	}
}

func TestFilesStayWithinRoot(t *testing.T) {
	r := newRig(t, debian)
	r.provision(guide())
	if _, err := os.Stat(filepath.Join(r.Store.Root, recordPath)); err != nil {
		t.Error(err)
	}
}
