package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"vhostkit/test/guest/proto"
)

// chunk is how much is made, hashed and written at a time: few system calls, and still within a cache.
const chunk = 128 << 10

// tally counts, hashes and times what passes.
type tally struct {
	start time.Time
	bytes int64
	hash  hash.Hash
}

func newTally() *tally { return &tally{start: time.Now(), hash: sha256.New()} }

func (t *tally) add(p []byte) {
	t.bytes += int64(len(p))
	t.hash.Write(p)
}

func (t *tally) result() *proto.Transfer {
	return &proto.Transfer{
		Bytes:   t.bytes,
		Seconds: time.Since(t.start).Seconds(),
		SHA256:  hex.EncodeToString(t.hash.Sum(nil)),
	}
}

// send connects, sends the bytes, and waits until the receiver has taken them all and closed.
func send(req proto.Request) proto.Response {
	patience := 60 * time.Second
	if req.TimeoutMS > 0 {
		patience = time.Duration(req.TimeoutMS) * time.Millisecond
	}
	deadline := time.Now().Add(patience)
	conn, err := net.DialTimeout("tcp", req.Address, patience)
	if err != nil {
		return errorResponse(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(deadline)
	t := newTally()
	random := proto.NewRandom(req.Seed)
	buf := make([]byte, chunk)
	for t.bytes < req.Bytes {
		p := buf[:min(req.Bytes-t.bytes, chunk)]
		random.Fill(p)
		t.add(p)
		if _, err := conn.Write(p); err != nil {
			return errorResponse(fmt.Errorf("after %d of %d bytes: %w", t.bytes, req.Bytes, err))
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return errorResponse(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return errorResponse(fmt.Errorf("waiting for the receiver to close: %w", err))
	}
	return proto.Response{Transfer: t.result()}
}

// listener receives one connection's bytes.
type listener struct {
	socket net.Listener
	ended  chan struct{}
	resp   proto.Response

	mu   sync.Mutex
	conn net.Conn
}

func startListener(req proto.Request) (job, error) {
	socket, err := net.Listen("tcp", req.Address)
	if err != nil {
		return nil, err
	}
	l := &listener{socket: socket, ended: make(chan struct{})}
	go l.receive()
	return l, nil
}

func (l *listener) receive() {
	defer close(l.ended)
	defer l.socket.Close()
	conn, err := l.socket.Accept()
	if err != nil {
		l.resp = errorResponse(err)
		return
	}
	defer conn.Close()
	l.mu.Lock()
	l.conn = conn
	l.mu.Unlock()
	t := newTally()
	buf := make([]byte, chunk)
	for {
		n, err := conn.Read(buf)
		t.add(buf[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			l.resp = errorResponse(fmt.Errorf("after %d bytes: %w", t.bytes, err))
			return
		}
	}
	l.resp = proto.Response{Transfer: t.result()}
}

func (l *listener) output() proto.Response {
	select {
	case <-l.ended:
		return l.resp
	default:
		return proto.Response{Running: true}
	}
}

func (l *listener) write([]byte) error { return errors.New("a listener has no standard input") }

// Any signal ends it.
func (l *listener) signal(syscall.Signal) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn != nil {
		_ = l.conn.Close()
	}
	_ = l.socket.Close()
	return nil
}

func (l *listener) wait() proto.Response {
	<-l.ended
	return l.resp
}
