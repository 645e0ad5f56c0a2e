package guest

import (
	"bytes"
	"compress/gzip"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const testDep = `kernel/drivers/virtio/virtio.ko:
kernel/drivers/virtio/virtio_ring.ko: kernel/drivers/virtio/virtio.ko
kernel/drivers/virtio/virtio_pci_modern_dev.ko.xz:
kernel/drivers/virtio/virtio_pci.ko: kernel/drivers/virtio/virtio_pci_modern_dev.ko.xz kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
kernel/net/core/failover.ko.zst:
kernel/drivers/net/net_failover.ko: kernel/net/core/failover.ko.zst
kernel/drivers/net/virtio-net.ko: kernel/drivers/net/net_failover.ko kernel/net/core/failover.ko.zst kernel/drivers/virtio/virtio_ring.ko kernel/drivers/virtio/virtio.ko
`

func TestResolveModules(t *testing.T) {
	tree := parseModules(testDep, "kernel/drivers/char/virtio_console.ko\n")
	for _, c := range []struct {
		wanted []string
		want   string // names in order
		err    string
	}{
		{wanted: nil},
		{wanted: []string{"virtio"}, want: "virtio"},
		{wanted: []string{"virtio_net"}, want: "virtio virtio_ring failover net_failover virtio_net"},
		{wanted: []string{"virtio-net"}, want: "virtio virtio_ring failover net_failover virtio_net"},
		{wanted: []string{"virtio_pci", "virtio_net"}, want: "virtio virtio_ring virtio_pci_modern_dev virtio_pci failover net_failover virtio_net"},
		{wanted: []string{"virtio_ring", "virtio", "virtio_ring"}, want: "virtio virtio_ring"},
		{wanted: []string{"virtio_console", "virtio"}, want: "virtio"},
		{wanted: []string{"nothing"}, err: "no module nothing"},
	} {
		files, err := tree.resolve(c.wanted)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("resolve(%q): error %v, want %q", c.wanted, err, c.err)
			}
			continue
		}
		var names []string
		for _, f := range files {
			names = append(names, moduleName(f))
		}
		if err != nil || strings.Join(names, " ") != c.want {
			t.Errorf("resolve(%q) = %q, %v, want %q", c.wanted, names, err, c.want)
		}
	}
}

// Whatever the kernel: each module comes after all that it needs.
func TestResolveOrderForTheRealKernel(t *testing.T) {
	k, err := FindKernel()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := loadModuleTree(k.Modules)
	if err != nil {
		t.Fatal(err)
	}
	wanted := modulesFor(Config{NICs: make([]NIC, 1), HostRoot: true, Modules: []string{"uio_pci_generic"}})
	files, err := tree.resolve(wanted)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range files {
		for _, need := range tree.deps[f] {
			if at := slices.Index(files, need); at < 0 || at > i {
				t.Errorf("%s (place %d) needs %s (place %d)", f, i, need, at)
			}
		}
		data, err := tree.read(f)
		if err != nil || !bytes.HasPrefix(data, []byte("\x7fELF")) {
			t.Errorf("%s is no ELF file: %v", f, err)
		}
	}
}

func TestDecompress(t *testing.T) {
	want := bytes.Repeat([]byte("the same in each form "), 1000)
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	if _, err := w.Write(want); err != nil || w.Close() != nil {
		t.Fatal("gzip failed")
	}
	compress := func(argv ...string) []byte {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdin = bytes.NewReader(want)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%q: %v", argv, err)
		}
		return out
	}
	for name, data := range map[string][]byte{
		"plain":             want,
		"gzip":              gz.Bytes(),
		"gzip and more":     append(slices.Clone(gz.Bytes()), 1, 2, 3, 4),
		"xz":                compress("xz", "-c"),
		"xz, crc32":         compress("xz", "-c", "--check=crc32"),
		"xz and the length": append(compress("xz", "-c"), 1, 2, 3, 4),
		"zstd":              compress("zstd", "-cq"),
	} {
		if got, err := decompress(data); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v, want %d", name, len(got), err, len(want))
		}
	}
	if _, err := decompress([]byte("\xfd7zXZ\x00 but not really")); err == nil {
		t.Error("damaged xz: no error")
	}
}
