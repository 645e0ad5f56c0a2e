package nic82599

import (
	"net"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// eeprom is the card's non-volatile memory, by words (6.3), and the state of its SPI pins.
type eeprom struct {
	words [1024]uint16
	// SPI: what has been shifted in since the chip was selected, and what is being shifted out.
	in   uint32
	bits int
	out  func() byte
	byt  byte
	left int
	do   bool
}

// Words that drivers look at (6.2, 6.3).
const (
	wordFirmware   = 0x0F // pointer to the firmware block
	wordSFP        = 0x2B // pointer to the list of SFP+ initializations
	wordCaps       = 0x2C // device capabilities
	wordChecksum   = 0x3F
	eepromSum      = 0xBABA
	capsAnySFP     = 1 << 0
	capsNoCrosstlk = 1 << 7
)

// load fills it as a card's would be: no sections but those that drivers insist on.
func (e *eeprom) load(mac net.HardwareAddr, wrong bool) {
	*e = eeprom{}
	for i := range e.words {
		e.words[i] = 0xffff
	}
	e.words[0], e.words[1], e.words[2] = 0, 0, 0
	e.words[0x15], e.words[0x16] = 0x8259, 0x9001 // part number
	e.words[wordCaps] = capsAnySFP | capsNoCrosstlk
	// A list of {type, pointer}; type 5 is a short or long range module in port 0. Its data are words for CORECTL.
	e.words[wordSFP] = 0x100
	copy(e.words[0x100:], []uint16{0xffff, 5, 0x110, 0xffff})
	copy(e.words[0x110:], []uint16{0xffff, 0x0001, 0xffff})
	// Firmware newer than version 5, where that is looked for.
	e.words[wordFirmware] = 0x120
	e.words[0x120+4] = 0x140 // pass-through patch configuration; word 7 there is the version
	e.words[0x140+7] = 6
	for i := range 3 {
		e.words[0x180+i] = uint16(mac[2*i]) | uint16(mac[2*i+1])<<8
	}
	sum := uint16(0)
	for i := range wordChecksum {
		sum += e.words[i]
	}
	// The firmware pointer's section does not count; all other sections are absent.
	e.words[wordChecksum] = eepromSum - sum
	if wrong {
		e.words[wordChecksum]++
	}
}

// read carries out EERD.
func (e *eeprom) read(value uint32) uint32 {
	if value&regs.EERD_START == 0 {
		return value
	}
	word := uint16(0xffff)
	if at := value >> 2 & 0x3fff; at < uint32(len(e.words)) {
		word = e.words[at]
	}
	return value&0xffff&^regs.EERD_START | regs.EERD_DONE | uint32(word)<<16
}

// SPI opcodes.
const (
	spiRead   = 0x03
	spiStatus = 0x05
)

// drive follows the pins of EEC and gives the register's new value. The chip is selected while CS is 0 and shifts on the clock's rising edge.
func (e *eeprom) drive(before, value uint32) uint32 {
	const pins = regs.EEC_SK | regs.EEC_CS | regs.EEC_DI | regs.EEC_REQ
	after := before&^pins | value&pins
	switch {
	case value&regs.EEC_CS != 0:
		e.in, e.bits, e.out, e.left = 0, 0, nil, 0
	case before&regs.EEC_SK == 0 && value&regs.EEC_SK != 0:
		e.shift(value&regs.EEC_DI != 0)
	}
	return after
}

func (e *eeprom) shift(di bool) {
	if e.out != nil {
		if e.left == 0 {
			e.byt, e.left = e.out(), 8
		}
		e.left--
		e.do = e.byt>>e.left&1 == 1
		return
	}
	e.in <<= 1
	if di {
		e.in |= 1
	}
	e.bits++
	switch {
	case e.bits == 8 && e.in&0xff == spiStatus:
		e.out = func() byte { return 0 } // ready
	case e.bits == 24 && e.in>>16&^0x08 == spiRead: // 16 address bits: the address of a byte
		at := e.in & 0xffff
		e.out = func() byte {
			word := e.words[at/2%uint32(len(e.words))]
			b := byte(word >> (8 * (at & 1)))
			at++
			return b
		}
	}
}

// pins is EEC as it reads.
func (e *eeprom) pins(value uint32) uint32 {
	value &^= regs.EEC_DO | regs.EEC_GNT
	if e.do {
		value |= regs.EEC_DO
	}
	if value&regs.EEC_REQ != 0 {
		value |= regs.EEC_GNT
	}
	return value
}
