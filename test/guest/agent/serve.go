package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"vhostkit/test/guest/proto"
)

// server carries out requests, each in a goroutine of its own.
type server struct {
	port io.ReadWriter

	sending sync.Mutex // held while a line is written to port

	mu   sync.Mutex
	jobs map[uint64]job
}

// job is something that goes on in the background until it is waited for.
type job interface {
	output() proto.Response
	write(p []byte) error
	signal(s syscall.Signal) error
	wait() proto.Response
}

func newServer(port io.ReadWriter) *server {
	return &server{port: port, jobs: map[uint64]job{}}
}

func (s *server) serve() {
	lines := bufio.NewScanner(s.port)
	lines.Buffer(make([]byte, 64<<10), proto.MaxLine)
	for lines.Scan() {
		var req proto.Request
		if err := json.Unmarshal(lines.Bytes(), &req); err != nil {
			fmt.Fprintf(os.Stderr, "agent: bad request: %v\n", err)
			continue
		}
		go s.handle(req)
	}
	fail(fmt.Errorf("the rig's port failed: %w", lines.Err()))
}

func (s *server) handle(req proto.Request) {
	resp := s.carryOut(req)
	resp.ID = req.ID
	line, err := json.Marshal(resp)
	if err != nil {
		line, _ = json.Marshal(proto.Response{ID: req.ID, Error: err.Error()})
	}
	s.sending.Lock()
	defer s.sending.Unlock()
	if _, err := s.port.Write(append(line, '\n')); err != nil {
		fmt.Fprintf(os.Stderr, "agent: answer: %v\n", err)
	}
}

func (s *server) carryOut(req proto.Request) proto.Response {
	switch req.Op {
	case proto.OpHello:
		return proto.Response{}
	case proto.OpRun:
		return run(req)
	case proto.OpSend:
		return send(req)
	case proto.OpMount9:
		return errorResponse(mountHost())
	case proto.OpStart:
		return s.launch(req, startCommand)
	case proto.OpListen:
		return s.launch(req, startListener)
	}
	s.mu.Lock()
	j := s.jobs[req.Target]
	s.mu.Unlock()
	if j == nil {
		return errorResponse(fmt.Errorf("operation %q: nothing runs under handle %d", req.Op, req.Target))
	}
	switch req.Op {
	case proto.OpOutput:
		return j.output()
	case proto.OpWrite:
		return errorResponse(j.write(req.Stdin))
	case proto.OpSignal:
		return errorResponse(j.signal(syscall.Signal(req.Signal)))
	case proto.OpWait:
		resp := j.wait()
		s.mu.Lock()
		delete(s.jobs, req.Target)
		s.mu.Unlock()
		return resp
	}
	return errorResponse(fmt.Errorf("unknown operation %q", req.Op))
}

func (s *server) launch(req proto.Request, start func(proto.Request) (job, error)) proto.Response {
	j, err := start(req)
	if err != nil {
		return errorResponse(err)
	}
	s.mu.Lock()
	s.jobs[req.ID] = j
	s.mu.Unlock()
	return proto.Response{}
}

func errorResponse(err error) proto.Response {
	if err != nil {
		return proto.Response{Error: err.Error()}
	}
	return proto.Response{}
}
