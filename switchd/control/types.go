// Package control is how the outside talks to a running switchd: HTTP with JSON on a Unix socket.
//
//	GET    /v1/version
//	GET    /v1/ports            list of Port
//	POST   /v1/ports            AddPortRequest → Port (201)
//	GET    /v1/ports/{id|name}  Port
//	DELETE /v1/ports/{name}     204
//	GET    /v1/stats            Stats
//	GET    /v1/fdb              list of FDBEntry
//
// An error is {"error": "what went wrong", "hint": "what to do"} with status 400 (bad request), 404 (no such port), 405 (no such
// method), 409 (exists already, its socket is in use, or it is just being closed), 413 (body over 64 KiB) or 500. Fields are added to these types, never changed or removed, within /v1.
package control

import (
	"context"
	"errors"
	"time"

	"vhostkit/internal/host"
)

// Errors that a Backend wraps to choose the status.
var (
	ErrNotFound   = errors.New("not found")
	ErrExists     = errors.New("exists already")
	ErrBadRequest = errors.New("bad request")
	ErrForbidden  = errors.New("not allowed")
	ErrBusy       = errors.New("busy")
)

// Backend answers the requests. The daemon implements it.
type Backend interface {
	Version() VersionInfo
	Ports() []Port
	FDB() []FDBEntry
	Stats() Stats
	AddPort(context.Context, AddPortRequest) (Port, error)
	RemovePort(ctx context.Context, name string) error
}

// VersionInfo says what runs.
type VersionInfo struct {
	Version string    `json:"version"`
	Go      string    `json:"go"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// SocketDir is where named ports have their sockets, as NAME.sock.
	SocketDir string `json:"socket_dir,omitempty"`
}

// AddPortRequest asks for a named port.
type AddPortRequest struct {
	Name string `json:"name"`
	// UID and GID are to own the port's socket: QEMU's user, so that it may connect. nil is switchd's configuration.
	UID *int `json:"uid,omitempty"`
	GID *int `json:"gid,omitempty"`
}

// States of a port.
const (
	StateDisconnected = "DISCONNECTED" // a named port without a device
	StateConnected    = "CONNECTED"    // a device that has no running rings yet
	StateLearning     = "LEARNING"     // running, address unknown
	StateReady        = "READY"        // a ring runs, and an address is known
	StateFailed       = "FAILED"       // stopped; see Error
)

// Port is a connected device, or a named port that waits for one.
type Port struct {
	ID               int            `json:"id"` // -1 while disconnected
	Name             string         `json:"name,omitempty"`
	Socket           string         `json:"socket"`
	Transport        string         `json:"transport"`
	State            string         `json:"state"`
	Error            string         `json:"error,omitempty"`
	MACs             []string       `json:"macs"`
	VLAN             int            `json:"vlan,omitempty"`
	Workers          []int          `json:"workers"` // that poll its transmit rings
	Connected        *time.Time     `json:"connected,omitempty"`
	Peer             *Peer          `json:"peer,omitempty"`
	Features         []string       `json:"features"`
	FeaturesHex      string         `json:"features_hex,omitempty"`
	ProtocolFeatures []string       `json:"protocol_features"`
	Ring             string         `json:"ring,omitempty"` // "split" or "packed"
	Memory           []MemoryRegion `json:"memory"`
	MTU              int            `json:"mtu,omitempty"`
	Queues           []Queue        `json:"queues"`

	Reason      string     `json:"reason,omitempty"`       // why it is not READY
	Stopped     *time.Time `json:"stopped,omitempty"`      // when the device was stopped; it is gone, and listed for what Error says
	LastError   string     `json:"last_error,omitempty"`   // of a named port: why the device before this one was stopped, not long ago
	LastRefusal string     `json:"last_refusal,omitempty"` // of a named port: why a connection was refused last
}

// Peer is the process at the other end.
type Peer = host.Peer

// MemoryRegion is a part of the guest's memory.
type MemoryRegion struct {
	GuestPhysAddr uint64 `json:"guest_phys_addr"`
	Size          uint64 `json:"size"`
}

// Queue is a queue pair. RX is what the guest receives, TX what it sends.
type Queue struct {
	Pair      int        `json:"pair"`
	RXSize    int        `json:"rx_size"` // descriptors, 0 while not running
	TXSize    int        `json:"tx_size"`
	RXRunning bool       `json:"rx_running"`
	TXRunning bool       `json:"tx_running"`
	RX        QueueStats `json:"rx"`
	TX        QueueStats `json:"tx"`
}

// QueueStats are counters since the device connected. Frames are counted without FCS. Senders are the TX of queues and the uplink's RX, receivers the
// RX of queues and the uplink's TX. While nothing moves,
//
//   - at each sender: packets = delivered + dropped;
//   - at each receiver: what was meant for it = packets + dropped;
//   - over all ports, gone, own and the uplink of Stats: the senders' delivered + copies = the receivers' packets.
//
// A frame for one receiver that it lost is among the drops of both; one for everybody only among the receiver's, if another one got it.
type QueueStats struct {
	Packets   uint64            `json:"packets"`
	Bytes     uint64            `json:"bytes"`
	Delivered uint64            `json:"delivered"` // senders: reached a receiver
	Copies    uint64            `json:"copies"`    // senders: further receivers of frames for everybody, and segments beyond a frame's first
	Dropped   uint64            `json:"dropped"`   // sum of Drops
	Drops     map[string]uint64 `json:"drops"`     // by reason
	Retries   uint64            `json:"retries"`
	Kicks     uint64            `json:"kicks"`
	Calls     uint64            `json:"calls"`
}

// Add sums two sets of counters.
func (s QueueStats) Add(o QueueStats) QueueStats {
	drops := map[string]uint64{}
	for _, m := range []map[string]uint64{s.Drops, o.Drops} {
		for k, v := range m {
			drops[k] += v
		}
	}
	return QueueStats{
		Packets: s.Packets + o.Packets, Bytes: s.Bytes + o.Bytes, Delivered: s.Delivered + o.Delivered, Dropped: s.Dropped + o.Dropped,
		Copies: s.Copies + o.Copies,
		Drops:  drops, Retries: s.Retries + o.Retries, Kicks: s.Kicks + o.Kicks, Calls: s.Calls + o.Calls,
	}
}

// FDBEntry is a learned address.
type FDBEntry struct {
	MAC        string `json:"mac"`
	Port       int    `json:"port"`
	VLAN       int    `json:"vlan"`
	AgeSeconds int    `json:"age_seconds"`
}

// Worker is a thread of the data plane.
type Worker struct {
	Index       int     `json:"index"`
	Core        int     `json:"core"` // -1: not pinned
	Polls       uint64  `json:"polls"`
	EmptyPolls  uint64  `json:"empty_polls"`
	Sleeps      uint64  `json:"sleeps"`
	Wakeups     uint64  `json:"wakeups"`
	BusySeconds float64 `json:"busy_seconds"` // not asleep
	Rings       int     `json:"rings"`
}

// PairStats are the counters of both directions.
type PairStats struct {
	RX QueueStats `json:"rx"`
	TX QueueStats `json:"tx"`
}

// Stats is a snapshot of all counters.
type Stats struct {
	UptimeSeconds float64     `json:"uptime_seconds"`
	Ports         []Port      `json:"ports"`
	Uplink        UplinkStats `json:"uplink"`
	Gone          PairStats   `json:"gone"` // sums of the ports that have gone
	Own           QueueStats  `json:"own"`  // frames that the switch itself sent
	Workers       []Worker    `json:"workers"`
	Runtime       Runtime     `json:"runtime"`
	// EventsLost counts what the log should have said (addresses that came and went, for instance) but had no room for.
	EventsLost uint64   `json:"events_lost,omitempty"`
	Budgets    []Budget `json:"budgets,omitempty"`
	// Requests are the connections to the control socket and to the one for QEMU.
	Requests RequestStats `json:"requests"`
}

// Budget is what foreigners may make the switch take of something, and have taken (package budget). Sizes are bytes.
type Budget struct {
	Resource       string `json:"resource"`
	Used           uint64 `json:"used"`
	Most           uint64 `json:"most"` // at any time since the start
	Limit          uint64 `json:"limit"`
	Reserve        uint64 `json:"reserve"` // part of Limit for the administrator and named ports only
	LimitPerUser   uint64 `json:"limit_per_user"`
	LimitPerDevice uint64 `json:"limit_per_device"`
	BusiestUser    int    `json:"busiest_user"` // -1: nobody has any
	BusiestUsed    uint64 `json:"busiest_used"`
}

// RequestStats count connections.
type RequestStats struct {
	Accepted uint64 `json:"accepted"`
	Waited   uint64 `json:"waited"`  // for their turn
	Refused  uint64 `json:"refused"` // too many at a time
}

// Runtime is what the garbage collector did since the start: the data plane makes no garbage, so in steady traffic nothing here grows.
type Runtime struct {
	GCCycles   uint64  `json:"gc_cycles"`
	GCPauseMax float64 `json:"gc_pause_max_us"` // upper bound of the longest pause, in microseconds
	HeapBytes  uint64  `json:"heap_bytes"`      // live and not yet collected objects
}
