package doctor

import (
	"context"
	"strings"
	"testing"
)

// FuzzDescriptions: what owners of domains write, and what other tools leave in files, never breaks a check nor makes it hang, and what a
// fix names is one word for the shell.
func FuzzDescriptions(f *testing.F) {
	f.Add(healthyXML, "cgroup_device_acl = [ \"/dev/null\" ]", "30 22 0:27 / /dev/huge\\040pages rw - hugetlbfs hugetlbfs rw,pagesize=1G")
	f.Add(strings.Replace(healthyXML, "<devices>", "<cpu><numa><cell id='0' memory='1' unit='TiB'/></numa></cpu><numatune><memnode cellid='0' "+
		"mode='strict' nodeset='0-8191,^3'/></numatune><devices>", 1), "a=[\n'x#'\n", "")
	f.Add("<domain><memoryBacking><hugepages><page size='0' nodeset='0-9'/></hugepages></memoryBacking></domain>", "=", "- -")
	f.Fuzz(func(t *testing.T, xml, conf, mountinfo string) {
		if len(xml)+len(conf)+len(mountinfo) > 1<<16 {
			return
		}
		r := newRig()
		r.libvirt.domains["vm1"] = DomainXML{Name: "vm1", Config: xml}
		r.files.put(qemuConf, conf)
		r.files.put("/etc/os-release", "ID=ubuntu\n")
		r.files.put("/proc/self/mountinfo", mountinfo)
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
