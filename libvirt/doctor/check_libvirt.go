package doctor

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func libvirtChecks() []Check {
	return []Check{
		{ID: "libvirt", Group: "libvirt", Title: "libvirt answers", Scope: Host, Run: checkLibvirt},
		{ID: "libvirt-private-memory", Group: "libvirt", Title: "no domain has vhost-user interfaces on private memory", Scope: Host, Run: checkPrivateMemory},
		{ID: "qemu-version", Group: "libvirt", Title: "QEMU is new enough", Scope: Host, Run: checkQEMU},
		{ID: "capability-cache", Group: "libvirt", Title: "what libvirt remembers of QEMU is fresh", Scope: Host, Run: checkCache},
	}
}

// Names and places of libvirt's QEMU daemons.
var libvirtDaemons = []string{"/usr/sbin/libvirtd", "/usr/sbin/virtqemud", "/usr/local/sbin/libvirtd", "/usr/local/sbin/virtqemud"}

func (e *Env) libvirtInstalled() bool { return e.firstFile(libvirtDaemons...) != "" }

func (e *Env) firstFile(list ...string) string {
	for _, p := range list {
		if p == "" {
			continue
		}
		if _, err := e.Files.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

func checkLibvirt(ctx context.Context, e *Env) Result {
	l, err := e.connection(ctx)
	if err == nil {
		var v int
		if v, err = l.Version(ctx); err == nil {
			return ok("libvirt %s", versionText(v))
		}
	}
	switch {
	case !e.libvirtInstalled() && e.Domain == "":
		return notApplicable("libvirt is not installed")
	case errors.Is(err, fs.ErrPermission) || strings.Contains(strings.ToLower(err.Error()), "permission denied"),
		strings.Contains(err.Error(), "authentication"):
		return unknown("%v: run it with sudo, or as a member of the group libvirt", err)
	}
	return fail("systemctl start libvirtd || systemctl start virtqemud.socket", "%v", err)
}

func versionText(v int) string { return fmt.Sprintf("%d.%d.%d", v/1000000, v/1000%1000, v%1000) }

// silentUntil is the first libvirt that refuses a vhost-user interface on private memory.
const silentUntil = 11_002_000

func checkPrivateMemory(ctx context.Context, e *Env) Result {
	l, err := e.connection(ctx)
	if err != nil {
		return notApplicable("no libvirt to ask")
	}
	v, err := l.Version(ctx)
	if err != nil {
		return unknown("%v", err)
	}
	names, err := l.DomainNames(ctx)
	if err != nil {
		return unknown("%v", err)
	}
	on, all := 0, []Result{}
	for _, name := range names {
		x, err := l.Domain(ctx, name)
		if err != nil {
			continue // gone meanwhile
		}
		d, err := newDomain(x)
		if err != nil {
			all = append(all, unknown("%v", err))
			continue
		}
		if len(d.next.vhostUser()) == 0 {
			continue
		}
		on++
		if why := d.next.private(); why != "" && !d.next.wrapped() {
			all = append(all, fail("vhostctl attach "+quote(name)+"   # or: virsh edit "+quote(name)+": <memoryBacking> <source type='memfd'/><access mode='shared'/>",
				"%s: %s", name, why))
		}
	}
	if len(all) > 0 {
		return merge(all...)
	}
	note := ""
	if v < silentUntil {
		note = fmt.Sprintf("; libvirt %s starts one silently if it is, and no packet flows", versionText(v))
	}
	return ok("%d of %d domains have vhost-user interfaces%s", on, len(names), note)
}

// qemuPlaces are where distributions have QEMU.
var qemuPlaces = []string{"/usr/bin/qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm", "/usr/local/bin/qemu-system-x86_64",
	"/usr/bin/kvm", "/usr/bin/qemu-system-aarch64"}

// qemuPath is the host's QEMU: the wrapper's, or the usual one.
func (e *Env) qemuPath() string {
	return e.firstFile(append([]string{readConf(e.Files, wrapperConf).value("emul_path")}, qemuPlaces...)...)
}

var versionPattern = regexp.MustCompile(`version (\d+)\.(\d+)(?:\.(\d+))?`)

func (e *Env) qemuVersion(ctx context.Context, emulator string) (int, error) {
	out, err := e.Run(ctx, emulator, "--version")
	if err != nil {
		return 0, fmt.Errorf("%s --version: %w", emulator, err)
	}
	m := versionPattern.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("%s --version answers %q", emulator, strings.TrimSpace(out[:min(len(out), 60)]))
	}
	number := func(i int) int { n, _ := strconv.Atoi(m[i]); return n }
	return number(1)*1000000 + number(2)*1000 + number(3), nil
}

// QEMU versions from which something works.
const (
	qemuVhostUser = 2_002_000 // vhost-user at all
	qemuQueues    = 2_005_000 // several queue pairs over vhost-user
	qemuReconnect = 2_007_000 // a vhost-user back-end may go and come
	qemuMemfd     = 2_012_000 // memory-backend-memfd
	qemuPacked    = 4_002_000 // packed rings over vhost
)

func checkQEMU(ctx context.Context, e *Env) Result {
	emulator := e.qemuPath()
	if emulator == "" {
		return fail("apt install qemu-system-x86 || dnf install qemu-kvm", "no QEMU in the usual places")
	}
	v, err := e.qemuVersion(ctx, emulator)
	if err != nil {
		return unknown("%v", err)
	}
	return judgeQEMU(v).from(emulator)
}

func judgeQEMU(v int) Result {
	const fix = "upgrade QEMU"
	switch {
	case v < qemuVhostUser:
		return fail(fix, "QEMU %s has no vhost-user: 2.2 or newer", versionText(v))
	case v < qemuReconnect:
		return warn(fix, "QEMU %s loses the network for good when switchd restarts: 2.7 or newer", versionText(v))
	case v < qemuMemfd:
		return warn(fix, "QEMU %s has no memfd: guest memory must be on hugetlbfs or a file; 2.12 or newer", versionText(v))
	}
	return ok("QEMU %s", versionText(v))
}

const cacheDir = "/var/cache/libvirt/qemu/capabilities"

// checkCache looks for what libvirt learned of a wrapper from a QEMU that was replaced since: libvirt compares only the wrapper's own ctime.
func checkCache(_ context.Context, e *Env) Result {
	if e.session() {
		return notApplicable("a session has its cache elsewhere")
	}
	names, err := e.Files.ReadDir(cacheDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notApplicable("libvirt has no cache yet").from(cacheDir)
	case err != nil:
		return unknown("%v", err)
	}
	var all []Result
	for _, name := range names {
		if !strings.HasSuffix(name, ".xml") {
			continue
		}
		file := path.Join(cacheDir, name)
		data, err := e.Files.ReadFile(file)
		if err != nil {
			all = append(all, unknown("%v", err))
			continue
		}
		if r, ok := e.judgeCache(file, data); ok {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return notApplicable("nothing about a wrapper").from(cacheDir)
	}
	return merge(all...).from(cacheDir)
}

func (e *Env) judgeCache(file string, data []byte) (Result, bool) {
	var c struct {
		Emulator string `xml:"emulator"`
		CTime    int64  `xml:"qemuctime"`
	}
	if xml.Unmarshal(data, &c) != nil || !strings.Contains(c.Emulator, "qemu-wrap") {
		return Result{}, false
	}
	cached, err := e.Files.Stat(file)
	if err != nil {
		return unknown("%v", err), true
	}
	wrapper, err := e.Files.Stat(c.Emulator)
	if err != nil || !wrapper.Changed.Truncate(time.Second).Equal(time.Unix(c.CTime, 0)) {
		return ok("%s changed since: libvirt asks again", c.Emulator), true
	}
	real := e.qemuPath()
	qemu, err := e.Files.Stat(real)
	if err != nil {
		return unknown("QEMU behind %s: %v", c.Emulator, err), true
	}
	if qemu.Changed.After(cached.Modified) {
		return warn("touch "+quote(c.Emulator), "%s is newer than what libvirt remembers of %s: it would use the old QEMU's abilities", real, c.Emulator), true
	}
	return ok("%s as of %s", c.Emulator, cached.Modified.UTC().Format(time.DateTime)), true
}
