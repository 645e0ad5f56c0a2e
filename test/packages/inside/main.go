// Command inside is what tests run in a guest beside the switch: "exchange A B" plugs two front-ends into those sockets, sends frames from
// one to the other and back, and says how many arrived.
package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"vhostkit/test/frontend"
)

// count is how many frames go each way.
const count = 200

func main() {
	if len(os.Args) != 4 || os.Args[1] != "exchange" {
		fmt.Fprintln(os.Stderr, "usage: inside exchange SOCKET SOCKET")
		os.Exit(2)
	}
	if err := exchange(os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintf(os.Stderr, "inside: %v\n", err)
		os.Exit(1)
	}
	fmt.Printf("%d frames each way\n", count)
}

func exchange(socketA, socketB string) error {
	a, err := frontend.Dial(frontend.Config{Socket: socketA})
	if err != nil {
		return fmt.Errorf("plug into %s: %w", socketA, err)
	}
	defer a.Close()
	b, err := frontend.Dial(frontend.Config{Socket: socketB, Packed: true})
	if err != nil {
		return fmt.Errorf("plug into %s: %w", socketB, err)
	}
	defer b.Close()
	// Each side says who it is until the other hears of it: then both addresses are known.
	for end := time.Now().Add(20 * time.Second); ; {
		if err := errors.Join(a.Send(0, frame(1, 2, 0)), b.Send(0, frame(2, 1, 0))); err != nil {
			return err
		}
		if _, err := a.Receive(0, 200*time.Millisecond); err == nil {
			break
		}
		if time.Now().After(end) {
			return errors.New("nothing comes through the switch")
		}
	}
	for n := uint32(1); n <= count; n++ {
		if err := errors.Join(pass(a, b, frame(1, 2, n)), pass(b, a, frame(2, 1, n))); err != nil {
			return fmt.Errorf("frame %d: %w", n, err)
		}
	}
	return nil
}

// pass sends a frame and waits for it on the other side; those of the introduction may come before.
func pass(from, to *frontend.Device, f []byte) error {
	if err := from.Send(0, f); err != nil {
		return err
	}
	for {
		got, err := to.Receive(0, 5*time.Second)
		if err != nil || bytes.Equal(got, f) {
			return err
		}
	}
}

// frame is one of 256 bytes with a number, between two addresses that end so.
func frame(from, to byte, n uint32) []byte {
	f := make([]byte, 256)
	copy(f, []byte{0x52, 0x54, 0, 0, 0, to, 0x52, 0x54, 0, 0, 0, from, 0x88, 0xb5})
	binary.BigEndian.PutUint32(f[14:], n)
	return f
}
