package user

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost"
	"vhostkit/switchd/virtio"
)

// TestQEMUOrder plays the order of messages of QEMU 7.2, enabling rings before SET_FEATURES, with memory slots; then its way out.
func TestQEMUOrder(t *testing.T) {
	before := openFDs(t)
	c := newSession(t)
	features := binary.LittleEndian.Uint64(c.ask(VHOST_USER_GET_FEATURES, nil))
	want := virtio.Bits(virtio.VIRTIO_F_VERSION_1, virtio.VIRTIO_F_RING_PACKED, virtio.VIRTIO_NET_F_MRG_RXBUF, virtio.VIRTIO_NET_F_MQ,
		virtio.VHOST_USER_F_PROTOCOL)
	if virtio.Features(features)&want != want {
		t.Fatalf("offered %v", virtio.Features(features).Names())
	}
	c.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, c.ask(VHOST_USER_GET_PROTOCOL_FEATURES, nil))
	if n := binary.LittleEndian.Uint64(c.ask(VHOST_USER_GET_QUEUE_NUM, nil)); n != 2 {
		t.Errorf("GET_QUEUE_NUM is %d, want 2", n)
	}
	if n := binary.LittleEndian.Uint64(c.ask(VHOST_USER_GET_MAX_MEM_SLOTS, nil)); n < 32 {
		t.Errorf("GET_MAX_MEM_SLOTS is %d, want 32 or more", n)
	}
	c.send(VHOST_USER_SET_OWNER, 0, nil)
	call := eventfd(t)
	defer unix.Close(call)
	for i := range uint64(2) {
		c.send(VHOST_USER_SET_VRING_CALL, 0, u64s(i), call)
		c.send(VHOST_USER_SET_VRING_ERR, 0, u64s(i), call)
	}
	for i := range uint32(2) {
		c.send(VHOST_USER_SET_VRING_ENABLE, 0, u32s(i, 1))
	}
	c.send(VHOST_USER_SET_FEATURES, 0, u64s(uint64(want&^virtio.Bits(virtio.VIRTIO_F_RING_PACKED))))
	c.send(VHOST_USER_SET_STATUS, 0, u64s(0xf))
	if s := binary.LittleEndian.Uint64(c.ask(VHOST_USER_GET_STATUS, nil)); s != 0xf {
		t.Errorf("GET_STATUS is %#x", s)
	}
	fd := memfd(t, 1<<20)
	defer unix.Close(fd)
	for range 2 { // once per queue pair, as QEMU before 8.1 does
		if r := c.tell(VHOST_USER_ADD_MEM_REG, u64s(0, 0x1000, 1<<20, 0x7f0000000000, 0), fd); r != 0 {
			t.Fatalf("ADD_MEM_REG: %d", r)
		}
	}
	for i := range uint32(2) {
		at := uint64(0x7f0000000000) + uint64(i)*0x10000
		c.send(VHOST_USER_SET_VRING_NUM, 0, u32s(i, 256))
		c.send(VHOST_USER_SET_VRING_BASE, 0, u32s(i, 0))
		c.send(VHOST_USER_SET_VRING_ADDR, 0, append(u32s(i, 0), u64s(at, at+0x3000, at+0x2000, 0)...))
		c.send(VHOST_USER_SET_VRING_KICK, 0, u64s(uint64(i)), call)
	}
	c.ask(VHOST_USER_GET_STATUS, nil) // everything before is done
	if n := c.sw.running(); n != 2 {
		t.Fatalf("%d rings run, want 2", n)
	}
	mac := []byte{0x52, 0x54, 0, 1, 2, 3, 0, 0}
	c.send(VHOST_USER_SEND_RARP, 0, mac)
	for range 2 {
		if r := c.tell(VHOST_USER_REM_MEM_REG, u64s(0, 0x1000, 1<<20, 0x7f0000000000, 0)); r != 0 {
			t.Errorf("REM_MEM_REG: %d", r)
		}
	}
	for i := range uint32(2) {
		if base := c.ask(VHOST_USER_GET_VRING_BASE, u32s(i, 0)); !bytes.Equal(base, u32s(i, 0)) {
			t.Errorf("GET_VRING_BASE is %x", base)
		}
	}
	if n := c.sw.running(); n != 0 {
		t.Errorf("%d rings run after GET_VRING_BASE", n)
	}
	c.close()
	if len(c.sw.macs) != 1 || !bytes.Equal(c.sw.macs[0][:], mac[:6]) {
		t.Errorf("announced %x", c.sw.macs)
	}
	if !c.sw.closed {
		t.Error("the port was not closed")
	}
	if after := openFDs(t); after > before+2 { // fd and call are ours
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// TestMemorySlots: regions are added and removed one by one while rings run elsewhere.
func TestMemorySlots(t *testing.T) {
	c := newSession(t)
	defer c.close()
	c.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, u64s(1<<VHOST_USER_PROTOCOL_F_REPLY_ACK))
	c.send(VHOST_USER_SET_FEATURES, 0, u64s(uint64(virtio.Bits(virtio.VIRTIO_F_VERSION_1))))
	fd, kick := memfd(t, 64<<16), eventfd(t)
	defer vhost.CloseFDs(fd, kick)
	const slots = 60
	region := func(i uint64) []byte { return u64s(0, i<<20, 1<<16, 0x7f0000000000+i<<20, i<<16) }
	for i := range uint64(slots) {
		if r := c.tell(VHOST_USER_ADD_MEM_REG, region(i), fd); r != 0 {
			t.Fatalf("slot %d: %d", i, r)
		}
	}
	at := uint64(0x7f0000000000 + 7<<20)
	c.tell(VHOST_USER_SET_VRING_NUM, u32s(0, 64))
	c.tell(VHOST_USER_SET_VRING_ADDR, append(u32s(0, 0), u64s(at, at+0x3000, at+0x2000, 0)...))
	c.tell(VHOST_USER_SET_VRING_KICK, u64s(0), kick)
	if n := c.sw.running(); n != 1 {
		t.Fatalf("%d rings run, want 1", n)
	}
	for i := range uint64(slots) {
		if r := c.tell(VHOST_USER_REM_MEM_REG, region(i)); r != 0 {
			t.Fatalf("removing slot %d: %d", i, r)
		}
		if n, want := c.sw.running(), map[bool]int{true: 1, false: 0}[i < 7]; n != want {
			t.Fatalf("after removing slot %d, %d rings run, want %d", i, n, want)
		}
	}
}

// TestRefusals: an acknowledged refusal keeps the connection, a malformed request ends it.
func TestRefusals(t *testing.T) {
	c := newSession(t)
	c.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, u64s(1<<VHOST_USER_PROTOCOL_F_REPLY_ACK))
	for r, payload := range map[Request][]byte{
		77:                          nil,
		VHOST_USER_NET_SET_MTU:      u64s(12),
		VHOST_USER_REM_MEM_REG:      u64s(0, 1, 2, 3, 4),
		VHOST_USER_SET_LOG_BASE:     u64s(0, 0),
		Request(24) /* config */ :   make([]byte, 12),
		Request(31) /* inflight */ : make([]byte, 24),
	} {
		if got := c.tell(r, payload); got == 0 {
			t.Errorf("%v was acknowledged as done", r)
		}
	}
	c.ask(VHOST_USER_GET_FEATURES, nil)
	if got := c.tell(VHOST_USER_SET_VRING_NUM, u32s(99, 256)); got == 0 {
		t.Error("vring 99 was acknowledged")
	}
	select {
	case <-c.done:
	case <-time.After(5 * time.Second):
		t.Error("the connection goes on after a request that makes no sense")
	}
	c.close()
}

// TestVirtioUserOrder plays DPDK's virtio-user: features first, one region whose guest addresses are the front-end's own, rings enabled after
// they are set up, stopped and started again.
func TestVirtioUserOrder(t *testing.T) {
	for _, packed := range []bool{false, true} {
		c := newSession(t)
		fd, event := memfd(t, 1<<20), eventfd(t)
		features, base := virtio.Bits(virtio.VIRTIO_F_VERSION_1, virtio.VHOST_USER_F_PROTOCOL), uint32(0)
		if packed {
			features |= virtio.Bits(virtio.VIRTIO_F_RING_PACKED)
			base = 0x8000
		}
		c.send(VHOST_USER_SET_OWNER, 0, nil)
		c.ask(VHOST_USER_GET_FEATURES, nil)
		c.ask(VHOST_USER_GET_PROTOCOL_FEATURES, nil)
		c.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, u64s(1<<VHOST_USER_PROTOCOL_F_MQ|1<<VHOST_USER_PROTOCOL_F_REPLY_ACK|
			1<<VHOST_USER_PROTOCOL_F_STATUS))
		c.ask(VHOST_USER_GET_QUEUE_NUM, nil)
		for round := range 2 {
			c.tell(VHOST_USER_SET_STATUS, u64s(3))
			c.send(VHOST_USER_SET_FEATURES, 0, u64s(uint64(features)))
			for i := range uint64(2) {
				c.send(VHOST_USER_SET_VRING_CALL, 0, u64s(i), event)
			}
			const at = 0x100000000
			if r := c.tell(VHOST_USER_SET_MEM_TABLE, append(u32s(1, 0), u64s(at, 1<<20, at, 0)...), fd); r != 0 {
				t.Fatalf("SET_MEM_TABLE: %d", r)
			}
			for i := range uint32(2) {
				ring := at + uint64(i)*0x10000
				c.send(VHOST_USER_SET_VRING_NUM, 0, u32s(i, 256))
				c.send(VHOST_USER_SET_VRING_BASE, 0, u32s(i, base))
				c.send(VHOST_USER_SET_VRING_ADDR, 0, append(u32s(i, 0), u64s(ring, ring+0x3000, ring+0x2000, 0)...))
				c.send(VHOST_USER_SET_VRING_KICK, 0, u64s(uint64(i)), event)
			}
			c.ask(VHOST_USER_GET_STATUS, nil)
			if n := c.sw.running(); n != 0 {
				t.Errorf("packed %v, round %d: %d rings run before they are enabled", packed, round, n)
			}
			for i := range uint32(2) {
				c.tell(VHOST_USER_SET_VRING_ENABLE, u32s(i, 1))
			}
			if n := c.sw.running(); n != 2 {
				t.Errorf("packed %v, round %d: %d rings run, want 2", packed, round, n)
			}
			for i := range uint32(2) {
				c.tell(VHOST_USER_SET_VRING_ENABLE, u32s(i, 0))
			}
			if n := c.sw.running(); n != 0 {
				t.Errorf("packed %v, round %d: %d rings run after they were disabled", packed, round, n)
			}
			for i := range uint32(2) {
				want := base | base<<16
				if got := c.ask(VHOST_USER_GET_VRING_BASE, u32s(i, 0)); !bytes.Equal(got, u32s(i, want)) {
					t.Errorf("packed %v: GET_VRING_BASE is %x, want %#x", packed, got, want)
				}
			}
			c.tell(VHOST_USER_SET_STATUS, u64s(0))
		}
		vhost.CloseFDs(fd, event)
		c.close()
	}
}

// TestForeignSlot: what is not there cannot be removed, also where the guest address is right; a table replaces what slots have counted.
func TestForeignSlot(t *testing.T) {
	c := newSession(t)
	defer c.close()
	c.send(VHOST_USER_SET_PROTOCOL_FEATURES, 0, u64s(1<<VHOST_USER_PROTOCOL_F_REPLY_ACK))
	fd := memfd(t, 1<<20)
	defer unix.Close(fd)
	region := u64s(0, 0x1000, 1<<20, 1<<40, 0)
	steps := []struct {
		name    string
		request Request
		payload []byte
		fds     []int
		refused bool
	}{
		{"add", VHOST_USER_ADD_MEM_REG, region, []int{fd}, false},
		{"add again", VHOST_USER_ADD_MEM_REG, region, []int{fd}, false},
		{"remove with another size", VHOST_USER_REM_MEM_REG, u64s(0, 0x1000, 4096, 1<<40, 0), nil, true},
		{"remove with another user address", VHOST_USER_REM_MEM_REG, u64s(0, 0x1000, 1<<20, 1<<41, 0), nil, true},
		{"table", VHOST_USER_SET_MEM_TABLE, append(u32s(1, 0), region[8:]...), []int{fd}, false},
		{"remove", VHOST_USER_REM_MEM_REG, region, nil, false},
		{"remove again", VHOST_USER_REM_MEM_REG, region, nil, true},
	}
	for _, step := range steps {
		if got := c.tell(step.request, step.payload, step.fds...); (got != 0) != step.refused {
			t.Errorf("%s: acknowledged with %d, refused should be %v", step.name, got, step.refused)
		}
	}
}

// TestRefusalsAreNotAFlood: a front-end cannot fill the log with requests that are refused.
func TestRefusalsAreNotAFlood(t *testing.T) {
	c := newSession(t)
	for range 1000 {
		c.send(77, 0, nil)
	}
	c.ask(VHOST_USER_GET_FEATURES, nil)
	c.close()
	if n := strings.Count(c.log.String(), "\n"); n < maxRefusals || n > maxRefusals+4 {
		t.Errorf("%d lines in the log after 1000 refusals, want about %d", n, maxRefusals)
	}
}
