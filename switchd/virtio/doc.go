// Package virtio is the device side of virtqueues, split and packed (virtio 1.2, 2.7 and 2.8), as a virtio-net back-end needs it. It knows
// neither sockets nor frames' contents.
//
// A Queue hands out views: Fetch checks the chains that the driver made available and describes them as segments of host addresses in a
// Burst, without copying and without consuming them. The caller reads or fills the segments and then calls Complete, which returns the
// first n chains to the driver in their order, and CallDue and Call, which wake the driver if it asked to be. What was fetched and not
// completed is fetched again next time: a burst that is abandoned half way (a fault on someone's memory) leaves no trace.
//
// The driver is hostile. Each word of a ring is loaded once; indices, lengths, addresses and the length of chains are bounded before use;
// anything that the specification forbids makes Fetch return an error that wraps ErrRing, and the ring must not be used again.
package virtio
