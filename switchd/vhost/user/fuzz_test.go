package user

import (
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/vhost"
)

// FuzzSession feeds a session with arbitrary bytes in two parts, each with descriptors: it ends, without a panic, a hang or a leak.
// kind: bits 0..3 how many descriptors, bit 7 eventfds instead of memory.
func FuzzSession(f *testing.F) {
	f.Add(append(u32s(1, 1, 0), u32s(2, 1, 8, 1<<30, 0)...), uint16(12), byte(0))
	f.Add(append(u32s(5, 1, 40), append(u32s(1, 0), u64s(0, 4096, 0, 0)...)...), uint16(52), byte(1))
	f.Add(append(u32s(37, 1, 40), u64s(0, 0, 4096, 1<<40, 0)...), uint16(20), byte(1))
	f.Add(append(u32s(12, 1, 8), u64s(0x100)...), uint16(12), byte(2))
	f.Add(append(u32s(12, 1, 8), append(u64s(0), append(u32s(13, 1, 8), u64s(0)...)...)...), uint16(20), byte(0x81))
	f.Add(append(u32s(21, 9, 0), u32s(21, 9, 0)...), uint16(12), byte(0x81))
	warm := newSession(f) // the runtime's own descriptors exist from here on
	warm.close()
	f.Fuzz(func(t *testing.T, b []byte, cut uint16, kind byte) {
		before := openFDs(t)
		c := newSession(t)
		at := min(int(cut), len(b))
		for _, part := range [][]byte{b[:at], b[at:]} {
			var fds []int
			for range kind & 15 {
				if kind&0x80 != 0 {
					fds = append(fds, eventfd(t))
				} else {
					fds = append(fds, memfd(t, 8192))
				}
			}
			_, _, _ = c.conn.WriteMsgUnix(part, unix.UnixRights(fds...), nil)
			vhost.CloseFDs(fds...)
		}
		_ = c.conn.CloseWrite()
		_ = c.conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		_, _ = io.Copy(io.Discard, c.conn)
		c.close()
		if c.sw.closed != c.sw.opened {
			t.Error("the port was not closed")
		}
		sameFDs(t, before)
	})
}

// FuzzDecode: what the decoders accept is within bounds.
func FuzzDecode(f *testing.F) {
	f.Add(u32s(5, 1, 40), append(u32s(1, 0), u64s(0, 4096, 0, 0)...), uint8(1))
	f.Fuzz(func(t *testing.T, header, payload []byte, fds uint8) {
		h, err := DecodeHeader(header)
		if err == nil && (h.Size > maxPayload || h.Flags&versionMask != flagVersion) {
			t.Errorf("accepted %+v", h)
		}
		m := &Message{Header: h, Payload: payload, FDs: make([]int, fds%12)}
		if specs, err := DecodeMemTable(m); err == nil && (len(specs) != len(m.FDs) || len(specs) > memTableSlots) {
			t.Errorf("%d regions with %d descriptors", len(specs), len(m.FDs))
		}
		_, _ = m.Uint64()
		_, _, _ = m.VringState()
		_, _ = singleRegion(m)
		if index, _, err := m.vringFD(); err == nil && index > vringIndex {
			t.Errorf("vring index %d", index)
		}
	})
}
