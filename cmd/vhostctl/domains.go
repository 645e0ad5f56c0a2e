package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"vhostkit/libvirt"
	"vhostkit/libvirt/domains"
)

const domainsDescription = `Lists the interfaces of libvirt domains that are on the switch, or are meant to be, each with its port, and READY or why not.
   MEMORY tells whether the switch can reach the guest's memory. FEATURES are those negotiated; -o json names them.

EXAMPLES
   All of them:         sudo vhostctl domains
   Those not READY:     vhostctl domains -o json | jq '.[] | select(.ready | not)'
   Another libvirt:     vhostctl domains --connect qemu:///session`

// DomainsCommand lists the domains on the switch.
func DomainsCommand() *cli.Command {
	return &cli.Command{
		Name: "domains", Usage: "list the libvirt domains on the switch", Description: domainsDescription, Action: listDomains,
		Flags: append(outputFlags(),
			&cli.StringFlag{Name: "connect", Usage: "libvirt connection `URI`", EnvVars: []string{"LIBVIRT_DEFAULT_URI"}, Value: libvirt.DefaultURI}),
	}
}

func listDomains(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	conn, err := libvirt.Connect(c.String("connect"))
	if err != nil {
		return err
	}
	defer conn.Close()
	list, err := domains.List(c.Context, conn, client(c))
	if err != nil {
		return err
	}
	return show(c, list, domainsTable)
}

func domainsTable(w io.Writer, list []domains.Entry) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no domain is on the switch: vhostctl attach DOMAIN puts one there")
		return
	}
	table(w, "DOMAIN STATE INTERFACE MAC PORT SOCKET MEMORY FEATURES READY", func(row func(...any)) {
		for _, e := range list {
			state, memory, ready := "stopped", "private", "no: "+orDash(e.Why)
			if e.Running {
				state = "running"
			}
			if e.Shared {
				memory = "shared"
			}
			if e.Ready {
				ready = "READY"
				if e.Why != "" {
					ready += ", " + orDash(e.Why)
				}
			}
			row(orDash(e.Domain), state, orDash(e.Interface), orDash(e.MAC), number(e.Port), orDash(e.Socket), memory, orDash(e.Hex), ready)
		}
	})
}
