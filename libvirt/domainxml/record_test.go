package domainxml

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestOthersChangesSurvive: what somebody changes in parts of the description that are not attach's stays, also next to what is, and is no
// reason to refuse.
func TestOthersChangesSurvive(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"another interface": func(s string) string {
			return strings.Replace(s, "<source bridge='br0'/>", "<source bridge='br9'/>", 1)
		},
		"a new interface before": func(s string) string {
			return strings.Replace(s, "\t<!-- the first", "    <interface type='user'><mac address='52:54:00:bb:00:01'/></interface>\n\t<!-- the first", 1)
		},
		"a NUMA cell's processors": func(s string) string { return strings.Replace(s, "cpus='1'", "cpus='1-3'", 1) },
		"a memory device's size": func(s string) string {
			return strings.Replace(s, "<size unit='MiB'>64<", "<size unit='MiB'>128<", 1)
		},
		"an interface removed": func(s string) string {
			return strings.Replace(s, "    <interface type='user'><mac address='52:54:00:aa:00:03'/><model type='e1000'/></interface>\n", "", 1)
		},
		"the title": func(s string) string { return strings.Replace(s, "<uuid>", "<title>x</title>\n  <uuid>", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			r := attach(t, plain, Options{Select: []string{"0"}})
			changed := change(r.XML)
			if changed == r.XML {
				t.Fatal("the test changes nothing")
			}
			back, err := Detach(changed, false)
			if err != nil {
				t.Fatal(err)
			}
			if want := change(plain); back.XML != want {
				t.Errorf("got\n%s\nwant\n%s", back.XML, want)
			}
		})
	}
}

// TestSameAddressTwice: libvirt allows it, and each interface gets its own settings back.
func TestSameAddressTwice(t *testing.T) {
	text := strings.Replace(plain, "52:54:00:AA:00:01", "52:54:00:aa:00:02", 1)
	r := attach(t, text, Options{Select: []string{"0", "1"}})
	change := func(s string) string { return strings.Replace(s, "-foo", "-bar", 1) }
	back, err := Detach(change(r.XML), false)
	if err != nil || back.XML != change(text) {
		t.Errorf("detach: %v\n%s", err, back.XML)
	}
}

// TestNoSecretsKept: the metadata can be read by everybody who may look at the domain.
func TestNoSecretsKept(t *testing.T) {
	for _, newline := range []string{"\n", ""} {
		text := strings.ReplaceAll(strings.Replace(plain, "  </devices>", "    <graphics type='vnc' passwd='hidden-word'/>\n  </devices>", 1), "\n", newline)
		for _, selection := range [][]string{{"0"}, {"0", "1"}} {
			r := attach(t, text, Options{Select: selection})
			root, err := parseDomain(r.XML)
			if err != nil {
				t.Fatal(err)
			}
			kept, err := recordOf(own(root))
			if err != nil || len(kept.Pieces) < 2 || strings.Contains(fmt.Sprintf("%+v", kept), "hidden-word") {
				t.Errorf("newline %q: the metadata keeps %+v, %v", newline, kept, err)
			}
			if back, err := Detach(r.XML, false); err != nil || back.XML != text {
				t.Errorf("detach: %v", err)
			}
		}
	}
}

// TestReformatted: libvirt writes a description in its own way: quotes, order, white space, no comments, and what it adds itself.
func TestReformatted(t *testing.T) {
	text := strings.Replace(plain, "<mac address='52:54:00:aa:00:02'/>", "", 1)
	r := attach(t, text, Options{Select: []string{"0", "1"}})
	s := strings.NewReplacer("<!-- made by hand -->\n", "", `"`, "'", "mode='client'>", "mode='client' >", "<access mode='shared'/>", "").Replace(r.XML)
	s = strings.Replace(s, "<source type='memfd'/>", "<access mode='shared'/><source type='memfd'/>", 1)
	s = strings.Replace(s, "vm1-net1.sock' mode='client' >", "vm1-net1.sock' mode='client' ><!-- new -->", 1)
	s = strings.Replace(s, "<interface type='vhostuser'>\n      <source", "<interface type='vhostuser'>\n<mac address='52:54:00:99:99:99'/>\n"+
		"      <address type='pci' bus='9'/><target dev=''/>\n      <source", 1)
	back, err := Detach(s, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<source network='default'/>", "<source bridge='br0'/>", "memAccess='private'", "access='private'"} {
		if !strings.Contains(back.XML, want) {
			t.Errorf("%s is not back in\n%s", want, back.XML)
		}
	}
	if strings.Contains(back.XML, "memoryBacking") || strings.Contains(back.XML, "vhostkit") {
		t.Errorf("something is left in\n%s", back.XML)
	}
}

// TestOwnChangesAreRefused, each named; by force they are overwritten.
func TestOwnChangesAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ old, new, says string }{
		"socket":        {"vm1-net0.sock' mode", "mine.sock' mode", "52:54:00:aa:00:01"},
		"address":       {"52:54:00:AA:00:01", "52:54:00:aa:00:77", "52:54:00:aa:00:01"},
		"queues":        {"queues='2'", "queues='3'", "52:54:00:aa:00:01"},
		"new child":     {"</interface>", "<mtu size='9000'/></interface>", "52:54:00:aa:00:01"},
		"memory source": {"<source type='memfd'/>", "<source type='file'/>", "memory settings"},
		"cell":          {"memAccess='shared'", "memAccess='private'", "NUMA cell 0"},
		"cell gone":     {"<cell id='0' cpus='0' memory='512' unit='MiB' memAccess='shared'/>", "", "NUMA cell 0"},
		"memory device": {"<memory model='dimm' access='shared'>", "<memory model='dimm'>", "memory device 0"},
		"no backing":    {"<memoryBacking>\n    <source type='memfd'/>\n    <access mode='shared'/>\n  </memoryBacking>", "", "memory settings"},
	} {
		t.Run(name, func(t *testing.T) {
			r := attach(t, plain, Options{Select: []string{"0"}})
			changed := strings.Replace(r.XML, c.old, c.new, 1)
			if changed == r.XML {
				t.Fatal("the test changes nothing")
			}
			if _, err := Detach(changed, false); !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("detach: %v, want one that names %s", err, c.says)
			}
			back, err := Detach(changed, true)
			if err != nil {
				t.Fatal(err)
			}
			if d, err := Inspect(back.XML); err != nil || d.Attached || d.Interfaces[0].Type != "network" {
				t.Errorf("forced: %+v, %v", d, err)
			}
		})
	}
}

// TestMetadata: others' metadata stays as it is.
func TestMetadata(t *testing.T) {
	for _, meta := range []string{
		"<metadata/>", "<metadata />", "<metadata></metadata>", "<metadata>\n  </metadata>", "<metadata><!-- a --></metadata>",
		"<metadata><a:b xmlns:a='urn:a'/></metadata>", "<metadata>\n    <a:b xmlns:a='urn:a'/>\n  </metadata>",
		"<metadata>\n    <a:b xmlns:a='urn:a'/> <!-- b --></metadata>", "<metadata>\n    <a:b xmlns:a='urn:a'/><c:d xmlns:c='urn:c'/>\n\t\n</metadata>",
	} {
		text := strings.Replace(plain, "</uuid>", "</uuid>"+meta, 1)
		r := attach(t, text, Options{Select: []string{"0"}})
		if back, err := Detach(r.XML, false); err != nil || back.XML != text {
			t.Errorf("%s: %v, and it comes back as\n%s", meta, err, back.XML)
		}
		added := strings.Replace(r.XML, "</vhostkit:domain>", "</vhostkit:domain><new:one xmlns:new='urn:new'/>", 1)
		if back, err := Detach(added, false); err != nil || !strings.Contains(back.XML, "<new:one xmlns:new='urn:new'/>") {
			t.Errorf("%s: %v, and what was added is lost in\n%s", meta, err, back.XML)
		}
	}
}

// TestCRLF: a description with other line ends comes back as it was.
func TestCRLF(t *testing.T) {
	text := strings.ReplaceAll(plain, "\n", "\r\n")
	r := attach(t, text, Options{Select: []string{"0", "1"}})
	if back, err := Detach(r.XML, false); err != nil || back.XML != text {
		t.Errorf("detach: %v\n%q", err, back.XML)
	}
}

// TestSecondAttach: each attach adds to what the first one remembers.
func TestSecondAttach(t *testing.T) {
	r := attach(t, plain, Options{Select: []string{"0"}})
	r = attach(t, r.XML, Options{Select: []string{"0"}, Queues: 8})
	r = attach(t, r.XML, Options{Select: []string{"1"}, Queues: 3, Memory: MemoryHugepages})
	if back, err := Detach(r.XML, false); err != nil || back.XML != plain {
		t.Errorf("detach: %v\n%s", err, back.XML)
	}
}

// TestDamagedRecords: nothing but whole elements of the right kind comes out of the metadata into a description.
func TestDamagedRecords(t *testing.T) {
	bad := "<metadata/><a/>"
	for name, r := range map[string]record{
		"two elements":    {Pieces: []piece{{Kind: pieceInterface, Was: "<interface/><interface/>"}}},
		"another element": {Pieces: []piece{{Kind: pieceInterface, Was: "<disk/>"}}},
		"half an element": {Pieces: []piece{{Kind: pieceBacking, Was: "<memoryBacking>"}}},
		"no element":      {Pieces: []piece{{Kind: pieceInterface}}},
		"quote":           {Pieces: []piece{{Kind: pieceCell, Was: "a' b='c"}}},
		"entity":          {Pieces: []piece{{Kind: pieceDevice, Was: "&x;"}}},
		"unknown kind":    {Pieces: []piece{{Kind: "disk", Was: "<disk/>"}}},
		"metadata":        {Metadata: &bad},
	} {
		packed, err := r.pack()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(plain, "<cpu>", "<metadata><vhostkit:domain xmlns:vhostkit='"+namespace+"'><vhostkit:original>"+packed+
			"</vhostkit:original></vhostkit:domain></metadata><cpu>", 1)
		if back, err := Detach(text, true); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v\n%s", name, err, back.XML)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"<domain a='1' a='2'><name>x</name></domain>":      "twice",
		"x<domain><name>x</name></domain>":                 "outside",
		"<domain><name>x</name></domain>x":                 "outside",
		"<domain><name>" + strings.Repeat("x", maxText):    "at most",
		strings.Repeat("<domain>", maxDepth+1):             "within each other",
		"<domain><name>&x;</name></domain>":                "entity",
		"<?xml version='1.0' encoding='latin1'?><domain/>": "UTF-8",
	} {
		if _, err := parseDomain(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v, want %q", text, err, want)
		}
	}
}

// TestWhatIsLost: what libvirt refuses on a vhost-user interface goes, is told, and comes back.
func TestWhatIsLost(t *testing.T) {
	stays := []string{"<alias name='ua-a'/>", "<boot order='1'/>", "<link state='up'/>", "<rom bar='off'/>", "<acpi index='3'/>", "<teaming type='persistent'/>"}
	goes := []string{
		"<mtu size='1400'/>", "<bandwidth><inbound average='1'/></bandwidth>", "<filterref filter='clean-traffic'/>", "<vlan><tag id='3'/></vlan>",
		"<port isolated='yes'/>", "<virtualport type='openvswitch'/>", "<coalesce><rx><frames max='7'/></rx></coalesce>",
	}
	silently := "<target dev='vnet3'/><tune><sndbuf>0</sndbuf></tune><script path='/x'/><backend vhost='/dev/vhost-net'/>"
	text := strings.Replace(plain, "<source bridge='br0'/>", "<source bridge='br0'/>"+silently+strings.Join(append(stays, goes...), ""), 1)
	r := attach(t, text, Options{Select: []string{"1"}})
	told := strings.Join(r.Changes, "\n")
	for _, s := range stays {
		if !strings.Contains(r.XML, s) {
			t.Errorf("%s does not stay", s)
		}
	}
	for _, g := range goes {
		name := g[:strings.IndexAny(g, " >")]
		if strings.Contains(r.XML, g) || !strings.Contains(told, "removed "+name+">") {
			t.Errorf("%s stays, or is removed without a word:\n%s", g, told)
		}
	}
	if strings.Contains(r.XML, "vnet3") || strings.Contains(r.XML, "sndbuf") || strings.Contains(r.XML, "backend") {
		t.Errorf("parts of the old connection stay:\n%s", r.XML)
	}
	if back, err := Detach(r.XML, false); err != nil || back.XML != text {
		t.Errorf("detach: %v", err)
	}
}

// TestOffloads: over vhost-cuse they go off, whatever of them is said already.
func TestOffloads(t *testing.T) {
	for _, driver := range []string{
		"", "<driver/>", "<driver />", "<driver name='qemu' queues='4'/>", "<driver><host csum='on' gso='off'/></driver>",
		"<driver name='vhost'><guest tso4='on'/></driver>", "<driver name='vhost' txmode='iothread'>\n  <host csum='off' gso='off'/>\n</driver>",
	} {
		text := strings.Replace(plain, "<source bridge='br0'/>", "<source bridge='br0'/>"+driver, 1)
		o := Options{Select: []string{"1"}, CUSE: "/dev/usvhost", Queues: 4}
		r := attach(t, text, o)
		root, err := parseDomain(r.XML)
		if err != nil {
			t.Fatal(err)
		}
		d := root.find("devices").all("interface")[1].find("driver")
		h, g := d.find("host"), d.find("guest")
		if d.attr("name") != "vhost" || d.attr("queues") != "4" || h.attr("csum")+h.attr("gso") != "offoff" ||
			g.attr("csum")+g.attr("tso4")+g.attr("tso6")+g.attr("ecn") != "offoffoffoff" {
			t.Errorf("%s becomes\n%s", driver, r.XML[d.start:d.end])
		}
		if again := attach(t, r.XML, o); len(again.Changes) > 0 {
			t.Errorf("%s: a second attach changes %q", driver, again.Changes)
		}
		if back, err := Detach(r.XML, false); err != nil || back.XML != text {
			t.Errorf("%s: detach: %v", driver, err)
		}
	}
}

// TestPortsStay: an interface keeps its port when those before it have gone, and none gets another's.
func TestPortsStay(t *testing.T) {
	r := attach(t, plain, Options{Select: []string{"1"}})
	start := strings.Index(r.XML, "    <interface type='network'>")
	end := strings.Index(r.XML, "    <interface type='vhostuser'>")
	fewer := r.XML[:start] + r.XML[end:]
	if again := attach(t, fewer, Options{Select: []string{"0"}}); len(again.Changes) > 0 {
		t.Errorf("another attach changes %q", again.Changes)
	}
	more := strings.Replace(fewer, "    <interface type='user'>", "    <interface type='network'><source network='default'/><model type='virtio'/></interface>\n    <interface type='user'>", 1)
	if _, err := Attach(more, Options{Select: []string{"1"}, Port: port}); err == nil || !strings.Contains(err.Error(), "vm1-net1, which interface 52:54:00:aa:00:02 has") {
		t.Errorf("a port for two: %v", err)
	}
}
