package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// process is a running process.
type process struct {
	PID      int
	Comm     string
	Exe      string // "" where it may not be seen
	Args     []string
	Started  time.Time
	UID, GID int // effective
	Groups   []int
}

// userHZ is the unit of times in /proc: Linux has given 100 on every architecture to user space since 2.6.
const userHZ = 100

func readProcesses(f Files) ([]process, error) {
	names, err := f.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	boot := bootTime(f)
	var list []process
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if p, ok := readProcess(f, pid, boot); ok {
			list = append(list, p)
		}
	}
	return list, nil
}

func bootTime(f Files) time.Time {
	for _, line := range strings.Split(text(f, "/proc/stat"), "\n") {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			return time.Unix(n, 0)
		}
	}
	return time.Time{}
}

// readProcess is false for a process that ended meanwhile, and for kernel threads.
func readProcess(f Files, pid int, boot time.Time) (process, bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	p := process{PID: pid}
	p.Exe, _ = f.Readlink(dir + "/exe")
	p.Exe = strings.TrimSuffix(p.Exe, " (deleted)")
	cmdline, err := f.ReadFile(dir + "/cmdline")
	if err != nil || len(cmdline) == 0 {
		return p, false
	}
	p.Args = strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00")
	stat := text(f, dir+"/stat")
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return p, false
	}
	p.Comm = stat[open+1 : end]
	const starttime = 22 - 3 // proc(5): field 22, and the first behind the name is 3
	if fields := strings.Fields(stat[end+1:]); len(fields) > starttime {
		ticks, _ := strconv.ParseInt(fields[starttime], 10, 64)
		p.Started = boot.Add(time.Duration(ticks) * time.Second / userHZ)
	}
	for _, line := range strings.Split(text(f, dir+"/status"), "\n") {
		key, rest, _ := strings.Cut(line, ":")
		numbers := ints(rest)
		switch {
		case key == "Uid" && len(numbers) > 1:
			p.UID = numbers[1]
		case key == "Gid" && len(numbers) > 1:
			p.GID = numbers[1]
		case key == "Groups":
			p.Groups = numbers
		}
	}
	return p, true
}

func ints(s string) []int {
	var list []int
	for _, field := range strings.Fields(s) {
		if n, err := strconv.Atoi(field); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// libvirtDaemon finds the system's QEMU driver: the one daemon, or the modular one. Those of users' sessions have the same names.
func libvirtDaemon(list []process) (process, bool) {
	for _, p := range list {
		name := filepath.Base(p.Exe)
		if p.Exe == "" {
			name = p.Comm
		}
		if p.UID == 0 && (name == "libvirtd" || name == "virtqemud") {
			return p, true
		}
	}
	return process{}, false
}

// emulator finds the QEMU process of a domain by the file that libvirt keeps, in a directory of its own. A command line proves nothing:
// any user can start a process that names the domain. In a session all processes are the user's.
func (e *Env) emulator(list []process, name string) (process, bool) {
	if !e.session() {
		pid, err := strconv.Atoi(text(e.Files, filepath.Join("/run/libvirt/qemu", filepath.Base(name)+".pid")))
		i := slices.IndexFunc(list, func(p process) bool { return p.PID == pid })
		if err != nil || i < 0 {
			return process{}, false
		}
		return list[i], true
	}
	escaped := strings.ReplaceAll(name, ",", ",,")
	for _, p := range list {
		for i, a := range p.Args {
			if a != "-name" || i+1 == len(p.Args) || p.UID != os.Geteuid() {
				continue
			}
			rest, named := strings.CutPrefix(strings.TrimPrefix(p.Args[i+1], "guest="), escaped)
			if more := strings.HasPrefix(rest, ",") && !strings.HasPrefix(rest, ",,"); named && (rest == "" || more) {
				return p, true
			}
		}
	}
	return process{}, false
}
