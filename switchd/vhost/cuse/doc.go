// Package cuse is the vhost-cuse transport: a character device /dev/NAME of the kernel's CUSE, to which a QEMU talks that believes it to be
// /dev/vhost-net (-netdev tap,vhost=on,vhostfd=N). Its ioctls (linux/vhost.h) arrive here as FUSE messages (linux/fuse.h) and drive a
// vhost.Device, as the messages of vhost-user do. No library and no kernel module of our own is needed: the protocol is spoken here, the
// guest's memory is found in /proc/PID/maps, and descriptors are fetched with pidfd_getfd(2). That takes Linux 5.6, and for a QEMU of another
// user CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH.
//
// Each open of the device is a vhost device of one queue pair. It belongs to the process that says VHOST_SET_OWNER; ioctls of any other
// process that has the descriptor are refused, as the kernel's vhost does.
//
// When the switch stops, the kernel answers every further ioctl with ENOTCONN. A QEMU goes on without network, and aborts when it stops the
// device, at the latest when it ends: it takes for granted that VHOST_NET_SET_BACKEND with -1 works. vhost-user does not have that.
//
// The caller is hostile: sizes and counts are bounded where they arrive, and whatever it does harms nobody but its own device. While it
// waits for the answer to a request its thread cannot end, so its process id stays its own for that time; in between a pidfd is held.
package cuse
