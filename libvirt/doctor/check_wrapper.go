package doctor

import (
	"context"
)

func wrapperChecks() []Check {
	return []Check{
		{ID: "wrapper", Group: "qemu-wrap", Title: "qemu-wrap is installed as QEMU is", Scope: Host, Run: checkWrapper},
		{ID: "wrapper-emulator", Group: "qemu-wrap", Title: "qemu-wrap finds QEMU, and not itself", Scope: Host, Run: checkWrapperEmulator},
	}
}

var wrapperPlaces = []string{"/usr/bin/qemu-wrap", "/usr/libexec/qemu-wrap", "/usr/sbin/qemu-wrap", "/usr/local/bin/qemu-wrap"}

// wrapper is where the wrapper is; wanted tells that the domain is to be started by it.
func (e *Env) wrapper(ctx context.Context) (file string, wanted bool) {
	if e.Domain != "" {
		if d, err := e.theDomain(ctx); err == nil && d.next.wrapped() {
			return d.next.Devices.Emulator, true
		}
	}
	return e.firstFile(wrapperPlaces...), false
}

func checkWrapper(ctx context.Context, e *Env) Result {
	file, wanted := e.wrapper(ctx)
	if file == "" {
		return notApplicable("qemu-wrap is not installed; vhost-user interfaces do not need it")
	}
	const install = "vhostctl host setup"
	w, err := e.Files.Stat(file)
	if err != nil {
		if wanted {
			return fail(install, "the domain's emulator %s is not there", file).from(file)
		}
		return unknown("%v", err)
	}
	if w.Mode.Perm()&0o111 == 0 {
		return fail("chmod 0755 "+quote(file), "%s (mode %04o) may not be executed", file, w.Mode.Perm()).from(file)
	}
	if w.Mode.Perm()&0o022 != 0 {
		return fail("chmod go-w "+quote(file), "%s (mode %04o) may be changed by others than its owner", file, w.Mode.Perm()).from(file)
	}
	real := e.qemuPath()
	q, err := e.Files.Stat(real)
	if err != nil {
		return ok("%s", file).from(file)
	}
	if q.UID != w.UID || q.GID != w.GID || q.Mode.Perm() != w.Mode.Perm() {
		return warn("chown --reference="+quote(real)+" "+quote(file)+" && chmod --reference="+quote(real)+" "+quote(file),
			"%s (mode %04o, owner %d:%d) differs from %s (mode %04o, owner %d:%d)", file, w.Mode.Perm(), w.UID, w.GID, real, q.Mode.Perm(),
			q.UID, q.GID).from(file)
	}
	return ok("%s, as %s", file, real).from(file)
}

func checkWrapperEmulator(ctx context.Context, e *Env) Result {
	file, _ := e.wrapper(ctx)
	if file == "" {
		return notApplicable("qemu-wrap is not installed")
	}
	named := readConf(e.Files, wrapperConf).value("emul_path")
	fix := `set emul_path = "/usr/bin/qemu-system-x86_64" in ` + wrapperConf
	if named == "" {
		if real := e.firstFile(qemuPlaces...); real != "" {
			return ok("%s", real)
		}
		return fail(fix, "no QEMU in the usual places, and no emul_path")
	}
	q, err := e.Files.Stat(named)
	if err != nil {
		return fail(fix, "emul_path: %v", err).from(wrapperConf)
	}
	if w, err := e.Files.Stat(file); err == nil && w.Device == q.Device && w.Inode == q.Inode {
		return fail(fix, "emul_path %s is qemu-wrap itself: it would start itself for ever", named).from(wrapperConf)
	}
	if q.Mode.Perm()&0o111 == 0 {
		return fail(fix, "emul_path %s (mode %04o) may not be executed", named, q.Mode.Perm()).from(wrapperConf)
	}
	return ok("%s", named).from(wrapperConf)
}
