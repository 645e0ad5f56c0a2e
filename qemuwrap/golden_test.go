package qemuwrap

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/BurntSushi/toml"
	"golang.org/x/tools/txtar"

	"vhostkit/switchd/control"
)

var update = flag.Bool("update", false, "write the results into the golden files")

// fakeSwitch knows every port; the device only if it is told so.
type fakeSwitch struct {
	plugged []string
	device  bool
}

func (s *fakeSwitch) Plug(_ context.Context, name string) (string, error) {
	if name == "broken-net0" {
		return "", errors.New("switchd is not reachable")
	}
	s.plugged = append(s.plugged, name)
	return "/run/vhostkit/ports/" + name + ".sock", nil
}

func (s *fakeSwitch) OpenDevice(context.Context, string) (int, error) {
	if s.device {
		return 40, nil
	}
	return -1, errors.New("no such device")
}

// system is a machine with 4 GiB of free 2 MiB pages on node 0, 512 MiB on node 1, and one 1 GiB page; the file "system" of a case changes it:
// "version 9.2", "free2M 0", "device broker", "device none", "mounts …".
func testSystem(t *testing.T, text string) System {
	t.Helper()
	files := fstest.MapFS{}
	put := func(name, content string) { files[name] = &fstest.MapFile{Data: []byte(content + "\n")} }
	put("proc/meminfo", "MemTotal: 1 kB\nHugepagesize:       2048 kB")
	put("proc/mounts", "hugetlbfs /dev/hugepages hugetlbfs rw,relatime,pagesize=2M 0 0\nnodev /mnt/huge hugetlbfs rw,pagesize=1024M 0 0\nproc /proc proc rw 0 0")
	put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "2304")
	put("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "1")
	put("sys/devices/system/node/node0/hugepages/hugepages-2048kB/free_hugepages", "2048")
	put("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "256")
	version, opened := Version{7, 2}, 8
	sw := &fakeSwitch{}
	s := System{FS: files, Switch: sw, Writable: func(dir string) bool { return dir == "/dev/hugepages" || dir == "/mnt/huge" }}
	s.Open = func(string) (int, error) { opened++; return opened, nil }
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		key, value, _ := strings.Cut(line, " ")
		switch key {
		case "":
		case "version":
			version = parseVersion("version " + value)
		case "free2M":
			put("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", value)
			put("sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages", "0")
		case "mounts":
			put("proc/mounts", value)
		case "device":
			s.Open = func(path string) (int, error) {
				return -1, &fs.PathError{Op: "open", Path: path, Err: fs.ErrPermission}
			}
			sw.device = value == "broker"
		default:
			t.Fatalf("system file says %q", line)
		}
	}
	s.Version = func() Version { return version }
	return s
}

func lines(list []string) []byte {
	if len(list) == 0 {
		return nil
	}
	return []byte(strings.Join(list, "\n") + "\n")
}

// TestGolden rewrites the lines in testdata: args (an argument a line), config.toml, system; want (the same), why, or error.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) < 20 {
		t.Fatalf("only %d golden files: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			part := map[string]string{}
			for _, f := range archive.Files {
				part[f.Name] = string(f.Data)
			}
			c := DefaultConfig()
			if _, err := toml.Decode(part["config.toml"], &c); err != nil {
				t.Fatal(err)
			}
			args := strings.Split(strings.TrimSuffix(part["args"], "\n"), "\n")
			before := slices.Clone(args)
			r, err := Rewrite(context.Background(), c, testSystem(t, part["system"]), args)
			if !slices.Equal(args, before) {
				t.Error("the caller's arguments were changed")
			}
			got := map[string][]byte{"want": lines(r.Args), "why": lines(r.Reasons)}
			if err != nil {
				got = map[string][]byte{"error": []byte(err.Error() + "\n")}
			}
			if *update {
				archive.Files = slices.DeleteFunc(archive.Files, func(f txtar.File) bool {
					return f.Name == "want" || f.Name == "why" || f.Name == "error"
				})
				for _, name := range []string{"want", "why", "error"} {
					if data, ok := got[name]; ok {
						archive.Files = append(archive.Files, txtar.File{Name: name, Data: data})
					}
				}
				if err := os.WriteFile(file, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, name := range []string{"want", "why", "error"} {
				if string(got[name]) != part[name] {
					t.Errorf("%s:\n%s\nwant:\n%s", name, got[name], part[name])
				}
			}
		})
	}
}

// TestGuide: the example in the guide to DPDK's vhost sample (docs/dpdk-compat.md, 4) becomes the result shown there,
// compared as components, because the order of options means nothing to QEMU. The descriptor's number is the one that
// was opened.
func TestGuide(t *testing.T) {
	const given = "-machine pc-i440fx-1.4,accel=kvm,usb=off -cpu SandyBridge -smp 4,sockets=4,cores=1,threads=1 " +
		"-netdev tap,id=hostnet1,vhost=on -device virtio-net-pci,netdev=hostnet1,id=net1 -hda disk.img -m 4096"
	const want = "-machine pc-i440fx-1.4,accel=kvm,usb=off -cpu SandyBridge -smp 4,sockets=4,cores=1,threads=1 " +
		"-netdev tap,id=hostnet1,vhost=on,vhostfd=9 " +
		"-device virtio-net-pci,netdev=hostnet1,id=net1,csum=off,gso=off,guest_tso4=off,guest_tso6=off,guest_ecn=off " +
		"-hda disk.img -m 4096 -mem-path /dev/hugepages -mem-prealloc"
	c := DefaultConfig()
	c.Mode = ModeCUSE
	r, err := Rewrite(context.Background(), c, testSystem(t, "version 1.4"), strings.Fields(given))
	if err != nil {
		t.Fatal(err)
	}
	components := func(args []string) (list []string) {
		for _, o := range parse(args) {
			list = append(list, strings.Join(o.tokens, " "))
		}
		slices.Sort(list)
		return list
	}
	if got, want := components(r.Args), components(strings.Fields(want)); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestProbes: whoever asks what QEMU can do gets the line passed as it is, also where nothing else would work.
func TestProbes(t *testing.T) {
	c := DefaultConfig()
	c.Mode, c.EmulOptsUser, c.UseHugeAll = ModeCUSE, Words{"-extra"}, true
	for _, line := range []string{
		"-S -no-user-config -nodefaults -nographic -machine none,accel=kvm:tcg -qmp unix:/var/lib/libvirt/qemu/qmp-XXXXXX/qmp.monitor,server=on,wait=off " +
			"-pidfile /var/lib/libvirt/qemu/qmp-XXXXXX/qmp.pid -daemonize",
		"-M none -nodefaults", "-help", "--help", "-h", "-version", "--version", "-M help", "-M ?", "-machine help", "-cpu help", "-device help",
		"-device virtio-net-pci,help", "-netdev tap,id=a,vhost=on -device ?", "-machine type=none",
	} {
		args := strings.Fields(line)
		r, err := Rewrite(context.Background(), c, System{}, args)
		if err != nil || !r.Probe || !slices.Equal(r.Args, args) {
			t.Errorf("%s: %+v, %v", line, r, err)
		}
	}
	for _, line := range []string{"-name help", "-append help -m 64", "-hda help", "-m 64 help"} {
		if r, err := Rewrite(context.Background(), DefaultConfig(), testSystem(t, ""), strings.Fields(line)); err != nil || r.Probe {
			t.Errorf("%s: %+v, %v; want no probe", line, r, err)
		}
	}
}

// FuzzRewrite: never a crash, and never a lost argument: whatever is not the wrapper's business is in the result, in its order.
func FuzzRewrite(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txtar")
	for _, file := range files {
		if archive, err := txtar.ParseFile(file); err == nil && len(archive.Files) > 0 {
			f.Add(string(archive.Files[0].Data), false)
			f.Add(string(archive.Files[0].Data), true)
		}
	}
	touched := setOf("netdev net nic device object m mem-path mem-prealloc machine M numa chardev")
	f.Fuzz(func(t *testing.T, text string, cuse bool) {
		args := strings.Split(text, "\n")
		if got := join(parse(args)); !slices.Equal(got, args) {
			t.Fatalf("parse and join give %q of %q", got, args)
		}
		c := DefaultConfig()
		if cuse {
			c.Mode, c.Interfaces = ModeCUSE, Words{"all"}
		}
		r, err := Rewrite(context.Background(), c, testSystem(t, ""), args)
		if err != nil {
			return
		}
		others := func(args []string) (list []string) {
			for _, o := range parse(args) {
				if !touched[o.name] {
					list = append(list, o.tokens...)
				}
			}
			return list
		}
		if got, want := others(r.Args), others(args); !slices.Equal(got, want) {
			t.Fatalf("other arguments are %q, want %q", got, want)
		}
		if again := join(parse(r.Args)); !slices.Equal(again, r.Args) {
			t.Fatalf("the result is not parsed as it was made: %q", r.Args)
		}
	})
}

func TestKeyval(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"tap,id=a,,b,vhost=on", "tap,id=a,,b,vhost=on,x=1,,2"},
		{`{"type":"tap","id":"a<b","n":1.50,"o":{"z":[1, 2]}}`, `{"type":"tap","id":"a<b","n":1.50,"o":{"z":[1, 2]},"x":"1,2"}`},
	} {
		k, err := parseKeyval(c.in, "type")
		if err != nil {
			t.Fatal(err)
		}
		if k.String() != c.in {
			t.Errorf("%s became %s by reading it", c.in, k)
		}
		if k.set("x", "1,2"); k.String() != c.out {
			t.Errorf("%s became %s, want %s", c.in, k, c.out)
		}
		if k.text("type") != "tap" {
			t.Errorf("%s has type %q", c.in, k.text("type"))
		}
	}
	for _, bad := range []string{`{"a":1`, `{"a":1}x`, `{a:1}`, `{`} {
		if k, err := parseKeyval(bad, "type"); err == nil {
			t.Errorf("%s was read as %s", bad, k)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]uint64{"128": 128 << 20, "4G": 4 << 30, "1.5G": 3 << 29, "512m": 512 << 20, "1024K": 1 << 20, "0x80": 128 << 20} {
		if got, err := parseSize(in, mebibyte); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", in, got, err, want)
		}
	}
	for _, bad := range []string{"", "G", "4GG", "-1", "x", "9999999999E"} {
		if got, err := parseSize(bad, 1); err == nil {
			t.Errorf("%q is %d", bad, got)
		}
	}
}

func TestPortNames(t *testing.T) {
	for _, guest := range []string{"vm1", "9vm", "a b/ö", strings.Repeat("x", 80)} {
		r := &rewriter{names: map[string]bool{}, options: []option{newOption("name", "guest="+guest)}}
		first := r.portName("hostnet0")
		if second := r.portName("hostnet0"); second == first || len(second) > control.MaxPortName {
			t.Errorf("the second port of %s is %s, the first %s", guest, second, first)
		}
	}
}

func ExampleRewrite() {
	r, _ := Rewrite(context.Background(), DefaultConfig(), System{}, []string{"-version"})
	fmt.Println(r.Reasons[0])
	// Output: somebody asks what this QEMU can do: passed as it is
}
