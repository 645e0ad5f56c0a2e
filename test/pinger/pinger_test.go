package pinger

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

type link struct{ in, out chan []byte }

func (l link) Send(f []byte) error {
	l.out <- append([]byte(nil), f...)
	return nil
}

func (l link) Receive(limit time.Duration) ([]byte, error) {
	select {
	case f := <-l.in:
		return f, nil
	case <-time.After(limit):
		return nil, errors.New("nothing came")
	}
}

func TestPing(t *testing.T) {
	there, back := make(chan []byte, 8), make(chan []byte, 8)
	a := Host{[6]byte{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.1")}
	b := Host{[6]byte{2, 0, 0, 0, 0, 2}, netip.MustParseAddr("10.0.0.2")}
	go b.Serve(link{there, back}, time.Second)
	l := link{back, there}
	if found, err := a.Find(l, b.IP, time.Second); err != nil || found != b {
		t.Fatalf("found %+v, %v", found, err)
	}
	if err := a.Ping(l, b, 20, 1472, time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Find(l, netip.MustParseAddr("10.0.0.3"), 10*time.Millisecond); err == nil {
		t.Error("somebody has an address that nobody has")
	}
}

// TestPingNotices: an answer that differs in any byte is an error.
func TestPingNotices(t *testing.T) {
	a := Host{[6]byte{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.1")}
	b := Host{[6]byte{2, 0, 0, 0, 0, 2}, netip.MustParseAddr("10.0.0.2")}
	request := a.Echo(b, 7, 100)
	answer := b.Answer(request)
	if err := a.Answers(answer, request, b); err != nil {
		t.Fatal(err)
	}
	for i := range answer {
		wrong := append([]byte(nil), answer...)
		wrong[i] ^= 0x10
		if a.Answers(wrong, request, b) == nil {
			t.Errorf("byte %d may be anything", i)
		}
	}
	request[60] ^= 1
	if b.Answer(request) != nil {
		t.Error("a request with a wrong checksum is answered")
	}
}
