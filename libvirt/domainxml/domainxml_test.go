package domainxml

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const plain = `<?xml version='1.0'?>
<!-- made by hand -->
<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>vm1</name>
  <uuid>0a6e2c7c-0b2a-4d69-a0ef-111111111111</uuid>
  <memory unit='MiB'>1024</memory>
  <currentMemory unit="MiB">1024</currentMemory>
  <cpu>
    <numa>
      <cell id='0' cpus='0' memory='512' unit='MiB' memAccess='private'/>
      <cell id='1' cpus='1' memory='512' unit='MiB'/>
    </numa>
  </cpu>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
	<!-- the first interface -->
    <interface type='network'>
      <mac address='52:54:00:AA:00:01'/>
      <source network='default'/> <!-- gone with the rest of its line? -->
      <target dev='vnet0'/>
      <model type="virtio"/>
      <driver name='vhost' queues='2'/>
      <bandwidth>
        <inbound average='1000'/>
      </bandwidth>
      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>
    </interface>
    <interface type='bridge'>
      <source bridge='br0'/>
      <mac address='52:54:00:aa:00:02'/>
      <model type='virtio'/>
    </interface>
    <interface type='user'><mac address='52:54:00:aa:00:03'/><model type='e1000'/></interface>
    <memory model='dimm' access='private'><target><size unit='MiB'>64</size></target></memory>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-foo'/>
  </qemu:commandline>
</domain>
`

func port(i Interface) (string, string, error) {
	name := fmt.Sprintf("vm1-net%d", i.Index)
	return name, "/run/vhostkit/ports/" + name + ".sock", nil
}

func attach(t *testing.T, text string, o Options) Result {
	t.Helper()
	if o.Port == nil {
		o.Port = port
	}
	r, err := Attach(text, o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAttach(t *testing.T) {
	r := attach(t, plain, Options{Select: []string{"52:54:00:aa:00:01", "net1"}, Queues: 4})
	for _, want := range []string{
		"    <interface type='vhostuser'>\n      <mac address='52:54:00:AA:00:01'/>\n      <source type='unix' path='/run/vhostkit/ports/vm1-net0.sock' mode='client'>\n" +
			"        <reconnect enabled='yes' timeout='1'/>\n      </source> <!-- gone with the rest of its line? -->\n      <model type=\"virtio\"/>\n" +
			"      <driver name='vhost' queues='4'/>\n      <address type='pci' domain='0x0000' bus='0x01' slot='0x00' function='0x0'/>\n    </interface>",
		"  <currentMemory unit=\"MiB\">1024</currentMemory>\n  <memoryBacking>\n    <source type='memfd'/>\n    <access mode='shared'/>\n  </memoryBacking>\n",
		"memAccess='shared'", "<memory model='dimm' access='shared'>", "<interface type='user'><mac address='52:54:00:aa:00:03'/><model type='e1000'/></interface>",
		"  <metadata>\n    <vhostkit:domain xmlns:vhostkit='urn:vhostkit:domain:1'>", "<qemu:arg value='-foo'/>", "<!-- made by hand -->",
	} {
		if !strings.Contains(r.XML, want) {
			t.Errorf("the result lacks\n%s\nin\n%s", want, r.XML)
		}
	}
	d, err := Inspect(r.XML)
	if err != nil || !d.Attached || !d.Memory.Shared || len(d.Ports) != 2 || d.Interfaces[1].Socket != "/run/vhostkit/ports/vm1-net1.sock" ||
		!d.Interfaces[0].Reconnect || d.Interfaces[0].Queues != 4 {
		t.Errorf("inspected: %+v, %v", d, err)
	}
	if again := attach(t, r.XML, Options{Select: []string{"0", "1"}, Queues: 4}); len(again.Changes) > 0 || again.XML != r.XML {
		t.Errorf("a second attach changes %q", again.Changes)
	}
	back, err := Detach(r.XML, false)
	if err != nil || back.XML != plain || len(back.Ports) != 2 {
		t.Errorf("detach: %v, ports %v, and the text\n%s", err, back.Ports, back.XML)
	}
}

func TestAttachInTwoSteps(t *testing.T) {
	one := attach(t, plain, Options{Select: []string{"0"}})
	two := attach(t, one.XML, Options{Select: []string{"1"}})
	if d, _ := Inspect(two.XML); len(d.Ports) != 2 {
		t.Errorf("ports %+v", d.Ports)
	}
	if back, err := Detach(two.XML, false); err != nil || back.XML != plain {
		t.Errorf("detach after two attaches: %v\n%s", err, back.XML)
	}
}

func TestAttachCUSE(t *testing.T) {
	r := attach(t, plain, Options{Select: []string{"0", "1"}, CUSE: "/dev/usvhost"})
	if n := strings.Count(r.XML, "<backend vhost='/dev/usvhost'/>"); n != 2 || !strings.Contains(r.XML, "<driver name='vhost'>\n        <host csum='off' gso='off'/>") ||
		!strings.Contains(r.XML, "<source network='default'/>") {
		t.Errorf("%d backends in\n%s", n, r.XML)
	}
	if again := attach(t, r.XML, Options{Select: []string{"0", "1"}, CUSE: "/dev/usvhost"}); len(again.Changes) > 0 {
		t.Errorf("a second attach changes %q", again.Changes)
	}
	if back, err := Detach(r.XML, false); err != nil || back.XML != plain {
		t.Errorf("detach: %v\n%s", err, back.XML)
	}
}

func TestMemory(t *testing.T) {
	with := func(backing string) string {
		return strings.Replace(plain, "  <cpu>", "  "+backing+"\n  <cpu>", 1)
	}
	for _, c := range []struct{ backing, memory, want string }{
		{"<memoryBacking/>", MemoryMemfd, "  <memoryBacking>\n    <source type='memfd'/>\n    <access mode='shared'/>\n  </memoryBacking>"},
		{"<memoryBacking><hugepages/></memoryBacking>", MemoryMemfd, "<memoryBacking><hugepages/>\n    <access mode='shared'/>\n  </memoryBacking>"},
		{"<memoryBacking/>", MemoryHugepages, "<hugepages/>\n    <source type='memfd'/>\n    <access mode='shared'/>"},
		{"<memoryBacking><source type='anonymous'/><access mode='private'/></memoryBacking>", MemoryMemfd, "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"},
		{"<memoryBacking><source type='file'/><access mode=\"shared\"/></memoryBacking>", MemoryMemfd, "<memoryBacking><source type='file'/><access mode=\"shared\"/></memoryBacking>"},
		{"<memoryBacking><nosharepages/></memoryBacking>", MemoryKeep, "<memoryBacking><nosharepages/></memoryBacking>"},
	} {
		text := with(c.backing)
		r := attach(t, text, Options{Select: []string{"0"}, Memory: c.memory})
		if !strings.Contains(r.XML, c.want) {
			t.Errorf("%s with %s lacks\n%s\nin\n%s", c.backing, c.memory, c.want, r.XML)
		}
		if back, err := Detach(r.XML, false); err != nil || back.XML != text {
			t.Errorf("%s: detach: %v", c.backing, err)
		}
	}
}

func TestAttachRefuses(t *testing.T) {
	for want, o := range map[string]Options{
		"has 3 network interfaces": {}, "no interface is called net9": {Select: []string{"net9"}}, "is a e1000": {Select: []string{"2"}},
	} {
		o.Port = port
		if _, err := Attach(plain, o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", o.Select, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "0 outermost", "<network><name>x</name></network>": "XML of a <network>", "<domain/>": "no name", "<domain><name>a</name></domain": "XML",
		"<domain><name>a</domain></name>": "ends nothing", "<!DOCTYPE x><domain><name>a</name></domain>": "document type",
		"<domain><name>a</name><devices/></domain>": "no network interfaces",
	} {
		if _, err := Attach(text, Options{Select: []string{"all"}, Port: port}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestDetachAfterChanges: others' changes stay, changes of what attach wrote are refused.
func TestDetachAfterChanges(t *testing.T) {
	r := attach(t, plain, Options{Select: []string{"0", "1"}})
	other := strings.Replace(r.XML, "-foo", "-bar", 1)
	back, err := Detach(other, false)
	if want := strings.Replace(plain, "-foo", "-bar", 1); err != nil || squeeze(back.XML) != squeeze(want) {
		t.Errorf("detach after another change: %v\n%s", err, back.XML)
	}
	owned := strings.Replace(r.XML, "vm1-net1.sock' mode", "mine.sock' mode", 1)
	if _, err := Detach(owned, false); !errors.Is(err, ErrChanged) {
		t.Errorf("detach after a change of the socket: %v", err)
	}
	if back, err := Detach(owned, true); err != nil || squeeze(back.XML) != squeeze(plain) {
		t.Errorf("forced: %v\n%s", err, back.XML)
	}
	if _, err := Detach(plain, false); !errors.Is(err, ErrNotAttached) {
		t.Errorf("detach of what was not attached: %v", err)
	}
	damaged := strings.Replace(r.XML, "<vhostkit:original>", "<vhostkit:original>AAAA", 1)
	if _, err := Detach(damaged, true); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("detach with a damaged original: %v", err)
	}
}

// TestSealAfterReformatting: layout does not matter; what libvirt completes is sealed.
func TestSealAfterReformatting(t *testing.T) {
	r := attach(t, plain, Options{Select: []string{"0"}})
	formatted := strings.ReplaceAll(strings.Replace(r.XML, "<!-- made by hand -->\n", "", 1), "\"", "'")
	if sealed, err := Seal(formatted); err != nil || sealed != formatted {
		t.Errorf("layout alone makes another seal: %v", err)
	}
	completed := strings.Replace(formatted, "queues='2'", "queues='2' iommu='off'", 1)
	if _, err := Detach(completed, false); !errors.Is(err, ErrChanged) {
		t.Errorf("detach before sealing: %v", err)
	}
	sealed, err := Seal(completed)
	if err != nil || sealed == completed {
		t.Fatalf("sealing: %v", err)
	}
	if again, err := Seal(sealed); err != nil || again != sealed {
		t.Errorf("sealing twice changes the text: %v", err)
	}
	if back, err := Detach(sealed, false); err != nil || back.XML != strings.ReplaceAll(strings.Replace(plain, "<!-- made by hand -->\n", "", 1), "\"", "'") &&
		squeeze(strings.ReplaceAll(back.XML, "\"", "'")) != squeeze(strings.ReplaceAll(strings.Replace(plain, "<!-- made by hand -->\n", "", 1), "\"", "'")) {
		t.Errorf("detach: %v\n%s", err, back.XML)
	}
}

func FuzzAttach(f *testing.F) {
	f.Add(plain, "0", uint8(0))
	f.Add("<domain><name>a</name><devices><interface type='a'/></devices></domain>", "all", uint8(3))
	files, _ := filepath.Glob("testdata/*.xml")
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil {
			f.Add(string(data), "all", uint8(1))
		}
	}
	f.Fuzz(func(t *testing.T, text, selector string, how uint8) {
		o := Options{Select: []string{selector}, Port: port, Queues: int(how >> 4), Memory: []string{MemoryMemfd, MemoryHugepages, MemoryKeep}[how%3]}
		if how&8 != 0 {
			o.CUSE = "/dev/usvhost"
		}
		r, err := Attach(text, o)
		if err != nil {
			return
		}
		if _, err := Inspect(r.XML); err != nil {
			t.Fatalf("the result is not well formed: %v\n%s", err, r.XML)
		}
		if len(r.Changes) == 0 {
			if r.XML != text {
				t.Fatal("no change is told, and the text changed")
			}
			return
		}
		if before, _ := Inspect(text); before.Attached {
			return // a text that claims to be attached has the original that it has
		}
		back, err := Detach(r.XML, false)
		if err != nil || back.XML != text {
			t.Fatalf("detach: %v\n%q\nwant\n%q", err, back.XML, text)
		}
	})
}

// squeeze makes white space not count.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }
