// Package guestmem holds a guest's memory as the switch sees it: the regions that a front-end shares (vhost-user SET_MEM_TABLE,
// ADD_MEM_REG; the vhost ioctl VHOST_SET_MEM_TABLE), mapped into this process, and the checked translation from the guest's addresses to
// ours.
//
// A guest is hostile. Nothing outside this package turns a number from a guest into an address: Memory.Translate and Memory.User do, and
// they give out only ranges that are wholly inside one mapping. What lies in the memory may change under the reader at any time, so each
// value is loaded once into a local variable and checked there. A front-end may even truncate the file behind the memory: the access then
// faults, and Recovered turns the fault into an error that costs that device its port and nobody else anything.
//
// The virtqueue formats are little-endian (virtio 1.2, 1.4) and so are all hosts that this package builds on.
package guestmem
