package hostvlan

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	etherHeader  = 12 // both addresses
	tagLength    = 4
	tpid         = 0x8100
	maxFrame     = 64 << 10
	packetToSelf = 4 // PACKET_OUTGOING: what this host itself sent on the interface
)

// relay passes frames of one VLAN between a packet socket on the parent and a tap interface without tags.
type relay struct {
	vlan   uint16
	packet int
	tap    *os.File
	wake   [2]int // a pipe; its closing ends the reader of the packet socket
	done   sync.WaitGroup
}

func newRelay(parent, name string, vlan uint16) (r *relay, err error) {
	iface, err := net.InterfaceByName(parent)
	if err != nil {
		return nil, err
	}
	r = &relay{vlan: vlan}
	if r.tap, err = openTap(name); err != nil {
		return nil, err
	}
	all := htons(unix.ETH_P_ALL)
	r.packet, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
	if err != nil {
		r.tap.Close()
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	err = errors.Join(
		// The kernel takes the tag out of a received frame and tells it beside.
		unix.SetsockoptInt(r.packet, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(r.packet, &unix.SockaddrLinklayer{Protocol: all, Ifindex: iface.Index}),
		unix.Pipe2(r.wake[:], unix.O_CLOEXEC))
	if err != nil {
		r.tap.Close()
		unix.Close(r.packet)
		return nil, fmt.Errorf("packet socket on %s: %w", parent, err)
	}
	return r, nil
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	// Only now: the runtime can poll the file once it belongs to an interface.
	return os.NewFile(uintptr(fd), name), nil
}

func (r *relay) start() {
	r.done.Add(2)
	go r.inwards()
	go r.outwards()
}

func (r *relay) stop() {
	unix.Close(r.wake[1])
	r.tap.Close()
	r.done.Wait()
	unix.Close(r.wake[0])
	unix.Close(r.packet)
}

// inwards passes frames from the parent to the tap.
func (r *relay) inwards() {
	defer r.done.Done()
	frame := make([]byte, maxFrame)
	control := make([]byte, 256)
	for {
		ready := []unix.PollFd{{Fd: int32(r.packet), Events: unix.POLLIN}, {Fd: int32(r.wake[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(ready, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if ready[1].Revents != 0 {
			return
		}
		n, cn, _, from, err := unix.Recvmsg(r.packet, frame, control, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) || errors.Is(err, unix.ENETDOWN) {
			continue
		}
		if err != nil {
			return
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == packetToSelf {
			continue
		}
		if inner, ok := r.untag(frame[:n], control[:cn]); ok {
			_, _ = r.tap.Write(inner)
		}
	}
}

// untag returns the frame without its tag if it has this relay's.
func (r *relay) untag(frame, control []byte) ([]byte, bool) {
	if len(frame) < etherHeader+2 {
		return nil, false
	}
	if tci, ok := auxTag(control); ok {
		return frame, tci&0xfff == r.vlan
	}
	if len(frame) < etherHeader+tagLength+2 || binary.BigEndian.Uint16(frame[etherHeader:]) != tpid {
		return nil, false
	}
	tci := binary.BigEndian.Uint16(frame[etherHeader+2:])
	copy(frame[tagLength:], frame[:etherHeader])
	return frame[tagLength:], tci&0xfff == r.vlan
}

// auxTag finds the tag in the control message of PACKET_AUXDATA: struct tpacket_auxdata of packet(7).
func auxTag(control []byte) (uint16, bool) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, false
	}
	const statusVLANValid, tciOffset = 1 << 4, 16
	for _, m := range messages {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= tciOffset+2 {
			valid := binary.NativeEndian.Uint32(m.Data)&statusVLANValid != 0
			return binary.NativeEndian.Uint16(m.Data[tciOffset:]), valid
		}
	}
	return 0, false
}

// outwards passes frames from the tap to the parent.
func (r *relay) outwards() {
	defer r.done.Done()
	frame := make([]byte, maxFrame+tagLength)
	for {
		n, err := r.tap.Read(frame[tagLength:])
		if err != nil {
			return
		}
		if n < etherHeader+2 {
			continue
		}
		copy(frame, frame[tagLength:tagLength+etherHeader])
		binary.BigEndian.PutUint16(frame[etherHeader:], tpid)
		binary.BigEndian.PutUint16(frame[etherHeader+2:], r.vlan)
		// A full queue loses a frame, as on any network.
		_, _ = unix.Write(r.packet, frame[:n+tagLength])
	}
}

func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}
