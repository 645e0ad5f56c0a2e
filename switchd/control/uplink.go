package control

// UplinkStats are the uplink's counters; RX is from the network.
type UplinkStats struct {
	Name      string `json:"name"`
	Driver    string `json:"driver"`
	Up        bool   `json:"up"`
	Carrier   bool   `json:"carrier"`
	MTU       int    `json:"mtu"`
	Full      uint64 `json:"full"`      // frames not sent: no room
	Down      uint64 `json:"down"`      // frames not sent: the interface is down or gone
	Rejected  uint64 `json:"rejected"`  // frames not sent: their offload request makes no sense
	Truncated uint64 `json:"truncated"` // received frames longer than the driver's buffers
	// Of an uplink with a NIC of the switch's own:
	Pools     int    `json:"pools,omitempty"`     // ports that can have a hardware pool
	Missed    uint64 `json:"missed,omitempty"`    // received frames that found no room
	Broken    uint64 `json:"broken,omitempty"`    // received frames with a bad checksum or length
	Spoofed   uint64 `json:"spoofed,omitempty"`   // frames not sent: another's source address or VLAN
	Discarded uint64 `json:"discarded,omitempty"` // frames in the card's rings when it was reset, or left there by a port that has gone
	WireRX    uint64 `json:"wire_rx,omitempty"`   // good frames on the wire
	WireTX    uint64 `json:"wire_tx,omitempty"`
	Lent      uint64 `json:"lent,omitempty"` // frames sent that the card read from guests' memory (--zero-copy)

	// Counters is all that the driver counts: what has a field above, too, and whatever was added since. See AllCounters.
	Counters []Counter `json:"counters,omitempty"`

	RX QueueStats `json:"rx"`
	TX QueueStats `json:"tx"`
}

// Counter is something that an uplink counts since it was opened.
type Counter struct {
	Name  string `json:"name"`
	Help  string `json:"help"`
	Lost  bool   `json:"lost,omitempty"` // frames that did not get through
	Value uint64 `json:"value"`
}

// countedField is a counter that has a field of UplinkStats: they are what there was before Counters, and no more are added.
type countedField struct {
	name string
	lost bool
	at   *uint64
}

func (u *UplinkStats) countedFields() []countedField {
	return []countedField{
		{"full", true, &u.Full}, {"down", true, &u.Down}, {"rejected", true, &u.Rejected}, {"truncated", true, &u.Truncated},
		{"missed", true, &u.Missed}, {"broken", true, &u.Broken}, {"spoofed", true, &u.Spoofed}, {"discarded", true, &u.Discarded},
		{"wire_rx", false, &u.WireRX}, {"wire_tx", false, &u.WireTX}, {"lent", false, &u.Lent},
	}
}

// SetCounters fills in the list, and the fields of those of its counters that have one, for clients that know these only.
func (u *UplinkStats) SetCounters(list []Counter) {
	u.Counters = list
	for _, f := range u.countedFields() {
		for i := range list {
			if list[i].Name == f.name {
				*f.at = list[i].Value
			}
		}
	}
}

// AllCounters is the list, or what the fields say where a switchd from before the list has answered.
func (u *UplinkStats) AllCounters() []Counter {
	if u.Counters != nil {
		return u.Counters
	}
	var list []Counter
	for _, f := range u.countedFields() {
		list = append(list, Counter{Name: f.name, Lost: f.lost, Value: *f.at})
	}
	return list
}
