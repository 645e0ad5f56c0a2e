package user

import (
	"encoding/binary"
	"fmt"

	"vhostkit/switchd/guestmem"
)

func decodeRegion(b []byte) guestmem.RegionSpec {
	return guestmem.RegionSpec{
		GuestPhysAddr: binary.LittleEndian.Uint64(b), Size: binary.LittleEndian.Uint64(b[8:]),
		UserAddr: binary.LittleEndian.Uint64(b[16:]), MmapOffset: binary.LittleEndian.Uint64(b[24:]),
	}
}

// DecodeMemTable decodes {le32 regions, le32 padding, regions}; the descriptors come in the regions' order.
func DecodeMemTable(m *Message) ([]guestmem.RegionSpec, error) {
	if len(m.Payload) < 8 {
		return nil, fmt.Errorf("%w: SET_MEM_TABLE of %d bytes", ErrMessage, len(m.Payload))
	}
	n := binary.LittleEndian.Uint32(m.Payload)
	if n == 0 || n > memTableSlots || len(m.Payload) < 8+int(n)*regionSize || len(m.FDs) != int(n) {
		return nil, fmt.Errorf("%w: SET_MEM_TABLE of %d regions in %d bytes with %d descriptors", ErrMessage, n, len(m.Payload), len(m.FDs))
	}
	specs := make([]guestmem.RegionSpec, n)
	for i := range specs {
		specs[i] = decodeRegion(m.Payload[8+i*regionSize:])
		specs[i].FD = m.FDs[i]
	}
	return specs, nil
}

func (s *session) setMemTable(m *Message) ([]byte, error) {
	specs, err := DecodeMemTable(m)
	if err != nil {
		return nil, err
	}
	return nil, s.device.SetMemTable(specs)
}

// singleRegion decodes {le64 padding, region}.
func singleRegion(m *Message) (guestmem.RegionSpec, error) {
	if err := m.size(8 + regionSize); err != nil {
		return guestmem.RegionSpec{}, err
	}
	return decodeRegion(m.Payload[8:]), nil
}

func (s *session) addRegion(m *Message) ([]byte, error) {
	spec, err := singleRegion(m)
	if err != nil {
		return nil, err
	}
	if len(m.FDs) != 1 {
		return nil, fmt.Errorf("%w: ADD_MEM_REG comes with %d descriptors, want 1", ErrMessage, len(m.FDs))
	}
	spec.FD = m.FDs[0] // stays the message's
	return nil, s.device.AddRegion(spec)
}

// removeRegion: front-ends may pass the region's descriptor again; it is not needed.
func (s *session) removeRegion(m *Message) ([]byte, error) {
	spec, err := singleRegion(m)
	if err != nil {
		return nil, err
	}
	return nil, s.device.RemoveRegion(spec.GuestPhysAddr, spec.UserAddr, spec.Size)
}
