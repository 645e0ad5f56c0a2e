package hugepages

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"vhostkit/hugepages/boot"
	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/kernelargs"
	"vhostkit/hugepages/mount"
	"vhostkit/hugepages/pool"
	"vhostkit/internal/sysedit"
)

// EditName is the name of the edit in the store.
const EditName = "hugepages"

// recordPath is where what was asked and done is remembered; below the store's root.
const recordPath = "/var/lib/vhostkit/hugepages.json"

// Host is the machine.
type Host struct {
	Store   sysedit.Store
	Kernel  pool.Files
	Mounter mount.Mounter
	Runner  boot.Runner
}

// System is the running system.
func System() Host {
	return Host{Kernel: pool.System{}, Mounter: mount.System{}, Runner: boot.System{}}
}

func (h Host) boot() boot.Host {
	release, _ := h.Kernel.Read("/proc/sys/kernel/osrelease")
	return boot.Host{Root: h.Store.Root, Runner: h.Runner, Release: strings.TrimSpace(release)}
}

// base is the default page size that the kernel has without default_hugepagesz=: 2 MiB on x86, whatever it says now.
const base = 2 * bytesize.MiB

// byNodeSince is the first kernel that takes hugepages=0:2,1:2.
var byNodeSince = [2]int{5, 16}

func (b hostRelease) takesNodes() bool {
	parts := strings.SplitN(string(b), ".", 3)
	if len(parts) < 2 {
		return false
	}
	major, err1 := strconv.Atoi(parts[0])
	minor, err2 := strconv.Atoi(strings.TrimRight(parts[1], "+-abcdefghijklmnopqrstuvwxyz"))
	return err1 == nil && err2 == nil && (major > byNodeSince[0] || major == byNodeSince[0] && minor >= byNodeSince[1])
}

type hostRelease string

// mounts reads what is mounted, with paths as they are below the root.
func (h Host) mounts(s pool.State) (mount.Table, error) {
	text, err := h.Kernel.Read("/proc/self/mounts")
	if err != nil {
		return mount.Table{}, err
	}
	return mount.Parse(text, s.Default), nil
}

func (h Host) read(path string) ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(h.Store.Root, path))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// record is what was asked and done.
type record struct {
	Version int               `json:"version"`
	Default bytesize.Size     `json:"default_size"`
	Asked   []kernelargs.Pool `json:"asked"`
	Persist bool              `json:"persist"`
	Boot    string            `json:"boot"`              // the boot during which pools were set
	Pools   []pool.Done       `json:"pools,omitempty"`   // with what they had before the first time
	Mounts  []madeMount       `json:"mounts,omitempty"`  // made at run time
	Wanted  []mount.Mount     `json:"wanted,omitempty"`  // that shall be there
	Points  []string          `json:"points,omitempty"`  // directories that were made for /etc/fstab
	Loader  boot.Kind         `json:"loader,omitempty"`  // whose command line was changed
	Pending [][]string        `json:"pending,omitempty"` // commands that did not run yet
	Before  []string          `json:"before,omitempty"`  // its parameters about hugepages before the first time
}

// madeMount is a mount that was made.
type madeMount struct {
	mount.Mount
	Directory bool         `json:"directory,omitempty"` // was made too
	Replaced  *mount.Mount `json:"replaced,omitempty"`
}

// load reads the record; nil where there is none.
func (h Host) load() (*record, error) {
	data, err := h.read(recordPath)
	if err != nil || data == nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; remove it", recordPath, err)
	}
	return r, nil
}

func (h Host) bootID() string {
	id, _ := h.Kernel.Read("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(id)
}

func (r record) file() (sysedit.File, error) {
	data, err := json.MarshalIndent(r, "", "  ")
	return sysedit.File{Path: recordPath, Content: append(data, '\n'), Mode: 0o644, UID: -1, GID: -1}, err
}
