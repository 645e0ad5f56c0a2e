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
	go Serve(b, link{there, back}, time.Second)
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

// TestBoot: what DHCP and TFTP are asked, as clients ask it.
func TestBoot(t *testing.T) {
	client := Host{[6]byte{2, 0, 0, 0, 0, 9}, netip.MustParseAddr("10.0.0.9")}
	b := &Boot{Host: Host{[6]byte{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.1")}, Clients: map[[6]byte]Client{client.MAC: {client.IP, "#!ipxe"}}}
	as := &Boot{Host: client}
	discover := make([]byte, 240, 300)
	discover = append(discover, 53, 1, 1, 255)
	offer := b.Answer(as.udp(everybody, netip.MustParseAddr("255.255.255.255"), 68, 67, discover))
	if len(offer) < 300 || offer[42] != 2 || [4]byte(offer[42+16:]) != client.IP.As4() {
		t.Fatalf("offer %x", offer)
	}
	data := b.Answer(as.udp(b.MAC, b.IP, 2000, 69, []byte("\x00\x01script\x00octet\x00")))
	if len(data) < 42+10 || string(data[42:52]) != "\x00\x03\x00\x01#!ipxe" {
		t.Fatalf("data %x", data)
	}
	if b.Answer(as.udp(b.MAC, b.IP, 2000, portData, []byte{0, 4, 0, 1})); b.Fetched != 1 {
		t.Error("the acknowledgement was not counted")
	}
	stranger := &Boot{Host: Host{[6]byte{2, 0, 0, 0, 0, 8}, client.IP}}
	if b.Answer(stranger.udp(everybody, client.IP, 68, 67, discover)) != nil {
		t.Error("a stranger gets an address")
	}
}
