package cuse

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/guestmem"
)

// ledger has limits that nobody meets, but for one resource.
func ledger(r budget.Resource, l budget.Limit) *budget.Budget {
	var all budget.Limits
	for i := range all {
		all[i] = budget.Limit{Total: 1 << 50, User: 1 << 50, Account: 1 << 50}
	}
	all[r] = l
	return budget.New(all, nil)
}

// TestEverythingIsGivenBack: what a device takes is counted, through changes, and given back at its end.
func TestEverythingIsGivenBack(t *testing.T) {
	b := ledger(budget.Requests, budget.Limit{})
	k := bootWith(t, b)
	g := newGuest(t, 0, 16, 0)
	h := k.open()
	k.setUp(h, g)
	for range 20 {
		k.ok(h, VHOST_SET_VRING_CALL, words(0, uint32(eventFD(t))))
		k.ok(h, VHOST_SET_VRING_CALL, words(1, noFD))
		k.ok(h, VHOST_SET_VRING_ERR, words(1, uint32(eventFD(t))))
		k.ok(h, VHOST_SET_MEM_TABLE, table(g.region()))
	}
	for r, want := range map[budget.Resource]uint64{
		budget.Ports: 1, budget.Connections: 1, budget.Mappings: 1, budget.GuestMemory: 16 * pageSize,
		budget.Descriptors: 1 + 2 + 2, // the owner's pidfd, two kicks, and a call with its copy
	} {
		eventually(t, fmt.Sprintf("%v of %v are counted", want, r), func() bool { // what was replaced is closed a little later
			return b.Usage()[r].Used == want
		})
	}
	k.release(h)
	eventually(t, "everything is given back", func() bool {
		for _, u := range b.Usage() {
			if u.Used != 0 {
				return false
			}
		}
		return true
	})
}

// TestBounds: beyond its bounds a caller is refused, and told so.
func TestBounds(t *testing.T) {
	k := bootWith(t, ledger(budget.GuestMemory, budget.Limit{Total: 8 * pageSize, User: 8 * pageSize, Account: 8 * pageSize}))
	h := k.open()
	k.ok(h, VHOST_SET_OWNER, nil)
	k.wants(unix.ENOMEM, h, VHOST_SET_MEM_TABLE, table(newGuest(t, 0, 9, 0).region()))
	k.ok(h, VHOST_SET_MEM_TABLE, table(newGuest(t, 0, 8, 0).region()))

	k = bootWith(t, ledger(budget.Connections, budget.Limit{Total: 2, User: 2, Account: 1}))
	h = k.open()
	k.open()
	for range 50 {
		if errno, _ := k.ask(FUSE_OPEN, words(2, 0)); errno != unix.EBUSY {
			t.Errorf("a third open: %v, want EBUSY", errno)
		}
	}
	if n := strings.Count(k.log.String(), "opening the device is refused"); n != maxRefusals {
		t.Errorf("%d lines about 50 opens, want %d", n, maxRefusals)
	}
	k.release(h)
	eventually(t, "it may be opened again", func() bool {
		errno, _ := k.ask(FUSE_OPEN, words(2, 0))
		return errno == 0
	})
}

// TestMemoryOnADisk: by a descriptor and by the mapping alone, memory in a file of another file system is refused by name.
func TestMemoryOnADisk(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "guest")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(4 * pageSize); err != nil {
		t.Fatal(err)
	}
	at := reserve(t, 4)
	place(t, at, int(f.Fd()), 0, 4, readWrite, shared)
	k := boot(t)
	h := k.open()
	k.ok(h, VHOST_SET_OWNER, nil)
	region := guestRegion{0, 4 * pageSize, uint64(guestmem.AddressOf(at))}
	k.wants(unix.EOPNOTSUPP, h, VHOST_SET_MEM_TABLE, table(region))
	if !strings.Contains(k.log.String(), "--unsafe-memory-files") {
		t.Errorf("the log does not say what to do:\n%s", k.log)
	}
	f.Close()
	if os.Geteuid() == 0 { // mappings of others are root's to open
		if _, err := self(t).find(region); err == nil || !strings.Contains(err.Error(), "--unsafe-memory-files") {
			t.Errorf("by the mapping: %v", err)
		}
	}
}
