package forward

import (
	"encoding/binary"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
)

// announcement is a frame that the switch itself sends on behalf of a port.
type announcement struct {
	port *Port
	mac  ether.MAC
}

const (
	etherTypeRARP = 0x8035
	minimumFrame  = 60 // bytes without FCS
)

// Announce registers an address on behalf of a guest that has just arrived by migration, and tells the network with a RARP broadcast
// (vhost-user SEND_RARP; the guest itself may not send for a long time).
func (p *Port) Announce(mac ether.MAC) {
	if mac == 0 || mac.IsMulticast() {
		return
	}
	if _, ok := p.sw.learn(p, mac); !ok {
		return
	}
	s := p.sw
	s.announceMu.Lock()
	if len(s.announcements) < MaxPorts {
		s.announcements = append(s.announcements, announcement{p, mac})
	}
	s.announceMu.Unlock()
	s.announcing.Store(true)
	if s.running.Load() {
		s.workers[0].wakeUp()
	}
}

// announce sends what is waiting to be announced. The first worker does it between two rounds.
func (w *worker) announce() {
	s := w.sw
	s.announceMu.Lock()
	list := s.announcements
	s.announcements = nil
	s.announcing.Store(false)
	s.announceMu.Unlock()
	for _, a := range list {
		f := &w.frames[0]
		*f = frame{offset: headerLen, length: minimumFrame}
		rarp := rarpFrame(a.mac)
		copy(w.scratch.bytes(), rarp[:])
		f.segments = []guestmem.Segment{{Addr: w.scratch.addr(0), Len: minimumFrame}}
		f.loadHeader(f.segments, 0)
		w.flood(&transmitRing{port: a.port, c: &w.discard}, 0)
	}
}

// rarpFrame is a RARP request for the address itself (RFC 903), which makes switches learn where it is.
func rarpFrame(mac ether.MAC) (f [minimumFrame]byte) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(mac)<<16)
	for i := range 6 {
		f[i] = 0xff
	}
	copy(f[6:], b[:6])
	binary.BigEndian.PutUint16(f[12:], etherTypeRARP)
	copy(f[14:], []byte{0, 1, 8, 0, 6, 4, 0, 3}) // Ethernet, IPv4, lengths, request reverse
	copy(f[22:], b[:6])
	copy(f[32:], b[:6])
	return f
}
