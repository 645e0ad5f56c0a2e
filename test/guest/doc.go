// Package guest boots small Linux guests under QEMU for tests and for the demo.
//
// A guest is the distribution's own kernel (test/setup/install.sh kernel fetches it), an initramfs that this package
// writes, with busybox, the kernel modules asked for, and an agent as its first process. The agent carries out commands
// that arrive over a virtio-serial port, so that the guest's network is free for what is tested. Under QEMU's own
// processor emulation (TCG) a guest takes two to five seconds to boot; KVM is used only where a probe has seen it run
// a Linux kernel.
//
//	g, err := guest.Start(ctx, guest.Config{Name: "a", NICs: []guest.NIC{{Socket: path, MAC: "52:54:00:00:00:01"}}})
//	defer g.Kill()
//	res, err := g.Run(ctx, "ping", "-c1", "10.0.0.2")
package guest
