package nic82599

import "vhostkit/switchd/uplink/ixgbe/regs"

// sfp is a 10GBASE-SR module behind the two pins of I2CCTL (SFF-8472, address 0xA0), an I2C slave.
type sfp struct {
	clock, data bool // the driver's lines as they were
	pull        bool // the slave holds the data line down
	state       int
	bits, byt   int
	address     int // of the next byte
	reading     bool
	selected    bool
	offset      bool // the next byte written is an address
}

const (
	i2cIdle = iota
	i2cReceive
	i2cAck    // the slave acknowledges
	i2cSend   // the slave sends
	i2cMaster // the driver acknowledges
)

func (s *sfp) reset() { *s = sfp{clock: true, data: true} }

// sfpByte is the module's memory.
func sfpByte(at int) byte {
	switch {
	case at == 0:
		return 0x03 // SFP or SFP+
	case at == 1:
		return 0x04
	case at == 2:
		return 0x07 // LC
	case at == 3:
		return 0x10 // 10GBASE-SR
	case at == 12:
		return 103 // 10.3 Gbit/s
	case at >= 20 && at < 36:
		return padded("vhostkit model", at-20)
	case at == 37:
		return 0x00 // Intel's OUI: drivers insist on it unless told otherwise
	case at == 38:
		return 0x1b
	case at == 39:
		return 0x21
	case at >= 40 && at < 56:
		return padded("10GBASE-SR", at-40)
	}
	return 0
}

func padded(text string, at int) byte {
	if at < len(text) {
		return text[at]
	}
	return ' '
}

// drive follows the driver's lines.
func (s *sfp) drive(clock, data, present bool) {
	was := *s
	s.clock, s.data = clock, data
	switch {
	case !present:
		s.pull, s.state = false, i2cIdle
	case was.clock && clock && was.data && !data: // start
		s.state, s.bits, s.byt, s.pull, s.selected = i2cReceive, 0, 0, false, false
	case was.clock && clock && !was.data && data: // stop
		s.state, s.pull = i2cIdle, false
	case !was.clock && clock:
		s.rise(data)
	case was.clock && !clock:
		s.fall()
	}
}

// rise: both sides sample.
func (s *sfp) rise(data bool) {
	switch s.state {
	case i2cReceive:
		s.byt <<= 1
		if data {
			s.byt |= 1
		}
		s.bits++
	case i2cMaster:
		if data { // no more
			s.state = i2cIdle
		}
	}
}

// fall: the slave changes the line.
func (s *sfp) fall() {
	switch s.state {
	case i2cReceive:
		if s.bits == 8 {
			s.pull = s.got(byte(s.byt))
			s.state = i2cAck
			if !s.pull {
				s.state = i2cIdle
			}
		}
	case i2cAck:
		s.pull, s.bits, s.byt = false, 0, 0
		s.state = i2cReceive
		if s.reading {
			s.state = i2cSend
			s.send()
		}
	case i2cSend:
		if s.bits++; s.bits == 8 {
			s.pull, s.state = false, i2cMaster
			s.address++
		} else {
			s.send()
		}
	case i2cMaster:
		s.bits, s.state = 0, i2cSend
		s.send()
	}
}

// got takes a byte and tells whether it is acknowledged.
func (s *sfp) got(b byte) bool {
	if !s.selected {
		if b&0xfe != 0xa0 {
			return false
		}
		s.selected, s.reading, s.offset = true, b&1 == 1, true
		return true
	}
	if s.offset {
		s.address, s.offset = int(b), false
	}
	return true
}

func (s *sfp) send() { s.pull = sfpByte(s.address&0xff)>>(7-s.bits)&1 == 0 }

// pins is I2CCTL as it reads.
func (s *sfp) pins(value uint32) uint32 {
	value &^= regs.I2CCTL_CLK_IN | regs.I2CCTL_DATA_IN
	if s.clock {
		value |= regs.I2CCTL_CLK_IN
	}
	if s.data && !s.pull {
		value |= regs.I2CCTL_DATA_IN
	}
	return value
}
