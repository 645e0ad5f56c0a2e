package ixgbe

// state is what becomes of a NIC. NIC.mu guards it.
//
//	            the watchdog, or a guest that leaves
//	running ──────────────────────────────────────────► resetting
//	   ▲                                                 │  │  ▲
//	   └───────────────────── it came back ──────────────┘  │  │ the watchdog's next look
//	                                                        ▼  │
//	              it did not come back:    isolated  or  stray
//
//	any but closed ── its registers read all ones ──► gone ── it answers again ──► resetting
//	any ── Close ──► closed
//
// Whether the default pool is in use (NIC.fallback) and whether there is a link (NIC.carrier) are matters of their own.
type state uint8

const (
	running   state = iota // as far as there is a link
	resetting              // the rings are being taken from the workers, or are taken; mu is held all the time
	isolated               // a reset failed, and bus mastering is off: no DMA
	stray                  // a reset failed, and bus mastering could not be switched off: it may still read what it was given
	gone                   // from the bus: no DMA
	closed
)

var stateNames = [...]string{"running", "resetting", "isolated", "stray", "gone", "closed"}

func (s state) String() string { return stateNames[s] }

// enter changes the state and tells the workers whether to send. The caller holds mu, or is the only one to know the NIC.
func (n *NIC) enter(s state) {
	n.state = s
	n.tellWorkers()
}

// tellWorkers brings down in step with what it depends on. The NIC's own switch needs no link.
func (n *NIC) tellWorkers() {
	n.down.Store(n.state != running || !n.carrier.Load() && !n.config.Loopback)
}

// isClosed takes mu.
func (n *NIC) isClosed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state == closed
}
