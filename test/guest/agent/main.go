// Command agent is the first process of a test guest: it mounts what a Linux system needs, loads the modules the rig
// put into the initramfs, and carries out the rig's requests that arrive on a virtio-serial port (package proto).
package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	// "serve" is for guests with an init of their own, which starts the agent as a service.
	if service := len(os.Args) == 2 && os.Args[1] == "serve"; !service {
		if os.Getpid() != 1 {
			fmt.Fprintln(os.Stderr, "agent: this is the init process of a test guest; it is started by the guest rig only")
			os.Exit(2)
		}
		if err := boot(); err != nil {
			fail(err)
		}
	}
	port, err := openPort(30 * time.Second)
	if err != nil {
		fail(err)
	}
	newServer(port).serve()
}

// fail ends the guest: init must not return, and a guest that cannot talk is of no use. The rig shows the console.
func fail(err error) {
	fmt.Fprintf(os.Stderr, "agent: %v\n", err)
	if os.Getpid() != 1 {
		os.Exit(1)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	os.Exit(1)
}
