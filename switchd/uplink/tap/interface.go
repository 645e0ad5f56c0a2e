package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/uplink"
)

// netInterface is what the kernel says of an interface (rtnetlink(7), RTM_GETLINK).
type netInterface struct {
	name        string
	up, carrier bool
	mtu         int
	kind        string // IFLA_INFO_KIND; "tun" for TUN and TAP
	tun         bool   // the kernel told the following (Linux 4.16)
	tap         bool
	singleQueue bool
	attached    int // queues that some process has open; 0 where the kernel does not tell, as for a single queue
}

// Attributes inside IFLA_INFO_DATA of a TUN or TAP (linux/if_link.h).
const (
	iflaTunType              = 3
	iflaTunMultiQueue        = 7
	iflaTunNumQueues         = 8
	iflaTunNumDisabledQueues = 9
)

// findInterface looks for an interface in this network namespace; ErrNoDevice if there is none of that name.
func findInterface(name string) (*netInterface, error) {
	answer, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return nil, fmt.Errorf("asking the kernel for its interfaces: %w", err)
	}
	messages, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return nil, fmt.Errorf("reading the kernel's list of interfaces: %w", err)
	}
	for i := range messages {
		if messages[i].Header.Type != unix.RTM_NEWLINK || len(messages[i].Data) < unix.SizeofIfInfomsg {
			continue
		}
		if n := parseInterface(messages[i].Data); n.name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("interface %s: %w", name, uplink.ErrNoDevice)
}

// parseInterface reads the body of RTM_NEWLINK: struct ifinfomsg, then attributes.
func parseInterface(body []byte) *netInterface {
	n := &netInterface{up: binary.NativeEndian.Uint32(body[8:])&unix.IFF_UP != 0}
	eachAttribute(body[unix.SizeofIfInfomsg:], func(kind uint16, value []byte) {
		switch kind {
		case unix.IFLA_IFNAME:
			n.name = text(value)
		case unix.IFLA_MTU:
			n.mtu = number(value)
		case unix.IFLA_CARRIER:
			n.carrier = number(value) != 0
		case unix.IFLA_LINKINFO:
			eachAttribute(value, n.linkInfo)
		}
	})
	return n
}

func (n *netInterface) linkInfo(kind uint16, value []byte) {
	switch {
	case kind == unix.IFLA_INFO_KIND:
		n.kind = text(value)
	case kind == unix.IFLA_INFO_DATA && n.kind == "tun": // the kind comes first
		n.tun = true
		eachAttribute(value, func(kind uint16, value []byte) {
			switch kind {
			case iflaTunType:
				n.tap = number(value) == unix.IFF_TAP
			case iflaTunMultiQueue:
				n.singleQueue = number(value) == 0
			case iflaTunNumQueues, iflaTunNumDisabledQueues:
				n.attached += number(value)
			}
		})
	}
}

// eachAttribute walks netlink attributes: length and type in 16 bits each, the value, padding to 4 bytes.
func eachAttribute(b []byte, f func(kind uint16, value []byte)) {
	for len(b) >= unix.SizeofRtAttr {
		size := int(binary.NativeEndian.Uint16(b))
		if size < unix.SizeofRtAttr || size > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[unix.SizeofRtAttr:size])
		b = b[min(len(b), (size+3)&^3):]
	}
}

func text(value []byte) string { return strings.TrimRight(string(value), "\x00") }

// number reads an attribute of 8 or 32 bits.
func number(value []byte) int {
	switch len(value) {
	case 1:
		return int(value[0])
	case 4:
		return int(binary.NativeEndian.Uint32(value))
	}
	return 0
}

// bringUp sets the MTU, if one is asked for, and switches the interface on. A user to whom root gave the interface may not do either, and
// need not where root did it already.
func bringUp(name string, mtu int) error {
	is, err := findInterface(name)
	if err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("a socket to configure the interface with: %w", err)
	}
	defer unix.Close(s)
	if mtu > 0 && mtu != is.mtu {
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		req.SetUint32(uint32(mtu))
		if err := unix.IoctlIfreq(s, unix.SIOCSIFMTU, req); err != nil {
			return fmt.Errorf("changing its MTU from %d to %d: %w", is.mtu, mtu, err)
		}
	}
	if is.up {
		return nil
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, req); err != nil {
		return fmt.Errorf("reading its flags: %w", err)
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, req); err != nil {
		return fmt.Errorf("switching it on: %w", err)
	}
	return nil
}

// noDevice adds ErrNoDevice to the errors by which /dev/net/tun says that there is no driver behind it.
func noDevice(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("%w: %w", uplink.ErrNoDevice, err)
	}
	return err
}
