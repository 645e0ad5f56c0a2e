package forward

import (
	"bytes"
	"encoding/binary"
	"sync"
	"testing"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
	"vhostkit/switchd/virtio"
)

// wireUplink keeps what it is given to send, and what of it is left to it to do.
type wireUplink struct {
	poolsUplink
	mu       sync.Mutex
	frames   [][]byte
	requests []uplink.Offload
}

func (u *wireUplink) Queue(int) uplink.Queue { return u }

func (u *wireUplink) Send(frames []uplink.TxFrame, _ *uplink.InFlight) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for i := range frames {
		f := &frames[i]
		b := bytes.Clone(f.Header[:f.HeaderLen])
		for _, s := range f.Segs {
			b = append(b, s.Addr.Bytes(int(s.Len))...)
		}
		u.frames, u.requests = append(u.frames, b), append(u.requests, f.Offload)
	}
	return len(frames), nil
}

func (u *wireUplink) sentRequests() []uplink.Offload {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.requests
}

// gsoFrame is a TCP frame of so many bytes of payload with its virtio-net header: to be cut into pieces of that size.
func gsoFrame(to, from byte, kind uint8, payload int, size uint16) []byte {
	f := testFrame(to, from, headerLen, 0)
	copy(f[12:], []byte{8, 0})
	ip := make([]byte, 40)
	copy(ip, []byte{0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(ip[2:], uint16(40+payload))
	ip[32] = 0x50
	f = append(append(f, ip...), make([]byte, payload)...)
	h := make([]byte, rigHeader)
	h[0], h[1] = VIRTIO_NET_HDR_F_NEEDS_CSUM, kind
	binary.LittleEndian.PutUint16(h[4:], size)
	binary.LittleEndian.PutUint16(h[6:], headerLen+20)
	binary.LittleEndian.PutUint16(h[8:], 16)
	return append(h, f...)
}

// sendRaw lets n descriptors name one buffer, which holds a frame with its virtio-net header, and offers them.
func (g *guest) sendRaw(frame []byte, n int) {
	copy(g.tx.data.Bytes(len(frame)), frame)
	for i := range n {
		d := g.tx.desc + ptr(16*((int(g.tx.next)+i)%g.tx.size))
		d.StoreU64(rigMemory/2 + 0x10000)
		(d + 8).StoreU32(uint32(len(frame)))
	}
	g.tx.offer(n)
}

var (
	withCsum = rigFeatures | virtio.Bits(virtio.VIRTIO_NET_F_CSUM)
	withTSO4 = withCsum | virtio.Bits(virtio.VIRTIO_NET_F_HOST_TSO4)
	mergeRx  = rigFeatures | virtio.Bits(virtio.VIRTIO_NET_F_MRG_RXBUF)
)

// TestSegmentationIsNegotiated: a guest gets cut, by the switch, another guest or the outside, what it negotiated, in pieces of a decent size; nothing
// that is for everybody, and nothing that would be longer than frames may be.
func TestSegmentationIsNegotiated(t *testing.T) {
	const v4, v6, ecn = VIRTIO_NET_HDR_GSO_TCPV4, VIRTIO_NET_HDR_GSO_TCPV6, VIRTIO_NET_HDR_GSO_ECN
	tso6, withECN := virtio.Bits(virtio.VIRTIO_NET_F_HOST_TSO6), virtio.Bits(virtio.VIRTIO_NET_F_HOST_ECN)
	for _, c := range []struct {
		name     string
		features virtio.Features
		kind     uint8
		size     uint16
		passes   bool
	}{
		{"checksums alone", withCsum, v4, 1448, false},
		{"IPv4", withTSO4, v4, 1448, true},
		{"the least size", withTSO4, v4, ether.MinSegment, true},
		{"a flood of tiny segments", withTSO4, v4, ether.MinSegment - 1, false},
		{"one byte each", withTSO4, v4, 1, false},
		{"the longest frames", withTSO4, v4, JumboFrame - headerLen - 40, true},
		{"longer than frames may be", withTSO4, v4, JumboFrame - headerLen - 40 + 1, false},
		{"59000 bytes", withTSO4, v4, 59000, false},
		{"IPv6, with IPv4 negotiated", withTSO4, v6, 1448, false},
		{"IPv4, with IPv6 negotiated", withCsum | tso6, v4, 1448, false},
		{"ECN, not negotiated", withTSO4, v4 | ecn, 1448, false},
		{"ECN", withTSO4 | withECN, v4 | ecn, 1448, true},
		{"UFO", withTSO4, 3, 1448, false},
	} {
		for to, where := range map[byte]string{2: "a guest", 0x77: "the outside", 0xff: "everybody"} {
			t.Run(c.name+" to "+where, func(t *testing.T) {
				passes := c.passes && to != 0xff
				tx, arrived, left := segmented(t, c.features, to, c.kind, c.size)
				switch {
				case !passes && (tx.Drops["bad_header"] != 1 || arrived+left != 0),
					passes && to == 0x77 && (left != 1 || tx.Delivered != 1),
					passes && to == 2 && (tx.Delivered != 1 || int(tx.Copies) != (segmentedPayload-1)/int(c.size)):
					t.Errorf("%+v; %d buffers were filled, %d frames left", tx, arrived, left)
				}
			})
		}
	}
}

const segmentedPayload = 10000

// segmented lets a guest send a frame to be cut to a guest that takes frames as they are, to the outside or to everybody. It gives the sender's
// counters, how many buffers the other guest got, and how many frames left.
func segmented(t *testing.T, features virtio.Features, to byte, kind uint8, size uint16) (tx QueueStats, arrived, left int) {
	t.Helper()
	u := &wireUplink{}
	s := startSwitch(t, Config{VM2VM: VM2VMSoftware, MaxFrame: JumboFrame, Uplink: u})
	b, a := newGuestWith(t, s, 256, mergeRx), newGuestWith(t, s, 64, features)
	b.send(testFrame(0xee, 2, 60, 0))
	waitFor(t, func() bool { return len(s.Addresses()) == 1 && len(u.sentRequests()) == 1 })
	f := gsoFrame(to, 1, kind, segmentedPayload, size)
	if to == 0xff {
		copy(f[rigHeader:], everybody)
	}
	a.sendRaw(f, 1)
	waitFor(t, func() bool { return s.Ports()[1].Pairs[0].TX.Packets == 1 })
	return s.Ports()[1].Pairs[0].TX, int(b.rx.usedIndex()), len(u.sentRequests()) - 1
}

// TestSegmentationIsBounded: however many pieces the frames of a burst ask for, the worker makes a bounded number in one go, and what is left comes
// with the next bursts.
func TestSegmentationIsBounded(t *testing.T) {
	r := newBench(t, 1, 256)
	s := r.w.sw
	a := newGuestWith(t, s, 256, withTSO4)
	r.w.adopt()
	if _, ok := s.register(r.w.table.ports[0].port, 0x020000000002, 1); !ok {
		t.Fatal("not learned")
	}
	r.w.addresses = s.domain.Table()
	ring := r.w.table.ports[1].tx[0]
	for _, c := range []struct {
		payload    int
		size       uint16
		frames, in int // frames sent, and taken by the first burst
	}{
		{65400, ether.MinSegment, 3, 1}, // 1363 pieces each
		{65400, 1448, 64, maxPieces / 46},
		{1000, 500, 64, 64},
	} {
		a.sendRaw(gsoFrame(2, 1, VIRTIO_NET_HDR_GSO_TCPV4, c.payload, c.size), c.frames)
		first := r.w.ingress(ring, virtio.BurstSize)
		if first != c.in {
			t.Errorf("%d frames in pieces of %d: the first burst took %d, want %d", c.frames, c.size, first, c.in)
		}
		for taken := first; taken < c.frames; {
			n := r.w.ingress(ring, virtio.BurstSize)
			if taken += n; n == 0 {
				t.Fatalf("%d frames in pieces of %d: %d are left", c.frames, c.size, c.frames-taken)
			}
		}
		r.w.notify()
		r.guests[0].rx.recycle()
	}
}
