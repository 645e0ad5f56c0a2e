package doctor

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
)

func hugepageChecks() []Check {
	return []Check{
		{ID: "hugepages-pool", Group: "hugepages", Title: "hugepages are reserved and free", Scope: Host, Run: checkPool},
		{ID: "hugepages-boot", Group: "hugepages", Title: "the kernel got the hugepages its command line asks for", Scope: Host, Run: checkBootPages},
		{ID: "hugepages-overcommit", Group: "hugepages", Title: "hugepages are not overcommitted", Scope: Host, Run: checkOvercommit},
		{ID: "hugepages-default-size", Group: "hugepages", Title: "the default size is one that has pages", Scope: Host, Run: checkDefaultSize},
		{ID: "hugepages-mounted", Group: "hugepages", Title: "hugetlbfs is mounted for each pool", Scope: Host, Run: checkMounted},
		{ID: "hugepages-mount-order", Group: "hugepages", Title: "hugetlbfs was mounted before libvirt started", Scope: Host, Run: checkMountOrder},
	}
}

const reserveFix = "echo 512 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages   # 1 GiB; then read it back: it may be fewer"

func checkPool(_ context.Context, e *Env) Result {
	list, err := pools(e.Files, hostPools)
	if err != nil {
		return notApplicable("this kernel has no hugepages").from(hostPools)
	}
	var seen []string
	free := uint64(0)
	for _, p := range list {
		if p.Total == 0 {
			continue
		}
		free += p.available()
		seen = append(seen, fmt.Sprintf("%d of %d × %s free", p.available(), p.Total, sizeName(p.KiB)))
	}
	switch {
	case len(seen) == 0:
		return warn(reserveFix, "no hugepages: guests on plain shared memory work, and cost more TLB misses").from(hostPools)
	case free == 0:
		return warn(reserveFix, "%s: the next guest on hugepages will not start (Cannot allocate memory)", strings.Join(seen, ", ")).from(hostPools)
	}
	return ok("%s", strings.Join(seen, ", ")).from(hostPools)
}

// checkBootPages compares the ordered pairs hugepagesz=, hugepages= of the command line with the pools.
func checkBootPages(_ context.Context, e *Env) Result {
	size, asked := defaultPage(e.Files), map[uint64]uint64{}
	for _, word := range strings.Fields(text(e.Files, "/proc/cmdline")) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "default_hugepagesz", "hugepagesz":
			size = kibibytes(value)
		case "hugepages":
			asked[size] = bootCount(value)
		}
	}
	if len(asked) == 0 {
		return notApplicable("the kernel's command line asks for none").from("/proc/cmdline")
	}
	list, err := pools(e.Files, hostPools)
	if err != nil {
		return unknown("%v", err)
	}
	var all []Result
	for kib, want := range asked {
		got := uint64(0)
		if i := slices.IndexFunc(list, func(p pool) bool { return p.KiB == kib }); i >= 0 {
			got = list[i].Total
		}
		if got < want {
			all = append(all, warn("lower hugepages= on the kernel's command line, add memory, or use another page size",
				"asked for %d × %s, got %d", want, sizeName(kib), got))
			continue
		}
		all = append(all, ok("%d × %s", got, sizeName(kib)))
	}
	return merge(all...).from("/proc/cmdline")
}

// bootCount reads 512, and the form of recent kernels for each node, 0:256,1:256.
func bootCount(value string) uint64 {
	sum := uint64(0)
	for _, part := range strings.Split(value, ",") {
		if _, n, ok := strings.Cut(part, ":"); ok {
			part = n
		}
		var n uint64
		_, _ = fmt.Sscanf(part, "%d", &n)
		sum += n
	}
	return sum
}

func checkOvercommit(_ context.Context, e *Env) Result {
	list, err := pools(e.Files, hostPools)
	if err != nil {
		return notApplicable("this kernel has no hugepages").from(hostPools)
	}
	var all []Result
	for _, p := range list {
		file := fmt.Sprintf("%s/hugepages-%dkB", hostPools, p.KiB)
		switch {
		case p.Surplus > 0:
			all = append(all, warn(fmt.Sprintf("echo %d > %s/nr_hugepages", p.Total, file),
				"%d of the pages of %s are surplus: they go when they are freed, and may not come again", p.Surplus, sizeName(p.KiB)))
		case p.Overcommits > 0:
			all = append(all, warn(fmt.Sprintf("echo 0 > %s/nr_overcommit_hugepages", file),
				"up to %d pages of %s may be promised beyond the pool: a guest can start and be killed later (SIGBUS)", p.Overcommits, sizeName(p.KiB)))
		}
	}
	if len(all) == 0 {
		return ok("no surplus, no overcommit").from(hostPools)
	}
	return merge(all...).from(hostPools)
}

func checkDefaultSize(_ context.Context, e *Env) Result {
	list, err := pools(e.Files, hostPools)
	if err != nil {
		return notApplicable("this kernel has no hugepages").from(hostPools)
	}
	size := defaultPage(e.Files)
	var others []string
	for _, p := range list {
		if p.Total == 0 {
			continue
		}
		if p.KiB == size {
			return ok("%s", sizeName(size)).from("/proc/meminfo")
		}
		others = append(others, sizeName(p.KiB))
	}
	if len(others) == 0 {
		return notApplicable("no pool has pages").from(hostPools)
	}
	return warn("name the size in the domain: <hugepages><page size='1' unit='G'/></hugepages>; or add default_hugepagesz=1G to the kernel's command line",
		"the default size is %s, whose pool is empty; there are pages of %s", sizeName(size), strings.Join(others, ", ")).from("/proc/meminfo")
}

func checkMounted(_ context.Context, e *Env) Result {
	list, err := pools(e.Files, hostPools)
	if err != nil {
		return notApplicable("this kernel has no hugepages").from(hostPools)
	}
	mounted, err := hugeMounts(e.Files)
	if err != nil {
		return unknown("%v", err)
	}
	var all []Result
	for _, p := range list {
		if p.Total == 0 {
			continue
		}
		if i := slices.IndexFunc(mounted, func(m hugeMount) bool { return m.KiB == p.KiB }); i >= 0 {
			all = append(all, ok("%s at %s", sizeName(p.KiB), mounted[i].Point))
			continue
		}
		point, unit := "/dev/hugepages", fmt.Sprintf("pagesize=%dK", p.KiB)
		if p.KiB != defaultPage(e.Files) {
			point += strings.TrimSuffix(strings.ReplaceAll(sizeName(p.KiB), " ", ""), "iB")
		}
		all = append(all, warn(fmt.Sprintf("mkdir -p %s && mount -t hugetlbfs -o %s hugetlbfs %s   # then restart libvirtd", point, unit, point),
			"no hugetlbfs for pages of %s: libvirt's <hugepages/> needs one (memfd does not)", sizeName(p.KiB)))
	}
	if len(all) == 0 {
		return notApplicable("no pool has pages").from(hostPools)
	}
	return merge(all...).from(mountTable)
}

// checkMountOrder uses what libvirt leaves behind: at its start it makes libvirt/qemu in each hugetlbfs that it finds, and it never looks
// again. A mount has no time of its own in Linux.
func checkMountOrder(_ context.Context, e *Env) Result {
	if e.session() {
		return notApplicable("a session's libvirt makes no directories there")
	}
	list, err := e.processes()
	if err != nil {
		return unknown("%v", err)
	}
	daemon, running := libvirtDaemon(list)
	mounted, err := hugeMounts(e.Files)
	switch {
	case err != nil:
		return unknown("%v", err)
	case len(mounted) == 0:
		return notApplicable("no hugetlbfs is mounted").from(mountTable)
	case !running:
		return notApplicable("libvirt's daemon does not run; its next start finds what is mounted by then")
	}
	only := readConf(e.Files, qemuConf)
	var all []Result
	for _, m := range mounted {
		if only.set("hugetlbfs_mount") && !slices.Contains(only["hugetlbfs_mount"], m.Point) {
			all = append(all, ok("%s is not for libvirt (hugetlbfs_mount in qemu.conf)", m.Point))
			continue
		}
		if _, err := e.Files.Stat(path.Join(m.Point, "libvirt/qemu")); err != nil {
			all = append(all, warn("systemctl restart "+unit(daemon)+"   # guests keep running",
				"%s was mounted after %s had started, which does not know it (hugetlbfs filesystem is not mounted)", m.Point, daemon.Comm))
			continue
		}
		all = append(all, ok("%s is known to %s", m.Point, daemon.Comm))
	}
	return merge(all...).from(mountTable)
}

// unit is the systemd unit of libvirt's daemon.
func unit(daemon process) string {
	if daemon.Comm == "virtqemud" {
		return "virtqemud"
	}
	return "libvirtd"
}
