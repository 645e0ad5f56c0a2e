package hugepages

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"vhostkit/hugepages/kernelargs"
	"vhostkit/hugepages/mount"
	"vhostkit/hugepages/pool"
	"vhostkit/hugepages/users"
)

// ErrNothingAsked says that nothing was provisioned here that could be verified.
var ErrNothingAsked = errors.New("no hugepage request is recorded on this host; run vhostctl hugepages provision")

// Finding compares something that was asked with what is there.
type Finding struct {
	What  string `json:"what"`
	Asked string `json:"asked"`
	Got   string `json:"got"`
	OK    bool   `json:"ok"`
	// Pending tells that it comes at the next boot.
	Pending bool   `json:"pending,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// Verify compares what was asked with what the kernel gave.
func (h Host) Verify() ([]Finding, error) {
	r, err := h.load()
	if err != nil {
		return nil, err
	}
	if r == nil || len(r.Asked) == 0 {
		return nil, ErrNothingAsked
	}
	state, err := pool.Look(h.Kernel)
	if err != nil {
		return nil, err
	}
	line, err := h.Kernel.Read("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	table, err := h.mounts(state)
	if err != nil {
		return nil, err
	}
	given := kernelargs.Read(strings.TrimSpace(line), base)
	pending := r.Persist && !asked(*r, given)
	list := poolFindings(*r, state, given)
	if r.Persist {
		f := Finding{What: "default page size", Asked: r.Default.String(), Got: state.Default.String(), OK: state.Default == r.Default}
		list = append(list, f)
	}
	for _, m := range r.Wanted {
		f := Finding{What: "hugetlbfs with pages of " + m.Size.String(), Asked: h.at(m.Path), Got: "none", Hint: "mount -t hugetlbfs -o pagesize=" +
			m.Size.String() + " hugetlbfs " + h.at(m.Path)}
		var paths []string
		for _, is := range table.Of(m.Size) {
			paths = append(paths, is.Path)
			// Any will do in the default one's place.
			f.OK = f.OK || is.Path == h.at(m.Path) || m.Path == mount.Default
		}
		if len(paths) > 0 {
			f.Got = strings.Join(paths, " ")
		}
		list = append(list, f)
	}
	for i := range list {
		if f := &list[i]; f.OK {
			f.Hint = ""
		} else if pending {
			f.Pending, f.Hint = true, "reboot: this boot's command line does not ask for it yet"
		}
	}
	return list, nil
}

// asked tells whether a command line asks for all of a record.
func asked(r record, given kernelargs.Settings) bool {
	for _, p := range r.Asked {
		if given.Pool(p.Size).Count < p.Count {
			return false
		}
	}
	return given.Default == r.Default || given.Default == 0 && r.Default == switchPage
}

func poolFindings(r record, state pool.State, given kernelargs.Settings) []Finding {
	var list []Finding
	for _, want := range r.Asked {
		is := state.Total(want.Size)
		f := Finding{What: fmt.Sprintf("pages of %v", want.Size), Asked: fmt.Sprint(want.Count), Got: fmt.Sprint(is.Total), OK: is.Total >= want.Count}
		switch {
		case f.OK:
		case given.Pool(want.Size).Count >= want.Count:
			f.Hint = "the command line asks for them and the kernel found no room: ask for fewer, or add memory (dmesg | grep HugeTLB says more)"
		default:
			f.Hint = "vhostctl hugepages provision --runtime reserves them again, or --persist for each boot"
		}
		list = append(list, f)
		for _, n := range slices.Backward(state.Nodes) {
			count, placed := want.Nodes[n.ID]
			if got := n.Pool(want.Size).Total; placed {
				list = append(list, Finding{What: fmt.Sprintf("pages of %v on node %d", want.Size, n.ID), Asked: fmt.Sprint(count), Got: fmt.Sprint(got),
					OK: got >= count, Hint: f.Hint})
			}
		}
	}
	return list
}

// Report is what there is.
type Report struct {
	pool.State
	Mounts []mount.Mount `json:"mounts"`
	Users  []users.User  `json:"users"`
	// Provisioned tells that there is something for Undo to undo.
	Provisioned bool `json:"provisioned"`
}

// Show looks at pools, mounts and users.
func (h Host) Show() (Report, error) {
	var r Report
	var err error
	if r.State, err = pool.Look(h.Kernel); err != nil {
		return r, err
	}
	table, err := h.mounts(r.State)
	if err != nil {
		return r, err
	}
	r.Mounts = append([]mount.Mount{}, table.Huge...)
	r.Users = append([]users.User{}, users.Find("/proc", r.Mounts)...)
	r.Provisioned, err = h.Store.Applied(EditName)
	return r, err
}

// Status is ok, pending or missing.
func (f Finding) Status() string {
	switch {
	case f.OK:
		return "ok"
	case f.Pending:
		return "pending"
	}
	return "missing"
}
