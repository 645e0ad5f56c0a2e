package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"vhostkit/test/guest/proto"
)

// client is the rig's end of the conversation with one agent.
type client struct {
	conn net.Conn

	sending sync.Mutex // held while a line is written to conn

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan proto.Response
	failure error // why conn ended
}

func newClient(conn net.Conn) *client {
	c := &client{conn: conn, waiting: map[uint64]chan proto.Response{}}
	go c.receive()
	return c
}

// receive hands each answer to its call until the guest is gone.
func (c *client) receive() {
	lines := bufio.NewScanner(c.conn)
	lines.Buffer(make([]byte, 64<<10), proto.MaxLine)
	for lines.Scan() {
		var resp proto.Response
		if json.Unmarshal(lines.Bytes(), &resp) != nil {
			continue
		}
		c.mu.Lock()
		ch := c.waiting[resp.ID]
		delete(c.waiting, resp.ID)
		c.mu.Unlock()
		if ch != nil {
			ch <- resp
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = lines.Err()
	if c.failure == nil {
		c.failure = errors.New("the guest has gone away")
	}
	for id, ch := range c.waiting {
		close(ch)
		delete(c.waiting, id)
	}
}

// send writes one request and returns its ID and where its answer will arrive; the channel is closed without one if
// the guest goes away.
func (c *client) send(ctx context.Context, req proto.Request) (uint64, chan proto.Response, error) {
	ch := make(chan proto.Response, 1)
	c.mu.Lock()
	if c.failure != nil {
		c.mu.Unlock()
		return 0, nil, c.failure
	}
	c.next++
	req.ID = c.next
	c.waiting[req.ID] = ch
	c.mu.Unlock()
	line, err := json.Marshal(req)
	if err != nil {
		c.forget(req.ID)
		return 0, nil, err
	}
	c.sending.Lock()
	defer c.sending.Unlock()
	// A line must not be cut in the middle because ctx ends, but a guest that hangs must not hang its tester.
	deadline := time.Now().Add(30 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.After(deadline) {
		deadline = d
	}
	_ = c.conn.SetWriteDeadline(deadline)
	if _, err := c.conn.Write(append(line, '\n')); err != nil {
		c.forget(req.ID)
		return 0, nil, err
	}
	return req.ID, ch, nil
}

func (c *client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// call sends one request and waits for its answer.
func (c *client) call(ctx context.Context, req proto.Request) (uint64, proto.Response, error) {
	id, ch, err := c.send(ctx, req)
	if err != nil {
		return 0, proto.Response{}, err
	}
	select {
	case resp, ok := <-ch:
		switch {
		case !ok:
			return id, resp, errors.New("the guest went away before it answered")
		case resp.Error != "":
			return id, resp, fmt.Errorf("in the guest: %s", resp.Error)
		}
		return id, resp, nil
	case <-ctx.Done():
		c.forget(id)
		return id, proto.Response{}, context.Cause(ctx)
	}
}
