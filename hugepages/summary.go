package hugepages

import (
	"fmt"
	"slices"
	"strings"

	"vhostkit/hugepages/pool"
)

// Summary is a plan for people and scripts.
type Summary struct {
	Change   bool     `json:"change"` // false: everything is as asked
	Need     Need     `json:"need"`
	Pools    []string `json:"pools"`  // that change now
	Mounts   []string `json:"mounts"` // that are made now
	Files    []string `json:"files"`  // that change
	Diff     string   `json:"diff"`
	Loader   string   `json:"loader,omitempty"`
	Commands []string `json:"commands"`
	Notes    []string `json:"notes"`
	Reboot   []string `json:"reboot"` // why one is needed; empty: it is not
}

// Summary describes the plan; after Apply its Reboot may say more.
func (p *Plan) Summary() Summary {
	s := Summary{Change: !p.Empty(), Need: p.Need, Files: append([]string{}, p.files.Paths()...), Diff: p.Diff(), Loader: string(p.Boot.Loader),
		Pools: pools(p.now, p.Targets), Notes: append([]string{}, p.Notes...), Reboot: append([]string{}, p.Reboot...), Mounts: []string{}, Commands: []string{}}
	for _, m := range p.Mounts {
		text := fmt.Sprintf("%s: hugetlbfs with pages of %v", m.Path, m.Size)
		if m.Replaced != nil {
			text += fmt.Sprintf(", instead of %v", m.Replaced.Size)
		}
		s.Mounts = append(s.Mounts, text)
	}
	for _, argv := range p.Boot.Commands {
		s.Commands = append(s.Commands, strings.Join(argv, " "))
	}
	return s
}

// Summary describes the way back.
func (u *Undo) Summary() Summary {
	files := slices.DeleteFunc(append([]string{}, u.files.Paths()...), func(path string) bool { return path == recordPath })
	s := Summary{Change: true, Files: files, Diff: u.Diff(), Loader: string(u.record.Loader), Pools: pools(u.now, u.Pools()),
		Mounts: []string{}, Commands: []string{}, Notes: []string{}, Reboot: []string{}}
	if u.record.Boot == u.host.bootID() {
		for _, m := range u.record.Mounts {
			s.Mounts = append(s.Mounts, m.Path+": unmounted")
		}
	} else if u.record.Persist {
		s.Notes = append(s.Notes, "pages and mounts from this boot stay until the next one")
	}
	if u.record.Loader != "" {
		s.Notes = append(s.Notes, fmt.Sprintf("the boot loader's configuration (%s) is regenerated", u.record.Loader))
	}
	return s
}

func pools(s pool.State, targets []pool.Target) []string {
	list := []string{}
	for _, t := range targets {
		node, _ := s.Node(t.Node)
		list = append(list, fmt.Sprintf("node %d: %d → %d pages of %v", t.Node, node.Pool(t.Size).Total, t.Count, t.Size))
	}
	return list
}
