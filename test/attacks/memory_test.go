package attacks

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/vhost/user"
	"vhostkit/test/frontend"
)

// bare connects a user to a vhost-user socket and negotiates REPLY_ACK and no more.
func bare(uid int, socket string) (*frontend.Wire, error) {
	conn, err := connect(uid, socket)
	if err != nil {
		return nil, err
	}
	w := &frontend.Wire{Conn: conn}
	if err := w.Tell(user.VHOST_USER_SET_PROTOCOL_FEATURES, frontend.U64(1<<user.VHOST_USER_PROTOCOL_F_REPLY_ACK)); err != nil {
		conn.Close()
		return nil, err
	}
	w.Ack = true
	return w, nil
}

// wires are connections that an attacker holds.
type wires []*frontend.Wire

func (w wires) close() {
	for _, c := range w {
		c.Conn.Close()
	}
}

// users are whom an attack comes from: somebody else, or the user of all QEMUs, as with libvirt.
var users = map[string]int{"another user": hostile, "same user": innocent}

// TestAddressSpace: sparse files on many connections until no address space is left (audit 1). They take no memory of the attacker's.
func TestAddressSpace(t *testing.T) {
	for name, uid := range users {
		t.Run(name, func(t *testing.T) {
			d := start(t)
			p := newPair(t, d, innocent)
			var held wires
			defer func() { held.close() }()
			total := uint64(0)
			begin := time.Now()
			for shift := 46; shift >= 30 && !d.dead(); shift-- {
				size := uint64(1) << shift
				fd := memfd(t, int64(size))
				for time.Since(begin) < 10*time.Second && len(held) < 500 {
					w, err := bare(uid, d.socket)
					if err != nil {
						break
					}
					if err := w.Tell(user.VHOST_USER_SET_MEM_TABLE, table(0, size, 0x1000), fd); err != nil {
						w.Conn.Close()
						break
					}
					held, total = append(held, w), total+size
				}
			}
			t.Logf("%d connections hold %.3f TiB of address space", len(held), float64(total)/(1<<40))
			for range 300 { // garbage, so that the heap grows
				if _, err := d.client.Ports(context.Background()); err != nil {
					break
				}
			}
			d.goesOn(t)
			p.keepsTalking(t, "while the attacker holds what it got")
			if size := uint64(d.status(t, "VmSize")) << 10; size > 96<<40 {
				t.Errorf("switchd has %d TiB of address space", size>>40)
			}
			held.close()
			d.admits(t, uid)
		})
	}
}

// TestMappings: many small regions, of which each is an entry in the process's memory map (audit 2). One file of 4 KiB is enough.
func TestMappings(t *testing.T) {
	d := start(t)
	p := newPair(t, d, innocent)
	fd := memfd(t, 4096)
	var held wires
	defer func() { held.close() }()
	total := 0
	connect := func(regions int) bool {
		w, err := bare(hostile, d.socket)
		if err != nil {
			return false
		}
		for i := range regions {
			if err := w.Tell(user.VHOST_USER_ADD_MEM_REG, region(uint64(i)<<13, 4096, uint64(i+1)<<13), fd); err != nil {
				w.Conn.Close()
				return false
			}
		}
		held, total = append(held, w), total+regions
		return true
	}
	begin := time.Now()
	for per := 509; per >= 1; per /= 2 {
		for len(held) < 300 && !d.dead() && time.Since(begin) < 15*time.Second && connect(per) {
		}
	}
	t.Logf("%d connections hold %d mappings of one page", len(held), total)
	for range 300 {
		if _, err := d.client.Ports(context.Background()); err != nil {
			break
		}
	}
	d.goesOn(t)
	p.keepsTalking(t, "while the attacker holds what it got")
	maps, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", d.pid()))
	if n := strings.Count(string(maps), "\n"); n > 65530/4*3 {
		t.Errorf("switchd has %d mappings", n)
	}
	used := d.used(t, "mappings")
	held.close()
	eventually(t, 10*time.Second, "most of the mappings are given back", func() bool { return d.used(t, "mappings") <= used/10 })
	d.admits(t, hostile)
}

// TestSparseMemory: whoever touches a page of a sparse file first has it allocated, and that is the switch (audit 20). How much that may be is bounded
// by what a guest may have.
func TestSparseMemory(t *testing.T) {
	var args []string
	if has(t, "--max-guest-memory") {
		args = []string{"--max-guest-memory", "64M"}
	}
	d := start(t, args...)
	sender, err := dial(innocent, frontend.Config{Socket: d.socket})
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	const gpa, uva, size, pages = 0x8000000000, 0x7d0000000000, 1 << 40, 4000
	fd := memfd(t, size)
	evil, err := dial(hostile, frontend.Config{Socket: d.socket})
	if err != nil {
		t.Fatal(err)
	}
	defer evil.Close()
	if err := evil.Tell(user.VHOST_USER_ADD_MEM_REG, region(gpa, size, uva), fd); err == nil {
		_ = evil.Send(0, frame(address(0xee), address(0xe0), 60))
		time.Sleep(50 * time.Millisecond)
		receiveIntoNewPages(sender, evil, gpa, pages)
		t.Error("a front-end may share 1 TiB of sparse memory")
	}
	var st unix.Stat_t
	_ = unix.Fstat(fd, &st)
	if mib := st.Blocks / 2048; mib > 0 {
		t.Errorf("%d frames of 60 bytes had switchd allocate %d MiB for a front-end that never touched them; its RssShmem is %d MiB",
			pages, mib, d.status(t, "RssShmem")>>10)
	}
	d.goesOn(t)
}

// receiveIntoNewPages has a front-end offer each receive buffer on a page that nobody has touched.
func receiveIntoNewPages(sender, evil *frontend.Device, gpa, pages uint64) {
	r := evil.RX[0]
	page, avail := uint64(0), uint16(256) // it has offered 256 buffers
	for end := time.Now().Add(5 * time.Second); page < pages && time.Now().Before(end); {
		for used := uint16(r.Device().LoadU32() >> 16); avail-used < 256; page++ {
			slot := guestmem.Ptr(avail % 256)
			(r.Desc() + 16*slot).StoreU64(gpa + page<<12)
			(r.Desc() + 16*slot + 8).StoreU64(4096 | 2<<32)
			(r.Driver() + 4 + 2*slot).StoreU16(uint16(slot))
			avail++
			(r.Driver() + 2).StoreU16(avail)
		}
		if sender.Send(0, frame(address(0xe0), address(0x50), 60)) != nil {
			return
		}
	}
}

// TestForeignFiles: memory in a file that can keep the switch waiting is refused (audit 4): an overlay, whatever is below it, and files on disks.
func TestForeignFiles(t *testing.T) {
	d := start(t)
	p := newPair(t, d, innocent)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	mount := func(source, target, kind, data string) {
		t.Helper()
		if err := os.MkdirAll(target, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(source, target, kind, 0, data); err != nil {
			t.Fatalf("mount -t %s %s: %v", kind, target, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	mount("tmpfs", at("tmpfs"), "tmpfs", "size=64M")
	for _, sub := range []string{"upper", "work", "lower"} {
		if err := os.Mkdir(at("tmpfs/"+sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount("overlay", at("overlay"), "overlay", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", at("tmpfs")))
	disk, err := os.MkdirTemp(".", "disk") // of the working tree's file system
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(disk)
	share := func(path string) error {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := f.Truncate(4 << 20); err != nil {
			t.Fatal(err)
		}
		w, err := bare(hostile, d.socket)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Conn.Close()
		return w.Tell(user.VHOST_USER_SET_MEM_TABLE, table(0, 4<<20, 0x1000), int(f.Fd()))
	}
	if err := share(at("tmpfs/memory")); err != nil {
		t.Errorf("memory on tmpfs is refused: %v", err)
	}
	for _, path := range []string{at("overlay/memory"), filepath.Join(disk, "memory")} {
		if share(path) == nil {
			t.Errorf("memory in %s is taken", path)
		}
	}
	p.keepsTalking(t, "after foreign files")
	d.goesOn(t)
}

// TestAllPorts: one process takes all ports that it can get (audit 14). There is room for named ports, other users, and the administrator.
func TestAllPorts(t *testing.T) {
	for _, c := range []struct {
		name  string
		speak bool
	}{{"silent", false}, {"speaking", true}} {
		t.Run(c.name, func(t *testing.T) {
			d := start(t)
			var held []net.Conn
			defer func() {
				for _, conn := range held {
					conn.Close()
				}
			}()
			begin := time.Now()
			for len(held) < 3095 && time.Since(begin) < 5*time.Second {
				conn, err := connect(hostile, d.socket)
				if err != nil {
					time.Sleep(time.Millisecond) // the backlog is full
					continue
				}
				if held = append(held, conn); c.speak {
					_ = (&frontend.Wire{Conn: conn}).Raw(frontend.Message(user.VHOST_USER_GET_FEATURES, 0, nil))
				}
			}
			time.Sleep(200 * time.Millisecond)
			t.Logf("%d connections in %v", len(held), time.Since(begin).Round(time.Millisecond))
			if _, err := d.client.AddPort(context.Background(), "vm1"); err != nil {
				t.Errorf("the administrator cannot add a port: %v", err)
			}
			for _, uid := range []int{innocent, hostile} { // with libvirt all guests are one user's
				g, err := newTiny(uid, filepath.Join(d.dir, "p", "vm1.sock"))
				if err != nil {
					t.Errorf("user %d's guest does not get on by the named port: %v", uid, err)
					continue
				}
				g.close()
				eventually(t, 5*time.Second, "the named port is free again", func() bool {
					port, err := d.client.Port(context.Background(), "vm1")
					return err == nil && port.ID < 0
				})
			}
			d.goesOn(t)
		})
	}
}
