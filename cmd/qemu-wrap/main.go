// Command qemu-wrap starts QEMU with its network interfaces on the vhost switch. libvirt calls it instead of QEMU.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"vhostkit/internal/version"
	"vhostkit/qemuwrap"
	"vhostkit/switchd/control"
	"vhostkit/templates"
)

const help = `qemu-wrap starts QEMU with its network interfaces on the vhost switch.

USAGE
   qemu-wrap QEMU-ARGUMENTS…               rewrite them and become QEMU
   qemu-wrap --dry-run -- QEMU-ARGUMENTS…  show the resulting line and why it differs, start nothing
   qemu-wrap --wrap-help | --wrap-version

   These options count as the first argument only: everything else belongs to QEMU.

LIBVIRT
   <emulator>/usr/bin/qemu-wrap</emulator> in the domain (virsh edit), or for every interface by hand: vhostctl attach DOMAIN

SETTINGS
   ` + qemuwrap.DefaultConfigFile + ` (QEMU_WRAP_CONFIG names another), each also in the environment: QEMU_WRAP_MODE=cuse
   emul_path             the QEMU to start; default: the usual names and places
   mode                  "vhost-user" (default): tap interfaces become ports of switchd
                         "cuse": they get descriptors of us_vhost_path
   interfaces            "all", or aliases, netdev ids, MAC addresses
   us_vhost_path         the vhost-cuse device, default /dev/usvhost
   hugepages             "auto" (default), "require", "never"
   hugetlbfs_dir         take guests' memory from files there
   use_huge_all          shared hugepage memory also for guests that are not on the switch
   emul_opts_user        added to every start; emul_opts_user_vhost: when an interface is on the switch
   memory                "auto" (default), or "mem-path" for QEMUs before 2.1
   qemu_socket           where switchd is asked for ports, default /run/vhostkit/qemu.sock
   socket                one shared vhost-user socket for all instead
`

// broker is switchd's socket for QEMU processes.
type broker struct{ *control.BrokerClient }

func (b broker) Plug(ctx context.Context, name string) (string, error) {
	p, err := b.BrokerClient.Plug(ctx, name)
	return p.Socket, err
}

func main() {
	if len(os.Args) == 2 {
		switch os.Args[1] {
		case "--wrap-help":
			fmt.Print(help)
			return
		case "--wrap-man":
			fmt.Print(templates.QEMUWrapMan)
			return
		case "--wrap-version":
			fmt.Println("qemu-wrap", version.BuildInfo())
			return
		}
	}
	w := qemuwrap.Wrapper{
		Args: os.Args[1:], Environ: os.Environ(), Stdout: os.Stdout, Exec: unix.Exec,
		Dial: func(path string) qemuwrap.Switch { return broker{control.NewBroker(path)} },
	}
	if err := w.Run(context.Background()); err != nil {
		// libvirt shows this line to the user.
		fmt.Fprintln(os.Stderr, "qemu-wrap:", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}
