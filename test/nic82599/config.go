package nic82599

import (
	"encoding/binary"
	"fmt"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// configSpace is the PCI configuration: 4096 bytes, of which masks tell what may be written.
type configSpace struct {
	bytes, mask [4096]byte
}

// Places of the capabilities, which drivers insist on (9.3).
const (
	capPM   = 0x40
	capMSIX = 0x70
	capPCIe = 0xA0
)

func (c *configSpace) reset() {
	*c = configSpace{}
	le := binary.LittleEndian
	le.PutUint16(c.bytes[0x00:], regs.VendorIntel)
	le.PutUint16(c.bytes[0x02:], regs.Device82599)
	le.PutUint16(c.bytes[0x06:], 0x0010) // status: capabilities
	c.bytes[0x08] = 1                    // revision
	le.PutUint16(c.bytes[0x0A:], 0x0200) // class: Ethernet
	c.bytes[0x0C] = 16
	le.PutUint32(c.bytes[0x10:], 0xC) // BAR 0: 64 bits, prefetchable
	le.PutUint32(c.bytes[0x20:], 0xC) // BAR 4: 64 bits, MSI-X
	le.PutUint16(c.bytes[0x2C:], regs.VendorIntel)
	le.PutUint16(c.bytes[0x2E:], 0x0003) // X520
	c.bytes[0x34] = capPM
	// Power management.
	copy(c.bytes[capPM:], []byte{0x01, capMSIX, 0x23, 0x48})
	// MSI-X: 64 vectors, table and pending bits in BAR 4.
	copy(c.bytes[capMSIX:], []byte{0x11, capPCIe})
	le.PutUint16(c.bytes[capMSIX+2:], regs.MSIXVectors-1)
	le.PutUint32(c.bytes[capMSIX+4:], 4)
	le.PutUint32(c.bytes[capMSIX+8:], 0x2000|4)
	// PCI Express, version 2, with function-level reset; eight lanes of 5 GT/s.
	copy(c.bytes[capPCIe:], []byte{0x10, 0, 0x02, 0x00})
	le.PutUint32(c.bytes[capPCIe+4:], 1<<28|1<<15|2)
	le.PutUint32(c.bytes[capPCIe+0xC:], 0x82)
	le.PutUint16(c.bytes[capPCIe+0x12:], 0x82)
	for _, w := range []struct {
		at   int
		mask uint32
	}{{0x04, 0x0407}, {0x0C, 0xff}, {0x10, 0xfff80000}, {0x14, 0xffffffff}, {0x20, 0xffffc000}, {0x24, 0xffffffff}, {0x3C, 0xff}, {capPM + 4, 0x8103}, {capMSIX, 0xC0000000}, {capPCIe + 8, 0x7fff}, {capPCIe + 0x10, 0xffff}, {capPCIe + 0x28, 0x1f}} {
		le.PutUint32(c.mask[w.at:], w.mask)
	}
}

func (c *configSpace) busMaster() bool { return c.bytes[0x04]&4 != 0 }

// ReadConfig reads 1, 2 or 4 bytes of the configuration space.
func (n *NIC) ReadConfig(offset, size int) (uint32, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if offset < 0 || size < 1 || size > 4 || offset+size > len(n.pci.bytes) {
		return 0, fmt.Errorf("read %d bytes at %#x of the configuration space: it has %d", size, offset, len(n.pci.bytes))
	}
	value := uint32(0)
	for i := range size {
		value |= uint32(n.pci.bytes[offset+i]) << (8 * i)
	}
	return value, nil
}

// WriteConfig writes 1, 2 or 4 bytes. Bits that cannot be written stay.
func (n *NIC) WriteConfig(offset, size int, value uint32) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if offset < 0 || size < 1 || size > 4 || offset+size > len(n.pci.bytes) {
		return fmt.Errorf("write %d bytes at %#x of the configuration space: it has %d", size, offset, len(n.pci.bytes))
	}
	master := n.pci.busMaster()
	for i := range size {
		at, mask := offset+i, n.pci.mask[offset+i]
		n.pci.bytes[at] = n.pci.bytes[at]&^mask | byte(value>>(8*i))&mask
	}
	if !master && n.pci.busMaster() {
		n.onBus()
	}
	if at := capPCIe + 9 - offset; at >= 0 && at < size && value>>(8*at)&0x80 != 0 { // initiate function-level reset; never kept
		n.pci.reset()
		n.reset()
	}
	return nil
}

// onBus: the card has been let onto the bus. What it was told while somebody else had it must be forgotten by then.
func (n *NIC) onBus() {
	for q := range regs.RXQueues {
		if n.has(regs.RXDCTL(q), regs.RXDCTL_ENABLE) && n.has(regs.RXCTRL, regs.RXCTRL_RXEN) {
			n.violate("the command register's bus master bit is set while RXDCTL[%d] is enabled: the addresses in it may be of memory that is gone", q)
			return
		}
	}
}
