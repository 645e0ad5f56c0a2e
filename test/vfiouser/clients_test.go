package vfiouser

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// short are limits that tests can wait for; patient ones are for what must not happen.
var short = limits{clients: 8, write: 50 * time.Millisecond, silent: 50 * time.Millisecond, claim: 5 * time.Second}

const patient = time.Minute

// ended wants the connection to be ended by the server.
func (c *client) ended() {
	c.t.Helper()
	_ = c.c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, c.c); errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Error("the connection is still there")
	}
}

// works wants the device to be the client's.
func (c *client) works() {
	c.t.Helper()
	c.write(0, 32, 0x600d)
	if got := c.read(0, 32); got != 0x600d {
		c.t.Errorf("the register reads %#x", got)
	}
}

// TestSilentClients: who connects and says nothing, or half of something, is in nobody's way.
func TestSilentClients(t *testing.T) {
	l := short
	l.silent, l.write = patient, patient
	_, _, path := startWith(t, l)
	dial(t, path)
	half := dial(t, path)
	if _, err := half.c.Write(header{id: 1, command: VFIO_USER_VERSION, size: 100}.append(nil)[:headerSize-1]); err != nil {
		t.Fatal(err)
	}
	greet(t, path)
	greet(t, path).works()
}

// TestManyClients: when there are too many, the one that was silent longest goes; the one that has the device stays.
func TestManyClients(t *testing.T) {
	l := short
	l.silent = patient
	_, _, path := startWith(t, l)
	first, owner := greet(t, path), greet(t, path)
	owner.works()
	first.must(VFIO_USER_DEVICE_GET_INFO, u32s(16, 0, 0, 0)) // so that it is not silent as long as the one with the device
	for range l.clients - 1 {
		greet(t, path)
	}
	first.ended()
	owner.works()
	if err := owner.c.Close(); err != nil {
		t.Error(err)
	}
	greet(t, path).works()
}

// TestDeviceInUse: a client that uses the device keeps it. Others are told what it is, and that it is in use.
func TestDeviceInUse(t *testing.T) {
	l := short
	l.silent, l.claim = patient, 20*time.Millisecond
	s, card, path := startWith(t, l)
	owner, other := greet(t, path), greet(t, path)
	owner.works()
	s.clients.mu.Lock()
	s.clients.owner.heard.Store(0)
	s.clients.mu.Unlock()
	owner.works() // no longer silent
	other.must(VFIO_USER_DEVICE_GET_INFO, u32s(16, 0, 0, 0))
	other.must(VFIO_USER_DEVICE_GET_IRQ_INFO, u32s(16, 0, VFIO_PCI_MSIX_IRQ_INDEX, 0))
	fd, _ := memfd(t, 4096)
	for command, payload := range map[uint16][]byte{
		VFIO_USER_REGION_READ: access{32, 0, 4}.append(nil), VFIO_USER_REGION_WRITE: append(access{32, 0, 4}.append(nil), 1, 2, 3, 4),
		VFIO_USER_DEVICE_RESET: nil, VFIO_USER_DMA_MAP: dmaMap(0, 4096, 0, 3), VFIO_USER_DMA_UNMAP: dmaUnmap(0, 4096),
		VFIO_USER_DEVICE_SET_IRQS: u32s(20, VFIO_IRQ_SET_DATA_NONE|VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_MSIX_IRQ_INDEX, 0, 0),
	} {
		if _, err := other.ask(command, payload, fd); err == nil || !strings.Contains(err.Error(), "busy") {
			t.Errorf("command %d of another client: %v, want EBUSY", command, err)
		}
	}
	if got := owner.read(0, 32); got != 0x600d {
		t.Errorf("another client has changed the register: %#x", got)
	}
	_ = owner.c.Close()
	for end := time.Now().Add(5 * time.Second); ; { // the server may be a little later than the client
		_, err := other.ask(VFIO_USER_REGION_READ, access{32, 0, 4}.append(nil))
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if got := other.read(0, 32); got != 0 {
		t.Errorf("the next client finds %#x in the register", got)
	}
	other.works()
	card.mu.Lock()
	defer card.mu.Unlock()
	if card.resets != 1 {
		t.Errorf("%d resets, want one for the client that had the device", card.resets)
	}
}

// TestSilentOwner: a client that has the device and falls silent loses it when another one wants it, and not before.
func TestSilentOwner(t *testing.T) {
	_, card, path := startWith(t, short)
	owner := greet(t, path)
	fd, data := memfd(t, 4096)
	owner.must(VFIO_USER_DMA_MAP, dmaMap(0, 4096, 0, 3), fd)
	copy(data, "abcd")
	time.Sleep(2 * short.silent)
	owner.works() // nobody else wants it
	other := greet(t, path)
	other.works()
	owner.ended()
	other.write(0, 0, 0)
	other.write(0, 4, 8) // a copy of what was mapped for the one before
	if got := other.read(0, 8); got != 0xbad || string(data[8:12]) == "abcd" {
		t.Errorf("DMA in another client's memory ended with %#x", got)
	}
	card.mu.Lock()
	defer card.mu.Unlock()
	if card.resets != 1 {
		t.Errorf("%d resets, want 1", card.resets)
	}
}

// TestRepliesNotTaken: a client that asks and asks and takes no reply loses its connection, and the device with it.
func TestRepliesNotTaken(t *testing.T) {
	l := short
	l.silent = patient
	_, _, path := startWith(t, l)
	deaf := greet(t, path)
	deaf.works()
	a := access{0, 0, 4096}.append(nil)
	message := append(header{id: 1, command: VFIO_USER_REGION_READ, size: uint32(headerSize + len(a))}.append(nil), a...)
	_ = deaf.c.SetWriteDeadline(time.Now().Add(10 * time.Second))
	for {
		if _, err := deaf.c.Write(message); errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			break
		} else if err != nil {
			t.Fatalf("the server waits for ever: %v", err)
		}
	}
	greet(t, path).works()
}

// slowCard takes its time to reset.
type slowCard struct{ *card }

func (c slowCard) Reset() {
	time.Sleep(20 * time.Millisecond)
	c.card.Reset()
}

// TestEndWithClients: Serve ends although clients are there, whatever they do, and when it has ended nobody is at the device.
func TestEndWithClients(t *testing.T) {
	c := &card{}
	s := New(slowCard{c}, Layout{BAR: [6]uint64{4096}, Config: 256}, nil)
	s.limits.silent, s.limits.claim = patient, patient
	path := filepath.Join(t.TempDir(), "device")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() { done <- s.Serve(ctx, path) }()
	silent := dial(t, path)
	greet(t, path).works()
	waiting := greet(t, path)
	m := binary.LittleEndian.AppendUint32(access{0, 0, 4}.append(nil), 1)
	if _, err := waiting.c.Write(append(header{id: 9, command: VFIO_USER_REGION_WRITE, size: uint32(headerSize + len(m))}.append(nil), m...)); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if err != nil || c.memory != nil || c.resets == 0 {
			t.Errorf("%v, memory %v, %d resets", err, c.memory, c.resets)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("it does not end")
	}
	silent.ended()
	waiting.ended()
}
