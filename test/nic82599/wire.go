package nic82599

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Wire is the other end of the card's cable. Frames have no FCS.
type Wire interface {
	// Send is a frame from the card; it must not be kept. It is called with the model locked.
	Send(frame []byte) error
	// Receive gives the frames for the card; closed when there will be no more.
	Receive() <-chan []byte
}

// Pair is a wire in this process. What the card sends comes out of Out; what is put into In arrives.
type Pair struct {
	In, Out chan []byte
}

// NewPair makes a wire with room for so many frames each way. A frame that finds no room is lost, as on a real one.
func NewPair(room int) *Pair { return &Pair{In: make(chan []byte, room), Out: make(chan []byte, room)} }

// NewCable gives the two ends of a cable between two cards.
func NewCable() (a, b *Pair) {
	a = NewPair(4096)
	return a, &Pair{In: a.Out, Out: a.In}
}

func (p *Pair) Send(frame []byte) error {
	select {
	case p.Out <- append([]byte(nil), frame...):
		return nil
	default:
		return errors.New("the wire's far end does not take its frames")
	}
}

func (p *Pair) Receive() <-chan []byte { return p.In }

// fileWire reads and writes whole frames on a descriptor: a TAP device, or a socket that keeps the limits of messages.
type fileWire struct {
	file   *os.File
	frames chan []byte
	close  sync.Once
}

func newFileWire(f *os.File) *fileWire {
	w := &fileWire{file: f, frames: make(chan []byte, 256)}
	go func() {
		defer close(w.frames)
		room := make([]byte, 65536)
		for {
			n, err := f.Read(room)
			if err != nil {
				return
			}
			w.frames <- append([]byte(nil), room[:n]...)
		}
	}()
	return w
}

func (w *fileWire) Send(frame []byte) error {
	_, err := w.file.Write(frame)
	return err
}
func (w *fileWire) Receive() <-chan []byte { return w.frames }
func (w *fileWire) Close() (err error) {
	w.close.Do(func() { err = w.file.Close() })
	return err
}

// WireCloser is a wire that this process has opened.
type WireCloser interface {
	Wire
	io.Closer
}

// OpenTAP attaches the card to a TAP interface, which is made if it does not exist.
func OpenTAP(name string) (WireCloser, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("attach to the TAP interface %s: open /dev/net/tun: %w; it takes the module tun and the right to it", name, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("attach to the TAP interface %s: %w", name, err)
	}
	return newFileWire(os.NewFile(uintptr(fd), "tap "+name)), nil
}

// SocketWire attaches the card to a socket that keeps the limits of messages (SOCK_SEQPACKET or SOCK_DGRAM), which it takes over.
func SocketWire(fd int) WireCloser {
	_ = unix.SetNonblock(fd, true)
	return newFileWire(os.NewFile(uintptr(fd), "wire"))
}

// PcapWire writes what the card sends to a file, and gives it what another one has.
type PcapWire struct {
	mu     sync.Mutex
	out    io.Writer
	frames chan []byte
}

// Magic and header of the classic format, in this machine's order; frames are Ethernet.
const (
	pcapMagic    = 0xa1b2c3d4
	pcapNanos    = 0xa1b23c4d // the same with nanoseconds
	pcapEthernet = 1
	pcapSnapLen  = 65535
)

// NewPcapWire makes one. Either file may be nil.
func NewPcapWire(in io.Reader, out io.Writer) (*PcapWire, error) {
	w := &PcapWire{out: out, frames: make(chan []byte, 64)}
	if out != nil {
		header := make([]byte, 24)
		binary.LittleEndian.PutUint32(header, pcapMagic)
		binary.LittleEndian.PutUint16(header[4:], 2)
		binary.LittleEndian.PutUint16(header[6:], 4)
		binary.LittleEndian.PutUint32(header[16:], pcapSnapLen)
		binary.LittleEndian.PutUint32(header[20:], pcapEthernet)
		if _, err := out.Write(header); err != nil {
			return nil, err
		}
	}
	if in == nil {
		close(w.frames)
		return w, nil
	}
	list, err := ReadPcap(in)
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(w.frames)
		for _, f := range list {
			w.frames <- f
		}
	}()
	return w, nil
}

func (w *PcapWire) Receive() <-chan []byte { return w.frames }

func (w *PcapWire) Send(frame []byte) error {
	if w.out == nil {
		return nil
	}
	now := time.Now()
	record := make([]byte, 16, 16+len(frame))
	binary.LittleEndian.PutUint32(record, uint32(now.Unix()))
	binary.LittleEndian.PutUint32(record[4:], uint32(now.Nanosecond()/1000))
	binary.LittleEndian.PutUint32(record[8:], uint32(len(frame)))
	binary.LittleEndian.PutUint32(record[12:], uint32(len(frame)))
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.out.Write(append(record, frame...))
	return err
}

// ReadPcap gives the frames of a file in the classic format.
func ReadPcap(r io.Reader) (list [][]byte, err error) {
	header := make([]byte, 24)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, fmt.Errorf("read a pcap file's header: %w", err)
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if m := binary.BigEndian.Uint32(header); m == pcapMagic || m == pcapNanos {
		order = binary.BigEndian
	}
	if m := order.Uint32(header); m != pcapMagic && m != pcapNanos || order.Uint32(header[20:]) != pcapEthernet {
		return nil, errors.New("not a pcap file with Ethernet frames")
	}
	for {
		record := make([]byte, 16)
		if _, err := io.ReadFull(r, record); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("read a pcap file's frame: %w", err)
		}
		length := order.Uint32(record[8:])
		if length > pcapSnapLen {
			return nil, fmt.Errorf("a frame of %d bytes in a pcap file", length)
		}
		frame := make([]byte, length)
		if _, err := io.ReadFull(r, frame); err != nil {
			return nil, fmt.Errorf("read a pcap file's frame: %w", err)
		}
		list = append(list, frame)
	}
}
