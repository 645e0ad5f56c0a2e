// Package ixgbe drives Intel's 82599 as the switch's way out: one receive pool per port (VMDq), filtered by address and VLAN in hardware,
// and the NIC's own switch between pools for --vm2vm 2.
//
// Sources: Intel 82599 10 GbE Controller Datasheet (331520); section numbers in comments are its.
//
// With Config.AntiSpoof the NIC checks what pools send; spoof.go says what is not checked, and why.
//
// Three parties touch a NIC: the workers, each on a Queue of its own; the control side (filters, Close); and the watchdog. What they share
// is either atomic or behind NIC.mu. The watchdog may set the whole device up again; it takes every ring first (see txRing.owned).
package ixgbe
