package main

import (
	"bufio"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"vhostkit/test/guest/proto"
)

// rig is the other side of a server that runs in this process.
type rig struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Scanner
	next uint64
}

func newRig(t *testing.T) *rig {
	t.Helper()
	ours, theirs := net.Pipe()
	s := newServer(theirs)
	go func() {
		lines := bufio.NewScanner(theirs)
		lines.Buffer(nil, proto.MaxLine)
		for lines.Scan() {
			var req proto.Request
			if err := json.Unmarshal(lines.Bytes(), &req); err == nil {
				go s.handle(req)
			}
		}
	}()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return &rig{t: t, conn: ours, in: bufio.NewScanner(ours)}
}

// call sends one request and returns its answer; it has one in flight at a time.
func (r *rig) call(req proto.Request) proto.Response {
	r.t.Helper()
	r.next++
	req.ID = r.next
	line, err := json.Marshal(req)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.conn.Write(append(line, '\n')); err != nil {
		r.t.Fatal(err)
	}
	if !r.in.Scan() {
		r.t.Fatalf("no answer to %s: %v", line, r.in.Err())
	}
	var resp proto.Response
	if err := json.Unmarshal(r.in.Bytes(), &resp); err != nil || resp.ID != req.ID {
		r.t.Fatalf("answer %q to request %d: %v", r.in.Text(), req.ID, err)
	}
	return resp
}

func TestRun(t *testing.T) {
	r := newRig(t)
	for _, c := range []struct {
		name string
		req  proto.Request
		want proto.Response // ID aside; Error is a part of the text
	}{
		{"output", proto.Request{Argv: []string{"sh", "-c", "echo out; echo err >&2"}}, proto.Response{Stdout: []byte("out\n"), Stderr: []byte("err\n")}},
		{"input", proto.Request{Argv: []string{"cat"}, Stdin: []byte("in")}, proto.Response{Stdout: []byte("in")}},
		{"input nobody reads", proto.Request{Argv: []string{"true"}, Stdin: make([]byte, 1<<20)}, proto.Response{}},
		{"exit code", proto.Request{Argv: []string{"sh", "-c", "exit 7"}}, proto.Response{Exit: 7}},
		{"signal", proto.Request{Argv: []string{"sh", "-c", "kill -9 $$"}}, proto.Response{Exit: 137}},
		{"too late", proto.Request{Argv: []string{"sh", "-c", "echo a; sleep 60"}, TimeoutMS: 300}, proto.Response{Exit: 137, TimedOut: true, Stdout: []byte("a\n")}},
		{"no command", proto.Request{}, proto.Response{Error: "no command"}},
		{"no such program", proto.Request{Argv: []string{"/no/such"}}, proto.Response{Error: "no such file"}},
	} {
		c.req.Op = proto.OpRun
		got := r.call(c.req)
		if got.Exit != c.want.Exit || got.TimedOut != c.want.TimedOut || string(got.Stdout) != string(c.want.Stdout) ||
			string(got.Stderr) != string(c.want.Stderr) || (got.Error == "") != (c.want.Error == "") || !strings.Contains(got.Error, c.want.Error) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestUnknownOperationsAndHandles(t *testing.T) {
	r := newRig(t)
	for _, op := range []string{"nonsense", proto.OpOutput, proto.OpWait, proto.OpSignal, proto.OpWrite} {
		if resp := r.call(proto.Request{Op: op, Target: 99}); resp.Error == "" {
			t.Errorf("%s: no error", op)
		}
	}
}

func TestOutputIsBounded(t *testing.T) {
	var b buffer
	for range 3 {
		if n, err := b.Write(make([]byte, proto.MaxOutput/2)); n != proto.MaxOutput/2 || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	if got := len(b.take()); got != proto.MaxOutput {
		t.Errorf("%d bytes are kept, want %d", got, proto.MaxOutput)
	}
}

func TestTransfer(t *testing.T) {
	const bytes = 300<<10 + 5
	r := newRig(t)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	free.Close()
	if resp := r.call(proto.Request{Op: proto.OpListen, Address: address}); resp.Error != "" {
		t.Fatal(resp.Error)
	}
	handle := r.next
	sent := r.call(proto.Request{Op: proto.OpSend, Address: address, Bytes: bytes, Seed: 5, TimeoutMS: 10000})
	received := r.call(proto.Request{Op: proto.OpWait, Target: handle})
	if sent.Transfer == nil || received.Transfer == nil {
		t.Fatalf("sent %+v, received %+v", sent, received)
	}
	if sent.Transfer.Bytes != bytes || received.Transfer.Bytes != bytes || sent.Transfer.SHA256 != received.Transfer.SHA256 {
		t.Errorf("sent %+v, received %+v", *sent.Transfer, *received.Transfer)
	}
	if resp := r.call(proto.Request{Op: proto.OpSend, Address: address, Bytes: 1, TimeoutMS: 2000}); resp.Error == "" {
		t.Error("a second connection was accepted")
	}
	if resp := r.call(proto.Request{Op: proto.OpListen, Address: address}); resp.Error != "" {
		t.Fatal(resp.Error)
	}
	handle = r.next
	r.call(proto.Request{Op: proto.OpSignal, Target: handle, Signal: 15})
	if resp := r.call(proto.Request{Op: proto.OpWait, Target: handle}); resp.Error == "" {
		t.Error("a listener that was ended reports success")
	}
}
