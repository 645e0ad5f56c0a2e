// Package proto is what the guest rig and its agent inside the guest say to each other: JSON objects, one a line, over
// a virtio-serial port. The rig sends Requests, the agent answers each with one Response of the same ID, in any order.
package proto

// Port is the name of the virtio-serial port that carries the conversation.
const Port = "vhostkit.agent"

// MaxLine bounds one line in either direction, in bytes.
const MaxLine = 64 << 20

// MaxOutput bounds each of a command's two output streams, in bytes; what exceeds it is discarded.
const MaxOutput = 8 << 20

// Operations of the agent.
const (
	OpHello  = "hello"  // answers when the guest is ready
	OpRun    = "run"    // Argv with Stdin, answers when it has ended
	OpStart  = "start"  // Argv, answers when it has started; its handle is the request's ID
	OpOutput = "output" // the output of Target so far, taken away
	OpWrite  = "write"  // Stdin to the standard input of Target
	OpSignal = "signal" // Signal to the process group of Target
	OpWait   = "wait"   // answers when Target has ended, with what is left of its output
	OpSend   = "send"   // connects to Address and sends Bytes pseudo-random bytes from Seed
	OpListen = "listen" // listens on Address for one connection; a handle like OpStart's
	OpMount9 = "mount9" // mounts the host's root at /host and prepares it for chroot
)

// Request is one order to the agent.
type Request struct {
	ID        uint64   `json:"id"`
	Op        string   `json:"op"`
	Argv      []string `json:"argv,omitempty"`
	Stdin     []byte   `json:"stdin,omitempty"`
	TimeoutMS int64    `json:"timeout_ms,omitempty"` // 0: none; the process group is killed after it
	Target    uint64   `json:"target,omitempty"`
	Signal    int      `json:"signal,omitempty"`
	Address   string   `json:"address,omitempty"` // host:port
	Bytes     int64    `json:"bytes,omitempty"`
	Seed      uint64   `json:"seed,omitempty"`
}

// Response answers the Request of the same ID. Error is set if the operation itself failed; a command that ran and
// failed has an Exit other than 0 and no Error.
type Response struct {
	ID       uint64    `json:"id"`
	Error    string    `json:"error,omitempty"`
	Exit     int       `json:"exit,omitempty"` // 128+N for a command that signal N ended
	TimedOut bool      `json:"timed_out,omitempty"`
	Stdout   []byte    `json:"stdout,omitempty"`
	Stderr   []byte    `json:"stderr,omitempty"`
	Running  bool      `json:"running,omitempty"`
	Transfer *Transfer `json:"transfer,omitempty"`
}

// Transfer is what one end of a TCP transfer saw.
type Transfer struct {
	Bytes   int64   `json:"bytes"`
	Seconds float64 `json:"seconds"` // from the connection to the last byte, in the guest's time
	SHA256  string  `json:"sha256"`  // hexadecimal
}
