package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
	"time"

	"vhostkit/test/guest/proto"
)

// Transfer is what one end of a TCP transfer saw.
type Transfer = proto.Transfer

// SendTCP connects to address (host:port), sends that many pseudo-random bytes, and waits until the receiver has
// taken all of them. The same seed gives the same bytes.
func (g *Guest) SendTCP(ctx context.Context, address string, bytes int64, seed uint64) (Transfer, error) {
	req := proto.Request{Op: proto.OpSend, Address: address, Bytes: bytes, Seed: seed}
	if deadline, ok := ctx.Deadline(); ok {
		req.TimeoutMS = max(1, time.Until(deadline).Milliseconds())
	}
	_, resp, err := g.call(ctx, req)
	if err != nil {
		return Transfer{}, fmt.Errorf("guest %s sends to %s: %w", g.cfg.Name, address, err)
	}
	return transferOf(resp)
}

func transferOf(resp proto.Response) (Transfer, error) {
	if resp.Transfer == nil {
		return Transfer{}, errors.New("the agent's answer has no transfer in it")
	}
	return *resp.Transfer, nil
}

// Receiver waits in the guest for one connection and takes what it brings.
type Receiver struct{ p Process }

// ReceiveTCP listens on the port, on all addresses; it listens when this returns.
func (g *Guest) ReceiveTCP(ctx context.Context, port int) (*Receiver, error) {
	address := net.JoinHostPort("", strconv.Itoa(port))
	id, _, err := g.call(ctx, proto.Request{Op: proto.OpListen, Address: address})
	if err != nil {
		return nil, fmt.Errorf("guest %s listens on port %d: %w", g.cfg.Name, port, err)
	}
	return &Receiver{Process{g: g, id: id, argv: []string{"listen", address}}}, nil
}

// Wait returns what has arrived when the sender has closed the connection.
func (r *Receiver) Wait(ctx context.Context) (Transfer, error) {
	_, resp, err := r.p.g.call(ctx, proto.Request{Op: proto.OpWait, Target: r.p.id})
	if err != nil {
		return Transfer{}, fmt.Errorf("guest %s receives: %w", r.p.g.cfg.Name, err)
	}
	return transferOf(resp)
}

// Close ends listening and a connection that is under way.
func (r *Receiver) Close(ctx context.Context) error { return r.p.Signal(ctx, syscall.SIGTERM) }

// Exchange transfers bytes from one guest to the other, at address (its IP address), and compares what left with
// what arrived.
func Exchange(ctx context.Context, from, to *Guest, address string, port int, bytes int64, seed uint64) (sent, received Transfer, err error) {
	r, err := to.ReceiveTCP(ctx, port)
	if err != nil {
		return sent, received, err
	}
	sent, err = from.SendTCP(ctx, net.JoinHostPort(address, strconv.Itoa(port)), bytes, seed)
	if err != nil {
		return sent, received, errors.Join(err, r.Close(context.WithoutCancel(ctx)))
	}
	received, err = r.Wait(ctx)
	if err != nil {
		return sent, received, err
	}
	if sent.Bytes != bytes || received.Bytes != bytes || sent.SHA256 != received.SHA256 {
		return sent, received, fmt.Errorf("sent %d bytes with SHA-256 %s, received %d with %s", sent.Bytes, sent.SHA256, received.Bytes, received.SHA256)
	}
	return sent, received, nil
}
