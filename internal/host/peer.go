package host

import (
	"fmt"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Peer is the process at the other end of a Unix socket.
type Peer struct {
	PID  int    `json:"pid"`
	UID  int    `json:"uid"`
	GID  int    `json:"gid"`
	Comm string `json:"comm"` // its name, as /proc has it
}

// NoPeer is a peer that nothing is known of.
func NoPeer() Peer { return Peer{PID: -1, UID: -1, GID: -1} }

// PeerOf asks the kernel who connected (SO_PEERCRED, unix(7)). Comm stays empty: see Named.
func PeerOf(socket *net.UnixConn) (Peer, error) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return NoPeer(), fmt.Errorf("asking who connected: %w", err)
	}
	var cred *unix.Ucred
	outer := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if outer != nil {
		err = outer
	}
	if err != nil {
		return NoPeer(), fmt.Errorf("asking who connected: %w", err)
	}
	return Peer{PID: int(cred.Pid), UID: int(cred.Uid), GID: int(cred.Gid)}, nil
}

// Named adds the name of the process, which may be another one by now.
func (p Peer) Named() Peer {
	if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID)); err == nil {
		p.Comm = strings.TrimSpace(string(comm))
	}
	return p
}
