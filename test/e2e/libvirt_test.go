package e2e

import (
	"fmt"
	"testing"

	"vhostkit/test/libvirtd"
)

const sharedMemory = `<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>`

func domainMAC(n int) string { return fmt.Sprintf("52:54:00:00:08:%02x", n) }

// vhostUser is an interface on a socket of the switch, as an operator writes it by hand.
func vhostUser(n int, socket string) string {
	return fmt.Sprintf(`<interface type='vhostuser'><mac address='%s'/>
      <source type='unix' path='%s' mode='client'><reconnect enabled='yes' timeout='1'/></source>
      <model type='virtio'/></interface>`, domainMAC(n), socket)
}

// tap is an ordinary interface: libvirt makes a tap for it.
func tap(n int) string {
	return fmt.Sprintf(`<interface type='ethernet'><mac address='%s'/><model type='virtio'/></interface>`, domainMAC(n))
}

// TestLibvirtWrapper: domains whose emulator is qemu-wrap, with taps, talk to each other through the switch; destroyed, nothing is left.
func TestLibvirtWrapper(t *testing.T) {
	h := startHost(t)
	wrapper := h.install(t, "qemu-wrap")
	for i, name := range []string{"w1", "w2"} {
		h.define(t, libvirtd.Domain{Name: name, Emulator: wrapper, Interfaces: tap(i + 1)})
	}
	guests := h.boot(t, "w1", "w2")
	ping(h.ctx, t, guests[0], "10.8.0.2")
	ping(h.ctx, t, guests[1], "10.8.0.1", "-s", "1400")
	h.wantReady(t, 2)
	h.destroy(t, "w1")
	h.destroy(t, "w2")
}
