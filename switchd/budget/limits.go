package budget

import "fmt"

// Host is what the bounds are made of.
type Host struct {
	MaxMapCount uint64 // vm.max_map_count
	Descriptors uint64 // RLIMIT_NOFILE
	Memory      uint64 // bytes of RAM and swap
}

// Sizes are what the configuration asks for.
type Sizes struct {
	Ports       int    // most ports, each with all its queue pairs; 0: as many with one pair as fit, up to DefaultPorts
	QueuePairs  int    // most queue pairs of a device
	GuestMemory uint64 // most bytes of memory of one guest; 0: twice the host's RAM and swap
}

// What the switch itself needs, and what is left for the Go runtime.
const (
	DefaultPorts   = 2048
	ownDescriptors = 256      // sockets, files, event queues, the uplink's queues
	ownMappings    = 4096     // the runtime's, the stacks', the uplink's
	addressSpace   = 64 << 40 // bytes: half of what 47-bit addresses have
	maxThreads     = 512      // that wait for foreigners; the Go runtime allows 10,000 in all
	maxRequests    = 256
	// A message may carry 8 descriptors beside those that the device keeps, and the last message's are closed later; 64 replaced call
	// descriptors may wait for the workers, and a batch of them is being closed.
	passingDescriptors = 16 + 2*64
	// mappingsPerDevice is twice vhost.MaxMemorySlots: a new table is mapped before the old one is given up.
	mappingsPerDevice = 2 * 509
)

// DescriptorsPerPort is how many descriptors a port with all its rings running takes: two for the sockets, kick and call of each ring,
// and one for a back-end channel.
func DescriptorsPerPort(queuePairs int) int { return 3 + 4*queuePairs }

// For makes the bounds for a host and a configuration. One user has at most three quarters of anything, so that there is room for
// others, and a reserve is kept for the administrator and the ports with a name.
func For(h Host, s Sizes) (Limits, error) {
	per := uint64(DescriptorsPerPort(s.QueuePairs))
	free := h.Descriptors - min(ownDescriptors, h.Descriptors)
	ports := uint64(s.Ports)
	if need := max(ports, 1) * per; need > free {
		return Limits{}, fmt.Errorf("%d ports × (3 + 4 × %d queue pairs) descriptors and %d of the switch's own are %d, and the limit of open files is %d: "+
			"raise it (LimitNOFILE= of the unit, or ulimit -n), or lower --max-ports or --max-queue-pairs", max(ports, 1), s.QueuePairs, ownDescriptors,
			max(ports, 1)*per+ownDescriptors, h.Descriptors)
	}
	if ports == 0 {
		ports = min(DefaultPorts, free/uint64(DescriptorsPerPort(1)))
	}
	guest := s.GuestMemory
	if guest == 0 {
		guest = 2 * h.Memory
	}
	mappings := h.MaxMapCount/4*3 - min(ownMappings, h.MaxMapCount/4*3)
	l := Limits{
		Ports:        shares(ports, 1),
		Connections:  shares(2*ports+64, 2), // two: a named port's device, and the one that waits for its end
		Requests:     shares(maxRequests, 1),
		Descriptors:  shares(free, per+passingDescriptors),
		Threads:      shares(maxThreads, 8),
		Mappings:     shares(mappings, mappingsPerDevice),
		AddressSpace: shares(addressSpace, min(2*guest+1<<30, addressSpace/2)),
		GuestMemory:  shares(max(32*h.Memory, 8*guest), 2*guest), // a new table is mapped before the old one goes
	}
	l[Connections].User = ports/4*3 + 32 // as many as ports, and some that are refused: others have as much room
	l[Requests].User = maxRequests / 4
	l[Threads].User = maxThreads / 4
	return l, nil
}

// shares divides a total: an eighth in reserve, three quarters for one user.
func shares(total, account uint64) Limit {
	return Limit{Total: total, Reserve: total / 8, User: total / 4 * 3, Account: min(account, total)}
}
