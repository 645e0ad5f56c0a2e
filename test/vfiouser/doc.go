// Package vfiouser serves a PCI device of our own making over the vfio-user protocol, so that QEMU's guests and drivers that nobody here wrote
// can use it. The other end is QEMU's vfio-user-pci device or any client of the protocol.
//
// The server outlives every client: whatever one sends, or does not send, ends at most its own connection. Several may be connected, and are told
// what the device is; it is one's at a time, from the first command that goes to it. Who is silent for half a minute loses it to another one that
// wants it, and who does not take replies loses the connection. The next client finds the device reset.
//
// Source: the vfio-user specification in QEMU's documentation (interop/vfio-user).
package vfiouser
