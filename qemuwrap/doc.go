// Package qemuwrap rewrites QEMU's command line so that a guest's network interfaces end on the vhost switch instead of on kernel taps:
// what libvirt's <emulator> points to, and what replaces DPDK's qemu-wrap.py.
//
// The command line is taken apart into its options, those that matter are changed in place (in the form they came in, legacy or JSON), and
// everything else stays as it was, byte for byte. Nothing is joined for a shell at any time.
package qemuwrap
