package doctor

import (
	"context"
	"strings"
	"testing"
)

// FuzzDescriptions: what owners of domains write, and what other tools leave in files, never breaks a check nor makes it hang, and what a
// fix names is one word for the shell.
func FuzzDescriptions(f *testing.F) {
	f.Add(healthyXML, "cgroup_device_acl = [ \"/dev/null\" ]", "hugetlbfs /dev/huge\\040pages hugetlbfs rw,pagesize=1G 0 0")
	f.Add(strings.Replace(healthyXML, "<devices>", "<cpu><numa><cell id='0' memory='1' unit='TiB'/></numa></cpu><numatune><memnode cellid='0' "+
		"mode='strict' nodeset='0-8191,^3'/></numatune><devices>", 1), "a=[\n'x#'\n", "")
	f.Add("<domain><memoryBacking><hugepages><page size='0' nodeset='0-9'/></hugepages></memoryBacking></domain>", "=", "- -")
	f.Fuzz(func(t *testing.T, xml, conf, mounts string) {
		if len(xml)+len(conf)+len(mounts) > 1<<16 {
			return
		}
		r := newRig()
		r.libvirt.domains["vm1"] = DomainXML{Name: "vm1", Config: xml}
		r.files.put(qemuConf, conf)
		r.files.put("/etc/os-release", "ID=ubuntu\n")
		r.files.put("/proc/self/mounts", mounts)
		for _, c := range Examine(context.Background(), r.env, Checks()).Checks {
			if strings.Contains(c.Detail, "the check itself failed") {
				t.Errorf("%s: %s", c.ID, c.Detail)
			}
			if strings.HasPrefix(c.Fix, "vhostctl attach ") && !strings.HasPrefix(c.Fix, "vhostctl attach vm1") {
				t.Errorf("%s: fix %q", c.ID, c.Fix)
			}
		}
	})
}
