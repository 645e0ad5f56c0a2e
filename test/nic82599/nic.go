package nic82599

import (
	"fmt"
	"net"
	"runtime/debug"
	"sync"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// Memory is what the card reaches by DMA.
type Memory interface {
	ReadDMA(iova uint64, p []byte) error
	WriteDMA(iova uint64, p []byte) error
}

// Faults are what can be wrong with a card.
type Faults struct {
	EEPROMChecksum bool // the checksum word is wrong
	NoLink         bool // no light
	NoSFP          bool // nothing in the cage
	HungTransmit   bool // descriptors are fetched, nothing is written back
	HungReceive    bool // a receive queue cannot be disabled
	GIOStuck       bool // requests are always under way: CTRL.GIO_DIS has no effect
	HungReset      bool // CTRL.RST has no effect; a function-level reset ends that
}

// Config describes a card.
type Config struct {
	MAC  net.HardwareAddr // 02:00:82:59:90:01 by default
	Wire Wire             // nil: not connected; frames that leave are counted and lost
	// Faults are in place from the start. SetFaults changes them.
	Faults Faults
	// Strict makes a write to a register that the table does not know a violation.
	Strict bool
	// Initial are registers that have another value after a reset than the table says.
	Initial map[uint32]uint32
	// OnViolation is called for each broken rule, with the model locked: it must not call the model. nil: they are only collected.
	OnViolation func(error)
}

// NIC is a card. All methods may be called by several goroutines.
type NIC struct {
	config Config

	mu         sync.Mutex
	words      [regs.BARSize / 4]uint32 // registers at their canonical places
	faults     Faults
	memory     Memory
	interrupt  func(vector int)
	violations []error
	pci        configSpace
	eeprom     eeprom
	sfp        sfp
	irq        interrupts
	tx         [regs.TXQueues]txQueue
	pools      [regs.Pools]PoolCounters
	resets     int
	backlog    []loop // frames that the internal switch still has to deliver

	undefined   wordSet // registers that a reset has left undefined, and nobody has written since
	linkStale   bool    // AUTOC or AUTOC2 say something else than when the link was last started
	masterLooks int     // at STATUS, since CTRL.GIO_DIS was set
	justReset   bool    // by CTRL, and nothing else was written since

	wireDone chan struct{}
	close    sync.Once
	closed   chan struct{}
}

// New makes a card and starts to listen to its wire.
func New(c Config) *NIC {
	if c.MAC == nil {
		c.MAC = net.HardwareAddr{0x02, 0x00, 0x82, 0x59, 0x90, 0x01}
	}
	n := &NIC{config: c, faults: c.Faults, interrupt: func(int) {}, closed: make(chan struct{}), wireDone: make(chan struct{})}
	n.pci.reset()
	n.reset()
	if c.Wire == nil {
		close(n.wireDone)
	} else {
		go n.listen(c.Wire.Receive())
	}
	return n
}

// Close stops listening. The wire stays open.
func (n *NIC) Close() {
	n.close.Do(func() { close(n.closed) })
	<-n.wireDone
}

func (n *NIC) listen(frames <-chan []byte) {
	defer close(n.wireDone)
	debug.SetPanicOnFault(true) // a client may cut its memory off
	for {
		select {
		case <-n.closed:
			return
		case f, ok := <-frames:
			if !ok {
				return
			}
			n.Arrive(f)
		}
	}
}

// Arrive is a frame from the wire, without its FCS.
func (n *NIC) Arrive(frame []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer n.survive()
	if n.linkUp() {
		n.fromWire(frame)
	}
}

// survive turns a fault on the client's memory into a violation.
func (n *NIC) survive() {
	if p := recover(); p != nil {
		fault, ok := p.(interface{ Addr() uintptr })
		if !ok {
			panic(p)
		}
		n.violate("DMA: the memory behind it is gone (%#x)", fault.Addr())
	}
}

// SetMemory gives the card the memory that it may use; nil: none.
func (n *NIC) SetMemory(m Memory) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.memory = m
}

// SetInterrupt gives the way to signal an MSI-X vector; nil: none. It is called with the model locked.
func (n *NIC) SetInterrupt(f func(vector int)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.interrupt = f; f == nil {
		n.interrupt = func(int) {}
	}
}

// Reset is a function-level reset.
func (n *NIC) Reset() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.faults.HungReset = false
	n.pci.reset()
	n.reset()
}

// reset is a software reset (CTRL.RST): registers get their values from the EEPROM.
func (n *NIC) reset() {
	clear(n.words[:])
	for _, r := range regs.Table() {
		if r.Alias != 0 || r.Reset == 0 {
			continue
		}
		for i := range r.Count {
			n.words[(r.Offset+uint32(i)*r.Stride)/4] = r.Reset
		}
	}
	for offset, value := range n.config.Initial {
		n.set(offset, value)
	}
	m := n.config.MAC
	n.set(regs.RAL(0), uint32(m[0])|uint32(m[1])<<8|uint32(m[2])<<16|uint32(m[3])<<24)
	n.set(regs.RAH(0), uint32(m[4])|uint32(m[5])<<8|regs.RAH_AV)
	n.set(regs.MPSAR_LO(0), 1)
	n.poison()
	n.resetLink()
	n.masterLooks = 0
	n.eeprom.load(m, n.faults.EEPROMChecksum)
	n.sfp.reset()
	n.irq = interrupts{}
	n.tx = [regs.TXQueues]txQueue{}
	n.backlog = nil
	n.resets++
}

func (n *NIC) get(offset uint32) uint32     { return n.words[offset/4] }
func (n *NIC) set(offset, value uint32)     { n.words[offset/4] = value }
func (n *NIC) has(offset, bits uint32) bool { return n.words[offset/4]&bits == bits }
func (n *NIC) bit(first uint32, i int) bool { return n.words[first/4+uint32(i/32)]>>(i%32)&1 == 1 }
func (n *NIC) pair(first uint32, i int) uint64 {
	return uint64(n.words[first/4+2*uint32(i)]) | uint64(n.words[first/4+2*uint32(i)+1])<<32
}

// violate notes a broken rule. Many of the same kind would only fill the memory.
func (n *NIC) violate(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	if len(n.violations) < 1000 {
		n.violations = append(n.violations, err)
	}
	if n.config.OnViolation != nil {
		n.config.OnViolation(err)
	}
}

// Violations are the rules that were broken up to now.
func (n *NIC) Violations() []error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]error(nil), n.violations...)
}

// SetFaults changes what is wrong with the card; a change of the link is told to the driver.
func (n *NIC) SetFaults(f Faults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.linkUp()
	n.faults = f
	if n.linkUp() != before {
		n.cause(regs.EICR_LSC)
	}
}

// Resets counts the resets since the card was made.
func (n *NIC) Resets() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.resets
}

// Snapshot gives the registers that are not zero, by name.
func (n *NIC) Snapshot() map[string]uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	m := map[string]uint32{}
	for i, v := range n.words {
		if v != 0 {
			m[regs.Name(uint32(4*i))] = v
		}
	}
	m["LINKS"] = n.links()
	return m
}
