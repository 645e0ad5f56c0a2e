// Package users finds who uses hugepages: processes and their mappings, and files of hugetlbfs that hold pages without a process.
package users

import (
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/mount"
)

// User is a mapping of hugepages. The same pages appear once for each process that shares them.
type User struct {
	PID     int           `json:"pid,omitempty"` // 0: a file that no process maps
	Command string        `json:"command,omitempty"`
	File    string        `json:"file"` // as the kernel names it; "anonymous" for private memory
	Size    bytesize.Size `json:"page_size"`
	Pages   uint64        `json:"pages"` // that are there, not those only promised
}

// Find looks at all processes (those of others only as root) and at the mounts.
func Find(proc string, mounts []mount.Mount) []User {
	var list []User
	mapped := map[string]bool{}
	dirs, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || !hasHugepages(dir) {
			continue
		}
		// A process that has ended meanwhile has no mappings.
		smaps, _ := os.ReadFile(filepath.Join(dir, "smaps"))
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		for _, u := range parseSmaps(string(smaps)) {
			u.PID, u.Command = pid, strings.TrimSpace(string(comm))
			mapped[u.File] = true
			list = append(list, u)
		}
	}
	for _, m := range mounts {
		list = append(list, files(m, mapped)...)
	}
	sort.SliceStable(list, func(i, k int) bool { return list[i].PID < list[k].PID })
	return list
}

// hasHugepages spares reading the mappings of most processes: smaps is slow.
func hasHugepages(dir string) bool {
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "HugetlbPages:"); ok {
			return strings.TrimSpace(rest) != "0 kB"
		}
	}
	return false
}

// parseSmaps reads /proc/PID/smaps (proc_pid_smaps(5)) and sums the mappings of each file.
func parseSmaps(text string) []User {
	var list []User
	index := map[string]int{}
	file, huge, page := "", uint64(0), uint64(0)
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		if !strings.HasSuffix(f[0], ":") { // 7f00-7f01 rw-s 00000000 00:0f 123 /path
			file, huge, page = "anonymous", 0, 0
			if len(f) > 5 {
				file = strings.Join(f[5:], " ")
			}
			continue
		}
		if len(f) < 2 {
			continue
		}
		n, err := strconv.ParseUint(f[1], 10, 50)
		switch {
		case err != nil:
		case f[0] == "KernelPageSize:":
			page = n
		case f[0] == "Shared_Hugetlb:" || f[0] == "Private_Hugetlb:":
			huge += n
			if f[0] == "Private_Hugetlb:" && huge > 0 && page > 0 {
				key := file + "\x00" + strconv.FormatUint(page, 10)
				if _, ok := index[key]; !ok {
					index[key] = len(list)
					list = append(list, User{File: file, Size: bytesize.Size(page) * bytesize.KiB})
				}
				list[index[key]].Pages += huge / page
			}
		}
	}
	return list
}

// files lists the files of a mount that hold pages and that nobody maps.
func files(m mount.Mount, mapped map[string]bool) []User {
	var list []User
	if m.Size == 0 {
		return nil // the kernel does not say how large a page is
	}
	// What cannot be read is not listed.
	_ = filepath.WalkDir(m.Path, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil && st.Blocks > 0 && !mapped[path] {
			list = append(list, User{File: path, Size: m.Size, Pages: uint64(st.Blocks) * 512 / uint64(m.Size)})
		}
		return nil
	})
	return list
}
