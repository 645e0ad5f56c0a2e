package vhost

import (
	"errors"
	"fmt"
	"log/slog"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// ErrRefused is wrapped by errors that concern one request only: the device goes on, the front-end is told.
var ErrRefused = errors.New("request refused")

// MaxMemorySlots is how many regions a front-end may share, as many as the kernel's vhost.
const MaxMemorySlots = 509

// Device is one vhost network device.
type Device struct {
	options  Options
	port     Port
	journal  *Journal
	log      *slog.Logger
	features virtio.Features // acknowledged
	acked    bool
	protocol uint64
	memory   *guestmem.Memory // nil before the first table
	rings    []ring
	status   uint8
	slots    map[uint64]int // by guest address: how often a region was added
	dirty    bool           // the set of running rings has to be looked at
	warnings int            // lines logged about rings that cannot run
	warming  warming
	retired  *retired // call descriptors that workers may still be using
	pace     pace     // of changes of the set of running rings
	mtu      error    // why the last NET_SET_MTU was refused
	waiting  string   // what the port was told last (Port.Waiting)
}

// NewDevice makes a device on a port, which it owns from then on. journal may be nil.
func NewDevice(o Options, port Port, journal *Journal, log *slog.Logger) *Device {
	d := &Device{options: o, port: port, journal: journal, log: log, slots: map[uint64]int{}, retired: newRetired(port, o.Files),
		pace: newPace(2 * o.MaxQueuePairs)}
	for range 2 * o.MaxQueuePairs {
		d.rings = append(d.rings, newRing())
	}
	return d
}

// Close stops the device and gives back its port, memory and descriptors. resume keeps the places of its rings in the journal: the switch
// stops, the guest does not, and will be back when the switch is.
func (d *Device) Close(resume bool) {
	d.port.Close()
	d.retired.wait()
	for i := range d.rings {
		d.journal.release(d.rings[i].entry, resume)
		d.rings[i].queue = nil
		d.rings[i].close(d.options.Files)
	}
	d.warming.stop()
	if d.memory != nil {
		d.memory.Close()
		d.memory = nil
	}
}

// Features is the set that the device offers.
func (d *Device) Features() virtio.Features { return d.options.Features() }

// SetFeatures takes the front-end's choice. Running rings are stopped and start anew with it.
func (d *Device) SetFeatures(f virtio.Features) error {
	if extra := f &^ d.Features(); extra != 0 {
		return fmt.Errorf("SET_FEATURES %#x: %v were not offered", uint64(f), extra.Names())
	}
	if d.acked && f == d.features {
		return nil
	}
	d.stopAll()
	d.features, d.acked, d.dirty = f, true, true
	return nil
}

// SetProtocolFeatures records the transport's own features, for display.
func (d *Device) SetProtocolFeatures(f uint64) { d.protocol = f }

// ProtocolFeatures gives them back.
func (d *Device) ProtocolFeatures() uint64 { return d.protocol }

// QueuePairs is how many queue pairs the device has.
func (d *Device) QueuePairs() int { return d.options.MaxQueuePairs }

// SetMemTable replaces all memory. The descriptors in the specs stay the caller's. Rings stop meanwhile and go on where the new memory has
// them; a table that is there already stops nothing.
func (d *Device) SetMemTable(specs []guestmem.RegionSpec) error {
	if d.hasTable(specs) {
		return nil
	}
	memory, err := d.options.mapper().Map(specs)
	if err != nil {
		return err
	}
	clear(d.slots)
	for _, r := range memory.Regions() {
		d.slots[r.GuestPhysAddr] = 1
	}
	d.replaceMemory(memory)
	return nil
}

// hasTable tells whether these are the regions that are mapped.
func (d *Device) hasTable(specs []guestmem.RegionSpec) bool {
	if d.memory == nil || len(specs) == 0 {
		return false
	}
	if len(d.memory.Regions()) != len(specs) {
		return false
	}
	for _, spec := range specs {
		if there, err := d.memory.Has(spec); err != nil || !there || d.slots[spec.GuestPhysAddr] != 1 {
			return false
		}
	}
	return true
}

// AddRegion adds a region (ADD_MEM_REG); its descriptor stays the caller's. QEMU before 8.1 sends each once per queue pair: what is there
// already is counted, and goes with the last removal.
func (d *Device) AddRegion(spec guestmem.RegionSpec) error {
	memory := d.memory
	if memory == nil {
		memory, _ = d.options.mapper().Map(nil)
	}
	if again, err := memory.Has(spec); err != nil {
		return err
	} else if again {
		d.slots[spec.GuestPhysAddr]++
		return nil
	}
	if len(memory.Regions()) >= MaxMemorySlots {
		return fmt.Errorf("%w: all %d memory slots are in use", ErrRefused, MaxMemorySlots)
	}
	next, err := memory.With(spec)
	var exceeded *budget.ExceededError
	if errors.As(err, &exceeded) {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if err != nil {
		return err
	}
	d.slots[spec.GuestPhysAddr] = 1
	d.replaceMemory(next)
	return nil
}

// RemoveRegion removes a region (REM_MEM_REG).
func (d *Device) RemoveRegion(guestPhysAddr, userAddr, size uint64) error {
	if d.memory == nil {
		return fmt.Errorf("%w: REM_MEM_REG before any memory", ErrRefused)
	}
	next, err := d.memory.Without(guestPhysAddr, userAddr, size)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	if d.slots[guestPhysAddr] > 1 {
		d.slots[guestPhysAddr]--
		next.Close()
		return nil
	}
	delete(d.slots, guestPhysAddr)
	d.replaceMemory(next)
	return nil
}

func (d *Device) replaceMemory(next *guestmem.Memory) {
	d.stopAll()
	d.warming.stop()
	if d.memory != nil {
		d.memory.Close()
	}
	d.memory, d.dirty = next, true
}

// SetStatus takes the device status (virtio 1.2, 2.1). 0 resets the device.
func (d *Device) SetStatus(s uint8) {
	d.status = s
	if s == 0 {
		d.Reset()
	}
}

// Status is what SetStatus set.
func (d *Device) Status() uint8 { return d.status }

// Reset stops every ring. Memory and descriptors stay until they are replaced.
func (d *Device) Reset() {
	d.stopAll()
	for i := range d.rings {
		d.rings[i].started = false
		d.rings[i].enable = nil
	}
}

// SetMTU takes the MTU in bytes that the front-end has given to the guest (NET_SET_MTU).
func (d *Device) SetMTU(mtu uint64) error {
	if mtu < 68 || mtu > 65535 {
		return fmt.Errorf("%w: NET_SET_MTU %d is not in 68..65535", ErrRefused, mtu)
	}
	if d.mtu = d.port.SetMTU(int(mtu)); d.mtu != nil {
		return fmt.Errorf("%w: %w", ErrRefused, d.mtu)
	}
	return nil
}

// Announce passes on SEND_RARP.
func (d *Device) Announce(mac [6]byte) { d.port.Announce(mac) }
