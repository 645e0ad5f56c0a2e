package doctor

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// identity is who QEMU runs as.
type identity struct {
	UID, GID int
	Groups   []int
	Name     string // for printing
	Source   string
}

func (i identity) in(gid int) bool { return i.GID == gid || slices.Contains(i.Groups, gid) }

// may tells whether the mode bits allow what bits (4 read, 2 write, 1 search) ask for. Root gets no more than its own bits: libvirt
// takes all capabilities from QEMU.
func (i identity) may(f FileInfo, bits fs.FileMode) bool {
	mode := f.Mode.Perm()
	switch {
	case f.UID == i.UID:
		mode >>= 6
	case i.in(f.GID):
		mode >>= 3
	}
	return mode&bits == bits
}

// reach walks to a path as somebody. The first obstacle is the error; fix removes it.
func reach(f Files, target string, who identity, bits fs.FileMode) (fix string, err error) {
	real, err := f.Resolve(target)
	if err != nil {
		return "", err
	}
	parts := strings.Split(strings.Trim(real, "/"), "/")
	for i, at := 0, "/"; i < len(parts); i++ {
		info, err := f.Stat(at)
		if err != nil {
			return "", err
		}
		if !who.may(info, 1) && f.Attribute(at, aclAttribute) == "" {
			return fmt.Sprintf("setfacl -m u:%d:x %s", who.UID, quote(at)),
				fmt.Errorf("%s (mode %04o, owner %d:%d) does not let %s through", at, info.Mode.Perm(), info.UID, info.GID, who.Name)
		}
		at = path.Join(at, parts[i])
	}
	info, err := f.Stat(real)
	if err != nil {
		return "", err
	}
	if !who.may(info, bits) && f.Attribute(real, aclAttribute) == "" {
		return fmt.Sprintf("chgrp %d %s && chmod g+rw %s", who.GID, quote(real), quote(real)),
			fmt.Errorf("%s (mode %04o, owner %d:%d) is closed to %s", real, info.Mode.Perm(), info.UID, info.GID, who.Name)
	}
	return "", nil
}

// aclAttribute is there where a POSIX ACL says more than the mode bits. Such a place counts as open: the ACL was set on purpose.
const aclAttribute = "system.posix_acl_access"

var errNoUser = errors.New("QEMU's user is not known")

// qemuUser is who QEMU runs as: as the running process shows, as libvirt tells, or as qemu.conf and the distribution have it.
func (e *Env) qemuUser(ctx context.Context) (identity, error) {
	return e.qemu.get(func() (identity, error) {
		if e.Domain != "" {
			if list, err := e.processes(); err == nil {
				if d, err := e.theDomain(ctx); err == nil {
					if p, ok := e.emulator(list, d.Name); ok {
						who := identity{UID: p.UID, GID: p.GID, Groups: p.Groups, Source: fmt.Sprintf("/proc/%d/status", p.PID)}
						who.Name = userName(e.Files, p.UID)
						return who, nil
					}
				}
			}
		}
		if text, err := e.capabilities(ctx); err == nil {
			if uid, gid, ok := dacLabel(text); ok {
				return account(e.Files, uid, gid, "libvirt's capabilities"), nil
			}
		}
		return configuredUser(e.Files)
	})
}

// dacLabel finds the owner that libvirt gives to QEMU processes: <baselabel type='kvm'>+107:+107</baselabel> of model dac.
func dacLabel(capabilities string) (uid, gid int, ok bool) {
	var c struct {
		Models []struct {
			Model  string   `xml:"model"`
			Labels []string `xml:"baselabel"`
		} `xml:"host>secmodel"`
	}
	if xml.Unmarshal([]byte(capabilities), &c) != nil {
		return 0, 0, false
	}
	for _, m := range c.Models {
		if m.Model != "dac" || len(m.Labels) == 0 {
			continue
		}
		u, g, _ := strings.Cut(strings.TrimSpace(m.Labels[0]), ":")
		uid, err1 := strconv.Atoi(strings.TrimPrefix(u, "+"))
		gid, err2 := strconv.Atoi(strings.TrimPrefix(g, "+"))
		return uid, gid, err1 == nil && err2 == nil
	}
	return 0, 0, false
}

// configuredUser is what qemu.conf says, or the user that the distribution's package made.
func configuredUser(f Files) (identity, error) {
	conf := readConf(f, qemuConf)
	names := []string{"libvirt-qemu", "qemu"}
	source := "/etc/passwd"
	if v := conf.value("user"); v != "" {
		names, source = []string{strings.TrimPrefix(v, "+")}, qemuConf
	}
	for _, name := range names {
		for _, u := range database(f, "/etc/passwd") {
			if len(u) > 3 && (u[0] == name || u[2] == name) {
				uid, _ := strconv.Atoi(u[2])
				gid, _ := strconv.Atoi(u[3])
				if g := conf.value("group"); g != "" {
					gid = groupID(f, g, gid)
				}
				return account(f, uid, gid, source), nil
			}
		}
	}
	return identity{}, errNoUser
}

// database reads the lines of passwd or group.
func database(f Files, file string) [][]string {
	var list [][]string
	for _, line := range strings.Split(text(f, file), "\n") {
		list = append(list, strings.Split(line, ":"))
	}
	return list
}

func userName(f Files, uid int) string {
	for _, u := range database(f, "/etc/passwd") {
		if len(u) > 2 && u[2] == strconv.Itoa(uid) {
			return u[0]
		}
	}
	return fmt.Sprintf("uid %d", uid)
}

func groupID(f Files, name string, otherwise int) int {
	name = strings.TrimPrefix(name, "+")
	for _, g := range database(f, "/etc/group") {
		if len(g) > 2 && (g[0] == name || g[2] == name) {
			if id, err := strconv.Atoi(g[2]); err == nil {
				return id
			}
		}
	}
	return otherwise
}

// account is a user as libvirt starts QEMU: with the group that it is told, the user's own, and those of the group file.
func account(f Files, uid, gid int, source string) identity {
	who := identity{UID: uid, GID: gid, Name: userName(f, uid), Source: source}
	for _, u := range database(f, "/etc/passwd") {
		if len(u) > 3 && u[2] == strconv.Itoa(uid) {
			if own, err := strconv.Atoi(u[3]); err == nil {
				who.Groups = append(who.Groups, own)
			}
			break
		}
	}
	for _, g := range database(f, "/etc/group") {
		if len(g) > 3 && slices.Contains(strings.Split(g[3], ","), who.Name) {
			if id, err := strconv.Atoi(g[2]); err == nil {
				who.Groups = append(who.Groups, id)
			}
		}
	}
	return who
}
