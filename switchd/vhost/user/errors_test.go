package user

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost"
	"vhostkit/switchd/virtio"
)

func header(r Request, flags, size uint32) []byte { return u32s(uint32(r), flags, size) }

func message(r Request, payload []byte) []byte {
	return append(header(r, flagVersion, uint32(len(payload))), payload...)
}

// ended waits for the session's own end, while the front-end still holds its side open.
func (c *client) ended(limit time.Duration) bool {
	select {
	case <-c.done:
		return true
	case <-time.After(limit):
		return false
	}
}

// TestMalformedMessagesEndTheConnection: each of these is a front-end that does not speak the protocol. Its device goes, all it passed is
// closed.
func TestMalformedMessagesEndTheConnection(t *testing.T) {
	table := append(u32s(1, 0), u64s(0, 4096, 1<<40, 0)...)
	region := u64s(0, 0, 4096, 1<<40, 0)
	fullTable := u32s(memTableSlots, 0) // good, if the kernel did not cut off descriptors
	for i := range uint64(memTableSlots) {
		fullTable = append(fullTable, u64s(i<<20, 4096, 1<<40+i<<20, 0)...)
	}
	file := func(t testing.TB) int {
		f, err := os.CreateTemp(t.TempDir(), "f")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	memory := func(t testing.TB) int { return memfd(t, 4096) }
	cases := []struct {
		name  string
		bytes []byte
		fd    func(testing.TB) int
		count int
	}{
		{name: "protocol version", bytes: header(VHOST_USER_GET_FEATURES, 2, 0)},
		{name: "payload size", bytes: header(VHOST_USER_SET_MEM_TABLE, flagVersion, maxPayload+1)},
		{name: "payload size of 4 GiB", bytes: header(VHOST_USER_SET_MEM_TABLE, flagVersion, 1<<32-1)},
		{name: "short number", bytes: message(VHOST_USER_SET_FEATURES, make([]byte, 4))},
		{name: "long number", bytes: message(VHOST_USER_SET_STATUS, make([]byte, 16))},
		{name: "status of 9 bits", bytes: message(VHOST_USER_SET_STATUS, u64s(0x100))},
		{name: "feature not offered", bytes: message(VHOST_USER_SET_FEATURES, u64s(1<<virtio.VIRTIO_F_ACCESS_PLATFORM))},
		{name: "logging not offered", bytes: message(VHOST_USER_SET_FEATURES, u64s(1<<virtio.VHOST_F_LOG_ALL))},
		{name: "protocol feature not offered", bytes: message(VHOST_USER_SET_PROTOCOL_FEATURES, u64s(1<<12))},
		{name: "vring index", bytes: message(VHOST_USER_SET_VRING_NUM, u32s(4, 256))},
		{name: "vring index of 32 bits", bytes: message(VHOST_USER_GET_VRING_BASE, u32s(1<<31, 0))},
		{name: "vring index of addresses", bytes: message(VHOST_USER_SET_VRING_ADDR, append(u32s(4, 0), u64s(0, 0, 0, 0)...))},
		{name: "vring size 0", bytes: message(VHOST_USER_SET_VRING_NUM, u32s(0, 0))},
		{name: "vring size", bytes: message(VHOST_USER_SET_VRING_NUM, u32s(0, 32769))},
		{name: "enable 2", bytes: message(VHOST_USER_SET_VRING_ENABLE, u32s(0, 2))},
		{name: "short RARP", bytes: message(VHOST_USER_SEND_RARP, make([]byte, 6))},
		{name: "kick without descriptor", bytes: message(VHOST_USER_SET_VRING_KICK, u64s(0))},
		{name: "two kicks", bytes: message(VHOST_USER_SET_VRING_KICK, u64s(0)), fd: func(t testing.TB) int { return eventfd(t) }, count: 2},
		{name: "kick for vring 4", bytes: message(VHOST_USER_SET_VRING_KICK, u64s(4)), fd: func(t testing.TB) int { return eventfd(t) }, count: 1},
		{name: "kick is a file", bytes: message(VHOST_USER_SET_VRING_KICK, u64s(0)), fd: file, count: 1},
		{name: "call is memory", bytes: message(VHOST_USER_SET_VRING_CALL, u64s(0)), fd: memory, count: 1},
		{name: "err is memory", bytes: message(VHOST_USER_SET_VRING_ERR, u64s(0)), fd: memory, count: 1},
		{name: "back-end channel without descriptor", bytes: message(VHOST_USER_SET_BACKEND_REQ_FD, nil)},
		{name: "table without descriptors", bytes: message(VHOST_USER_SET_MEM_TABLE, table)},
		{name: "table with two descriptors", bytes: message(VHOST_USER_SET_MEM_TABLE, table), fd: memory, count: 2},
		{name: "table of 0 regions", bytes: message(VHOST_USER_SET_MEM_TABLE, u32s(0, 0))},
		{name: "table of 4 billion regions", bytes: message(VHOST_USER_SET_MEM_TABLE, append(u32s(1<<32-1, 0), table[8:]...)), fd: memory, count: 1},
		{name: "table longer than its memory", bytes: message(VHOST_USER_SET_MEM_TABLE, append(u32s(1, 0), u64s(0, 8192, 1<<40, 0)...)), fd: memory, count: 1},
		{name: "table that wraps around", bytes: message(VHOST_USER_SET_MEM_TABLE, append(u32s(1, 0), u64s(1<<64-4096, 8192, 1<<40, 0)...)), fd: memory, count: 1},
		{name: "table on an eventfd", bytes: message(VHOST_USER_SET_MEM_TABLE, table), fd: func(t testing.TB) int { return eventfd(t) }, count: 1},
		{name: "slot without descriptor", bytes: message(VHOST_USER_ADD_MEM_REG, region)},
		{name: "slot with three", bytes: message(VHOST_USER_ADD_MEM_REG, region), fd: memory, count: 3},
		{name: "more descriptors than possible", bytes: message(VHOST_USER_SET_MEM_TABLE, fullTable), fd: memory, count: MaxFDs + 4},
	}
	newSession(t).close() // the runtime's own descriptors exist from here on
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			before := openFDs(t)
			c := newSession(t)
			var fds []int
			for range k.count {
				fds = append(fds, k.fd(t))
			}
			if _, _, err := c.conn.WriteMsgUnix(k.bytes, unix.UnixRights(fds...), nil); err != nil {
				t.Fatal(err)
			}
			vhost.CloseFDs(fds...)
			if !c.ended(5 * time.Second) {
				t.Error("the connection goes on")
			}
			c.close()
			if c.sw.closed != c.sw.opened {
				t.Error("the port was not closed")
			}
			sameFDs(t, before)
		})
	}
}

// TestCutMessages: a front-end that goes away in the middle of a message, wherever, leaves nothing behind.
func TestCutMessages(t *testing.T) {
	newSession(t).close()
	before := openFDs(t)
	b := message(VHOST_USER_ADD_MEM_REG, u64s(0, 0, 4096, 1<<40, 0))
	for cut := 1; cut < len(b); cut++ {
		c := newSession(t)
		fd := memfd(t, 4096)
		if _, _, err := c.conn.WriteMsgUnix(b[:cut], unix.UnixRights(fd), nil); err != nil {
			t.Fatal(err)
		}
		vhost.CloseFDs(fd)
		c.close()
		if c.sw.opened {
			t.Fatalf("cut after %d bytes: a port was taken", cut)
		}
	}
	sameFDs(t, before)
}

// TestRepeatedMessages: whatever is passed again replaces what was passed before (CVE-2019-14818 was such a leak).
func TestRepeatedMessages(t *testing.T) {
	c := newSession(t)
	defer c.close()
	fd, event := memfd(t, 1<<16), eventfd(t)
	defer vhost.CloseFDs(fd, event)
	round := func() {
		c.send(VHOST_USER_SET_MEM_TABLE, 0, append(u32s(1, 0), u64s(0, 1<<16, 1<<40, 0)...), fd)
		for i := range uint64(4) {
			c.send(VHOST_USER_SET_VRING_KICK, 0, u64s(i), event)
			c.send(VHOST_USER_SET_VRING_CALL, 0, u64s(i), event)
			c.send(VHOST_USER_SET_VRING_ERR, 0, u64s(i), event)
		}
		c.send(VHOST_USER_SET_BACKEND_REQ_FD, 0, nil, event)
		c.ask(VHOST_USER_GET_FEATURES, nil, event, fd) // descriptors that nobody asked for
		c.ask(VHOST_USER_GET_FEATURES, nil)            // a message's leftovers are closed after its answer, before the next message
	}
	round()
	before := openFDs(t)
	for range 50 {
		round()
	}
	sameFDs(t, before)
}

// TestStalledMessage: a front-end that stops in the middle of a message is dropped, one that is silent between messages is not.
func TestStalledMessage(t *testing.T) {
	t.Parallel()
	stalled, idle := newSession(t), newSession(t)
	idle.ask(VHOST_USER_GET_FEATURES, nil)
	if _, err := stalled.conn.Write(message(VHOST_USER_SET_FEATURES, u64s(0))[:15]); err != nil {
		t.Fatal(err)
	}
	if !stalled.ended(messageTimeout + 5*time.Second) {
		t.Error("the stalled connection goes on")
	}
	stalled.close()
	if idle.ended(0) {
		t.Error("the idle connection was dropped")
	}
	idle.ask(VHOST_USER_GET_FEATURES, nil)
	idle.close()
}

// TestDataPlaneStopsDevice: the session ends at once when the data plane gives up a device, also if the front-end has filled its error
// eventfd and made it block.
func TestDataPlaneStopsDevice(t *testing.T) {
	c := newSession(t)
	event := eventfd(t)
	defer unix.Close(event)
	c.send(VHOST_USER_SET_VRING_ERR, 0, u64s(0), event)
	c.ask(VHOST_USER_GET_FEATURES, nil)
	var full [8]byte
	binary.NativeEndian.PutUint64(full[:], 1<<64-2)
	if _, err := unix.Write(event, full[:]); err != nil {
		t.Fatal(err)
	}
	flags, err := unix.FcntlInt(uintptr(event), unix.F_GETFL, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(event), unix.F_SETFL, flags&^unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	c.sw.mu.Lock()
	fail := c.sw.fail
	c.sw.mu.Unlock()
	fail(errors.New("broken ring"))
	fail(errors.New("broken ring, again"))
	if !c.ended(5 * time.Second) {
		t.Fatal("the session goes on")
	}
	c.close()
	if !c.sw.closed {
		t.Error("the port was not closed")
	}
}
