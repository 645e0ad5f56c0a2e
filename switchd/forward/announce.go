package forward

import (
	"encoding/binary"

	"vhostkit/switchd/ether"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/ticks"
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

// announceBurst is how many announcements a port may have made at once; one more may follow with each tick. QEMU sends five after a migration.
const announceBurst = 8

// Announce registers an address on behalf of a guest that has just arrived by migration, and tells the network with a RARP broadcast
// (vhost-user SEND_RARP; the guest itself may not send for a long time). What goes beyond the port's budget is left out.
func (p *Port) Announce(mac ether.MAC) {
	if mac == 0 || mac.IsMulticast() {
		return
	}
	s := p.sw
	if p.announcing.Add(-1) < 0 {
		p.announcing.Add(1)
		s.emitOnce(p, Event{Kind: EventAnnounceLimit, Port: p.id, MAC: uint64(mac)})
		return
	}
	if _, ok := s.learn(p, mac); !ok {
		return
	}
	s.announceMu.Lock()
	s.announcements = append(s.announcements, announcement{p, mac})
	s.announceMu.Unlock()
	s.announcing.Store(true)
	if s.running.Load() {
		s.workers[0].wakeUp()
	}
}

// refillAnnouncements gives the port one announcement more, up to announceBurst.
func (p *Port) refillAnnouncements() {
	if p.announcing.Load() < announceBurst {
		p.announcing.Add(1)
	}
}

// announce sends one of what is waiting to be announced, if slow ports may have time now: it is a frame for everybody. The first worker does it
// between two rounds.
func (w *worker) announce() {
	p := &w.pace
	p.slowUsed = 0
	if p.now = ticks.Now(); !p.slowMay() {
		return
	}
	a, ok := w.sw.nextAnnouncement()
	if !ok {
		return
	}
	f := &w.frames[0]
	*f = frame{offset: headerLen, length: minimumFrame}
	rarp := rarpFrame(a.mac)
	copy(w.scratch.bytes(), rarp[:])
	f.segments = []guestmem.Segment{{Addr: w.scratch.addr(0), Len: minimumFrame}}
	f.loadHeader(f.segments, 0)
	w.requests = false
	w.discard.packets.Add(1)
	w.discard.bytes.Add(minimumFrame)
	w.flood(&transmitRing{port: a.port, c: &w.discard}, 0)
	now := ticks.Now()
	took := now - p.now
	p.now = now
	p.useSlow(took)
}

// nextAnnouncement takes the oldest of those whose port is still there.
func (s *Switch) nextAnnouncement() (a announcement, ok bool) {
	s.announceMu.Lock()
	defer s.announceMu.Unlock()
	if len(s.announcements) > 0 {
		a, ok = s.announcements[0], true
		s.announcements = s.announcements[1:]
	}
	s.announcing.Store(len(s.announcements) > 0)
	return a, ok
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
