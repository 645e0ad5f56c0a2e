// Package nic82599 is a model of the Intel 82599 at the level of its registers: drivers that nobody here wrote take it for one (Linux's ixgbe and
// DPDK's PMD, over test/vfiouser), and the project's own driver is tested on it.
//
// What it has: reset, EEPROM (EERD and the SPI pins), an SFP+ behind I2C pins, link, MSI-X with causes, masks and auto-clear, receive and transmit
// rings with advanced and context descriptors, write-back of descriptors and heads, clear-on-read statistics, filters for MAC, VLAN, multicast and
// unicast hashes, VMDq in all five modes with and without RSS or DCB, the internal switch (loopback), VLAN strip and insert, anti-spoofing, mirror
// rules, checksums and segmentation. What it has not: flow director (it says that it is ready and matches nothing), receive-side coalescing, IPsec,
// SR-IOV mailboxes, FCoE, time.
//
// It is stricter than the card: what the datasheet forbids is noted as a violation, with the register's name; what a reset leaves undefined holds
// junk, and the laser is off. A rule that Linux's driver or DPDK's breaks is none.
package nic82599
