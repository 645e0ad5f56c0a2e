// Package packages tests what "make packages" builds, where it will be used: in a clean root of this machine's distribution, made by
// debootstrap from the sources that apt itself is configured with, and in that root booted under QEMU with systemd as its first process.
// The clean root is kept in the cache; every test gets a copy of its own.
package packages
