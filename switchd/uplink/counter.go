package uplink

// Counter is something that an uplink has counted, over all queues since it was opened. It never goes back. Frames that passed are counted by
// the switch.
type Counter struct {
	Name  string // lower case with underscores; what two drivers count alike has the same name in both
	Help  string // what is counted, for people
	Lost  bool   // it counts frames that did not get through
	Value uint64
}
