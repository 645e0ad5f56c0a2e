// Package vfiouser serves a PCI device of our own making over the vfio-user protocol, so that QEMU's guests and drivers that nobody here wrote
// can use it. The other end is QEMU's vfio-user-pci device or any client of the protocol.
//
// The server outlives every client: whatever one sends ends at most its own connection. The next client finds the device reset.
//
// Source: the vfio-user specification in QEMU's documentation (interop/vfio-user).
package vfiouser
