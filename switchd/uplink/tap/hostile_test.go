package tap

import (
	"bytes"
	"encoding/binary"
	"maps"
	"testing"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/uplink"
)

const needsCsum, tcpV4 = 1, 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4

// TestHostileOffloads: what would let a sender write into its checked header is not sent, is counted, and does not hold up what follows. Newer
// kernels refuse these requests as well, so that this shows what becomes of refused frames; TestVnetHeader shows the check of our own.
func TestHostileOffloads(t *testing.T) {
	u := open(t, 1)
	s := packetSocket(t, u.Name())
	buffer := filled(t)
	good := frameFor(buffer, 100)
	bad := []uplink.Offload{
		{Flags: needsCsum, CsumStart: 0, CsumOffset: 6},       // the source address
		{Flags: needsCsum, CsumStart: 0, CsumOffset: 10},      // the tag's VLAN
		{Flags: needsCsum, CsumStart: 13, CsumOffset: 20},     // begins in the header
		{Flags: needsCsum, CsumStart: 0xfffc, CsumOffset: 0},  // plus the tag: 0
		{Flags: needsCsum, CsumStart: 0xffff, CsumOffset: 11}, // plus the tag: 3 and 14
		{Flags: needsCsum, CsumStart: 5000, CsumOffset: 0},    // past the end
		{Flags: needsCsum, GSOType: 0x7f, CsumStart: 34, CsumOffset: 16, GSOSize: 1000},
		{Flags: needsCsum, GSOType: tcpV4, CsumStart: 34, CsumOffset: 16, GSOSize: 0},
	}
	var frames []uplink.TxFrame
	for _, o := range bad {
		f := good
		f.Offload = o
		frames = append(frames, f)
	}
	last := good
	last.Header[11] = 0x77 // to know it by
	frames = append(frames, last)
	if n, err := u.Queue(0).Send(frames, nil); n != len(frames) || err != nil {
		t.Fatalf("sent %d, %v; want all %d", n, err, len(frames))
	}
	if got := counted(u); !maps.Equal(got, map[string]uint64{"rejected": uint64(len(bad))}) {
		t.Errorf("%+v, want %d rejected", got, len(bad))
	}
	if got, vlan, _ := seen(t, s); ether.Source(got) != 0x020000000077 || vlan != 1005 {
		t.Errorf("the first frame on the interface is from %v in VLAN %d, want only the good one", ether.Source(got), vlan)
	}
}

// TestTooManyPieces: a frame in more pieces than the kernel takes in one call is that frame's loss.
func TestTooManyPieces(t *testing.T) {
	u := open(t, 1)
	buffer := filled(t)
	f := frameFor(buffer, 100)
	piece := f.Segs[0]
	piece.Len = 1
	f.Segs = f.Segs[:0]
	for range maxIOV - 1 {
		f.Segs = append(f.Segs, piece)
	}
	if n, err := u.Queue(0).Send([]uplink.TxFrame{f}, nil); n != 1 || err != nil || counted(u)["rejected"] != 0 {
		t.Errorf("%d pieces: sent %d, %v, %+v", len(f.Segs), n, err, counted(u))
	}
	f.Segs = append(f.Segs, piece)
	if n, err := u.Queue(0).Send([]uplink.TxFrame{f}, nil); n != 1 || err != nil || counted(u)["rejected"] != 1 {
		t.Errorf("%d pieces: sent %d, %v, %+v; want it rejected", len(f.Segs), n, err, counted(u))
	}
}

func TestVnetHeader(t *testing.T) {
	plain := uplink.TxFrame{HeaderLen: ether.HeaderLen}
	plain.Header[12] = 0x08
	tagged := plain
	ether.PutTag(tagged.Header[:], 7)
	tagged.HeaderLen += ether.TagLen
	own := uplink.TxFrame{HeaderLen: ether.HeaderLen} // the sender's own tag, in its memory from the VLAN on
	own.Header[12] = 0x81
	tso := uplink.Offload{Flags: needsCsum, GSOType: tcpV4, HdrLen: 54, GSOSize: 1460, CsumStart: 34, CsumOffset: 16}
	for name, c := range map[string]struct {
		frame   uplink.TxFrame
		offload uplink.Offload
		want    []uint16 // flags and type, hdr_len, gso_size, csum_start, csum_offset; nil: refused
	}{
		"nothing asked for":          {tagged, uplink.Offload{}, []uint16{0, 0, 0, 0, 0}},
		"stray fields are not shown": {tagged, uplink.Offload{HdrLen: 1, CsumStart: 2}, []uint16{0, 0, 0, 0, 0}},
		"untagged":                   {plain, tso, []uint16{0x0101, 54, 1460, 34, 16}},
		"tagged by us":               {tagged, tso, []uint16{0x0101, 58, 1460, 38, 16}},
		"tagged by the sender":       {own, tso, []uint16{0x0101, 54, 1460, 34, 16}},
		"header length at its limit": {tagged, uplink.Offload{Flags: 1, HdrLen: 0xffff, CsumStart: 14}, []uint16{0x0001, 0xffff, 0, 18, 0}},
		"no checksum, no positions":  {tagged, uplink.Offload{GSOType: tcpV4, GSOSize: 9}, []uint16{0x0100, 4, 9, 0, 0}},
		"first byte of the payload":  {plain, uplink.Offload{Flags: 1, CsumStart: 14}, []uint16{0x0001, 0, 0, 14, 0}},
		"the header's last byte":     {plain, uplink.Offload{Flags: 1, CsumStart: 13}, nil},
		"the sender's tag":           {own, uplink.Offload{Flags: 1, CsumStart: 14}, nil},
		"wraps around":               {tagged, uplink.Offload{Flags: 1, CsumStart: 0xfffe}, nil},
	} {
		b := bytes.Repeat([]byte{0xaa}, vnetHeader)
		c.frame.Offload = c.offload
		ok := putVnetHeader(b, &c.frame)
		if ok != (c.want != nil) {
			t.Errorf("%s: %v", name, ok)
			continue
		}
		for i, want := range c.want {
			if got := binary.LittleEndian.Uint16(b[2*i:]); got != want {
				t.Errorf("%s: field %d is %#x, want %#x", name, i, got, want)
			}
		}
	}
}
