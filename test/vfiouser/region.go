package vfiouser

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// inside checks an access against the region's size.
func (x *session) inside(a access) error {
	if size := x.size(a.region); size == 0 || a.offset > size || uint64(a.count) > size-a.offset {
		return fmt.Errorf("%d bytes at %#x of region %d, which has %d: %w", a.count, a.offset, a.region, size, unix.EINVAL)
	}
	return nil
}

func (x *session) read(b []byte) ([]byte, error) {
	a, err := parseAccess(b)
	if err == nil {
		err = x.inside(a)
	}
	if err != nil {
		return nil, err
	}
	answer := a.append(make([]byte, 0, accessSize+int(a.count)))[:accessSize+int(a.count)]
	data := answer[accessSize:]
	switch a.region {
	case 0:
		x.readRegisters(uint32(a.offset), data)
	case VFIO_PCI_CONFIG_REGION_INDEX:
		err = eachPart(int(a.offset), len(data), func(offset, at, size int) error {
			value, err := x.device.ReadConfig(offset, size)
			putBytes(data[at:at+size], value)
			return err
		})
	default:
		copy(data, x.others[a.region][a.offset:])
	}
	return answer, err
}

func (x *session) write(b []byte) ([]byte, error) {
	a, err := parseAccess(b)
	if err == nil {
		err = x.inside(a)
	}
	if err != nil {
		return nil, err
	}
	data := b[accessSize:]
	if uint32(len(data)) < a.count {
		return nil, fmt.Errorf("%w: REGION_WRITE of %d bytes with %d", ErrProtocol, a.count, len(data))
	}
	data = data[:a.count]
	switch a.region {
	case 0:
		x.writeRegisters(uint32(a.offset), data)
	case VFIO_PCI_CONFIG_REGION_INDEX:
		err = eachPart(int(a.offset), len(data), func(offset, at, size int) error {
			return x.device.WriteConfig(offset, size, getBytes(data[at:at+size]))
		})
	default:
		copy(x.others[a.region][a.offset:], data)
	}
	return a.append(nil), err
}

// readRegisters reads whole registers, of which an access may want only a part: a read of 64 bits is two of 32.
func (x *session) readRegisters(offset uint32, data []byte) {
	for at := 0; at < len(data); {
		var word [4]byte
		binary.LittleEndian.PutUint32(word[:], x.device.ReadBAR(offset&^3))
		n := copy(data[at:], word[offset&3:])
		at, offset = at+n, offset+uint32(n)
	}
}

// writeRegisters writes whole registers. The card knows no shorter writes; they are made up by the bytes beside them.
func (x *session) writeRegisters(offset uint32, data []byte) {
	for at := 0; at < len(data); {
		var word [4]byte
		if offset&3 != 0 || len(data)-at < 4 {
			binary.LittleEndian.PutUint32(word[:], x.device.ReadBAR(offset&^3))
		}
		n := copy(word[offset&3:], data[at:])
		x.device.WriteBAR(offset&^3, binary.LittleEndian.Uint32(word[:]))
		at, offset = at+n, offset+uint32(n)
	}
}

// eachPart takes an access apart into aligned ones of 4, 2 and 1 bytes.
func eachPart(offset, length int, do func(offset, at, size int) error) error {
	for at := 0; at < length; {
		size := 4
		for size > length-at || (offset+at)%size != 0 {
			size /= 2
		}
		if err := do(offset+at, at, size); err != nil {
			return err
		}
		at += size
	}
	return nil
}

func putBytes(b []byte, value uint32) {
	for i := range b {
		b[i] = byte(value >> (8 * i))
	}
}

func getBytes(b []byte) (value uint32) {
	for i := range b {
		value |= uint32(b[i]) << (8 * i)
	}
	return value
}
