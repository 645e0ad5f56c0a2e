package hugepages

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"vhostkit/hugepages"
	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/mount"
	"vhostkit/hugepages/pool/fake"
	"vhostkit/internal/sysedit"
	"vhostkit/test/guest"
)

// generator stands for update-grub: it reads the settings with a shell, as that does, and writes a configuration to boot.
type generator struct{ root string }

func (g generator) Has(name string) bool { return name == "update-grub" }

func (g generator) Run(ctx context.Context, argv ...string) (string, error) {
	script := `. "$1/etc/default/grub"; for f in "$1"/etc/default/grub.d/*.cfg; do [ -e "$f" ] && . "$f"; done
		printf 'linux /vmlinuz %s %s\n' "$GRUB_CMDLINE_LINUX" "$GRUB_CMDLINE_LINUX_DEFAULT" >"$1/boot/grub/grub.cfg"`
	out, err := exec.CommandContext(ctx, "sh", "-c", script, "sh", g.root).CombinedOutput()
	return string(out), err
}

// TestBoot: a kernel that boots with what was written has the pages that were asked for.
func TestBoot(t *testing.T) {
	for name, c := range map[string]struct {
		before  string // of GRUB_CMDLINE_LINUX
		request hugepages.Request
		memory  int // MiB
		want    map[bytesize.Size]uint64
		usual   bytesize.Size // the default size, which HugePages_Total counts
	}{
		"1G": {"net.ifnames=0 hugepages=16", hugepages.Request{ForVMs: bytesize.GiB + 1, ForSwitch: 64 * bytesize.MiB}, 6144,
			map[bytesize.Size]uint64{bytesize.GiB: 2, 2 * bytesize.MiB: 32}, bytesize.GiB},
		"2M": {"", hugepages.Request{ForVMs: 256 * bytesize.MiB, ForSwitch: 64 * bytesize.MiB, PageSize: 2 * bytesize.MiB}, 1024,
			map[bytesize.Size]uint64{2 * bytesize.MiB: 160}, 2 * bytesize.MiB},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			line, h := written(t, c.before, c.request, bytesize.Size(c.memory)*bytesize.MiB)
			g, err := guest.Start(ctx, guest.Config{Name: "hugepages-" + name, MemoryMiB: c.memory, KernelArgs: line})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Kill()
			meminfo := g.MustRun(ctx, t, "cat", "/proc/meminfo")
			if got := field(meminfo, "HugePages_Total:"); got != c.want[c.usual] {
				t.Errorf("HugePages_Total is %d, want %d; the command line was %q", got, c.want[c.usual], line)
			}
			if got := field(meminfo, "Hugepagesize:"); got != uint64(c.usual/bytesize.KiB) {
				t.Errorf("Hugepagesize is %d kB, want %v", got, c.usual)
			}
			for size, want := range c.want {
				path := fmt.Sprintf("/sys/kernel/mm/hugepages/hugepages-%dkB/nr_hugepages", size/bytesize.KiB)
				if got := strings.TrimSpace(g.MustRun(ctx, t, "cat", path)); got != strconv.FormatUint(want, 10) {
					t.Errorf("%s is %s, want %d", path, got, want)
				}
			}
			// What the entry of /etc/fstab says can be mounted there.
			table, err := os.ReadFile(filepath.Join(h.Store.Root, "etc/fstab"))
			if err != nil {
				t.Fatal(err)
			}
			for l := range strings.Lines(string(table)) {
				f := strings.Fields(l)
				if len(f) > 3 && f[2] == "hugetlbfs" {
					g.MustRun(ctx, t, "sh", "-ec", "mkdir -p "+f[1]+"; mount -t hugetlbfs -o "+f[3]+" hugetlbfs "+f[1]+"; grep "+f[1]+" /proc/mounts")
				}
			}
			if log := g.MustRun(ctx, t, "dmesg"); strings.Contains(log, "HugeTLB: ") && strings.Contains(log, "ignoring") {
				t.Errorf("the kernel ignored a parameter of %q", line)
			}
		})
	}
}

// written provisions a root for a machine of that memory and returns the command line that its boot loader got.
func written(t *testing.T, before string, request hugepages.Request, memory bytesize.Size) (string, hugepages.Host) {
	t.Helper()
	root := t.TempDir()
	for path, content := range map[string]string{"etc/default/grub": "GRUB_DEFAULT=0\nGRUB_CMDLINE_LINUX=\"" + before + "\"\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\n",
		"boot/grub/grub.cfg": "", "etc/fstab": "# nothing yet\n"} {
		full := filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kernel := fake.New(memory)
	kernel.Texts["/proc/self/mounts"] = ""
	h := hugepages.Host{Store: sysedit.Store{Root: root}, Kernel: kernel, Mounter: mount.System{}, Runner: generator{root}}
	request.Persist = true
	provision(t, h, request)
	config, err := os.ReadFile(filepath.Join(root, "boot/grub/grub.cfg"))
	if err != nil {
		t.Fatal(err)
	}
	line, ok := strings.CutPrefix(strings.TrimSpace(string(config)), "linux /vmlinuz ")
	if !ok {
		t.Fatalf("the generator wrote %q", config)
	}
	return line, h
}

func field(text, key string) uint64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == key {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			return n
		}
	}
	return 0
}
