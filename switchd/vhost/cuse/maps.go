package cuse

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// maxMappings bounds how many mappings of a process are looked at, as vm.max_map_count does by default.
const maxMappings = 65530

// mapping is a line of /proc/PID/maps (proc(5)).
type mapping struct {
	Start, End   uint64
	Write        bool
	Shared       bool
	Offset       uint64 // into the file, in bytes
	Major, Minor uint32 // of the file's device
	Inode        uint64 // 0: memory without a file
	Path         string // of the file, " (deleted)" at its end if that is so
}

// sameFile tells that both are of one file.
func (m mapping) sameFile(o mapping) bool {
	return m.Inode == o.Inode && m.Major == o.Major && m.Minor == o.Minor
}

// continues tells that m is the next part of what o maps: the kernel splits a mapping in two where madvise(2) or mprotect(2) was called
// for a part of it.
func (m mapping) continues(o mapping) bool {
	return m.Start == o.End && m.sameFile(o) && m.Inode != 0 && m.Shared == o.Shared && m.Write == o.Write &&
		m.Offset == o.Offset+(o.End-o.Start)
}

// parseMaps reads /proc/PID/maps, in ascending order of addresses.
func parseMaps(r io.Reader) ([]mapping, error) {
	var all []mapping
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 8192), 64<<10)
	for lines.Scan() {
		m, err := parseMapping(lines.Text())
		if err != nil {
			return nil, err
		}
		if len(all) > 0 && m.Start < all[len(all)-1].End {
			return nil, fmt.Errorf("mapping %q begins before the end of the one before it", lines.Text())
		}
		if len(all) == maxMappings {
			return nil, fmt.Errorf("more than %d mappings", maxMappings)
		}
		all = append(all, m)
	}
	return all, lines.Err()
}

// parseMapping reads "7f00-7f10 rw-s 00001000 00:01 1234   /path of the file".
func parseMapping(line string) (m mapping, err error) {
	fields := strings.SplitN(line, " ", 6)
	if len(fields) < 5 || len(fields[1]) != 4 {
		return m, fmt.Errorf("mapping %q: want address, permissions, offset, device and inode", line)
	}
	number := func(s string, base, bits int) uint64 {
		n, e := strconv.ParseUint(s, base, bits)
		if err == nil && e != nil {
			err = fmt.Errorf("mapping %q: %w", line, e)
		}
		return n
	}
	start, end, _ := strings.Cut(fields[0], "-")
	major, minor, _ := strings.Cut(fields[3], ":")
	m = mapping{
		Start: number(start, 16, 64), End: number(end, 16, 64), Write: fields[1][1] == 'w', Shared: fields[1][3] == 's',
		Offset: number(fields[2], 16, 64), Major: uint32(number(major, 16, 32)), Minor: uint32(number(minor, 16, 32)),
		Inode: number(fields[4], 10, 64),
	}
	if len(fields) == 6 {
		m.Path = strings.TrimLeft(fields[5], " ")
	}
	if err == nil && m.End <= m.Start {
		err = fmt.Errorf("mapping %q is empty", line)
	}
	return m, err
}

// join makes one of mappings that continue each other.
func join(all []mapping) []mapping {
	var joined []mapping
	for _, m := range all {
		if n := len(joined); n > 0 && m.continues(joined[n-1]) {
			joined[n-1].End = m.End
			continue
		}
		joined = append(joined, m)
	}
	return joined
}
