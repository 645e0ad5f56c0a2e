package hostvlan

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

// inNamespace runs the calling test again in a network namespace of its own and reports whether this is that run.
func inNamespace(t *testing.T) bool {
	if os.Getenv("HOSTVLAN_TEST") == t.Name() {
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "unshare", "-rn", os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	if os.Geteuid() == 0 {
		cmd.Args[1] = "-n"
	}
	cmd.Env = append(os.Environ(), "HOSTVLAN_TEST="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in a network namespace: %v\n%s", err, out)
	}
	if !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Fatalf("the test did not run in the namespace:\n%s", out)
	}
	return false
}

// Two ends of a virtual cable hear each other in the same VLAN and not across VLANs.
func TestFramesCarryTheTag(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for _, args := range []string{"link add near type veth peer name far", "link set near up", "link set far up"} {
		if err := ip(ctx, strings.Fields(args)...); err != nil {
			t.Fatal(err)
		}
	}
	// Both ends are this host's, so it must answer questions that come from its own addresses.
	for _, key := range []string{"accept_local", "arp_ignore"} {
		if err := os.WriteFile("/proc/sys/net/ipv4/conf/all/"+key, []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
	}
	add := func(parent string, vlan int, address string) *Link {
		l, err := Add(ctx, parent, vlan, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	near := add("near", 1000, "10.9.8.1/24")
	add("far", 1000, "10.9.8.2/24")
	add("far", 1001, "10.9.8.3/24")
	t.Logf("the kernel's own VLAN interfaces: %v", near.Kernel)

	arping := func(address string) (string, error) {
		out, err := exec.CommandContext(ctx, "busybox", "arping", "-c", "2", "-w", "2", "-I", near.Name, address).CombinedOutput()
		return string(out), err
	}
	if out, err := arping("10.9.8.2"); err != nil {
		t.Errorf("no answer in the same VLAN: %v\n%s", err, out)
	}
	if out, err := arping("10.9.8.3"); err == nil {
		t.Errorf("an answer from another VLAN:\n%s", out)
	}
}

func TestUntag(t *testing.T) {
	r := &relay{vlan: 1000}
	addresses := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	tagged := func(tci uint16) []byte {
		f := slices.Clone(addresses)
		f = binary.BigEndian.AppendUint16(f, tpid)
		f = binary.BigEndian.AppendUint16(f, tci)
		return append(f, 0x08, 0x00, 0xaa)
	}
	plain := append(slices.Clone(addresses), 0x08, 0x00, 0xaa)
	for _, c := range []struct {
		name  string
		frame []byte
		want  bool
	}{
		{"own tag", tagged(1000), true},
		{"own tag with a priority", tagged(7<<13 | 1000), true},
		{"another tag", tagged(1001), false},
		{"no tag", slices.Clone(plain), false},
		{"cut inside the tag", tagged(1000)[:15], false},
		{"empty", nil, false},
	} {
		got, ok := r.untag(c.frame, nil)
		if ok != c.want {
			t.Errorf("%s: %v, want %v", c.name, ok, c.want)
		}
		if ok && !slices.Equal(got, plain) {
			t.Errorf("%s: % x, want % x", c.name, got, plain)
		}
	}
}
