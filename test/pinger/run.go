package pinger

import (
	"fmt"
	"net/netip"
	"time"
)

// Link carries frames. Receive gives a frame, or an error when none came in that time.
type Link interface {
	Send(frame []byte) error
	Receive(limit time.Duration) ([]byte, error)
}

// Find asks until somebody says who has the address.
func (h Host) Find(l Link, ip netip.Addr, limit time.Duration) (Host, error) {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if err := l.Send(h.Ask(ip)); err != nil {
			return Host{}, err
		}
		for again := time.Now().Add(500 * time.Millisecond); time.Now().Before(again); {
			f, err := l.Receive(time.Until(again))
			if err != nil {
				break
			}
			if mac, ok := h.Found(f, ip); ok {
				return Host{mac, ip}, nil
			}
		}
	}
	return Host{}, fmt.Errorf("nobody has said in %v who has %v", limit, ip)
}

// Ping sends so many echo requests of growing size, up to largest bytes of payload, one after the other, and checks each answer. A request
// is sent once: what is lost is an error.
func (h Host) Ping(l Link, to Host, count, largest int, limit time.Duration) error {
	for n := range count {
		request := h.Echo(to, uint16(n), 18+(largest-18)*n/max(count-1, 1))
		if err := l.Send(request); err != nil {
			return err
		}
		for end := time.Now().Add(limit); ; {
			f, err := l.Receive(time.Until(end))
			if err != nil {
				return fmt.Errorf("echo %d of %d, %d bytes: %w", n+1, count, len(request), err)
			}
			if back := h.Answer(f); back != nil { // the other side may ask who asks
				if err := l.Send(back); err != nil {
					return err
				}
				continue
			}
			if len(f) > 34 && f[12] == 8 && f[13] == 0 && f[23] == protoICMP {
				if err := h.Answers(f, request, to); err != nil {
					return fmt.Errorf("echo %d of %d, %d bytes: %w", n+1, count, len(request), err)
				}
				break
			}
		}
	}
	return nil
}

// Answerer answers frames; nil is no answer.
type Answerer interface{ Answer(frame []byte) []byte }

// Serve answers until the link ends or nothing has come for that time.
func Serve(a Answerer, l Link, idle time.Duration) (answered int) {
	for {
		f, err := l.Receive(idle)
		if err != nil {
			return answered
		}
		if back := a.Answer(f); back != nil && l.Send(back) == nil {
			answered++
		}
	}
}
