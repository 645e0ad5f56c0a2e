package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"vhostkit/cmd/vhostctl/change"
	"vhostkit/switchd/pci"
)

const nicDescription = `An 82599 works for the switch when it is bound to vfio-pci: switchd --uplink ixgbe:ADDRESS. A NIC that is in use (with an address or the default
   route, as a port of a bridge or bond, under a VLAN or macvlan) is refused without --force, as is one that the switch cannot drive or whose
   IOMMU group the kernel uses. unbind returns it to the driver that had it before.

EXAMPLES
   List the NICs:                      vhostctl nic list
   Give one to the switch:             sudo vhostctl nic bind 0000:03:00.0
   By the name of its interface:       sudo vhostctl nic bind eth2
   Preview:                            vhostctl nic bind eth2 --dry-run
   Return it to its driver:            sudo vhostctl nic unbind 0000:03:00.0`

// NICCommand shows NICs and changes their drivers.
func NICCommand() *cli.Command {
	dryRun := &cli.BoolFlag{Name: "dry-run", Usage: "preview: show what would be written, write nothing"}
	return &cli.Command{
		Name: "nic", Usage: "list NICs, bind one to the switch or unbind it", Description: nicDescription, Action: unknownVerb("nic"), Subcommands: []*cli.Command{
			{Name: "list", Usage: "list the NICs, and what keeps the switch from using them", Action: listNICs, Flags: outputFlags()},
			{Name: "bind", Usage: "bind a NIC to a driver that the switch can use", ArgsUsage: "ADDRESS|INTERFACE", Action: bindNIC, Flags: append(outputFlags(), dryRun,
				&cli.StringFlag{Name: "driver", Usage: "driver `NAME`: vfio-pci, or without an IOMMU uio_pci_generic", Value: "vfio-pci"},
				&cli.BoolFlag{Name: "force", Usage: "also a NIC that is in use, in no IOMMU group or in one that the kernel uses, or that the switch cannot drive"})},
			{Name: "unbind", Usage: "return a NIC to the driver that had it before", ArgsUsage: "ADDRESS", Action: unbindNIC, Flags: append(outputFlags(), dryRun)},
		},
	}
}

func listNICs(c *cli.Context) error {
	list, err := pci.ThisHost().NICs()
	if err != nil {
		return err
	}
	return show(c, list, func(w io.Writer, list []pci.NIC) {
		table(w, "ADDRESS NIC DRIVER INTERFACE NODE IOMMU LINK USABLE WHY", func(row func(cells ...any)) {
			for _, n := range list {
				name := n.Name
				if name == "" {
					name = fmt.Sprintf("%04x:%04x", n.Vendor, n.Device)
				}
				usable := "no"
				if n.Usable {
					usable = "yes"
				}
				row(n.Address, name, orDash(n.Driver), orDash(strings.Join(n.Interfaces, ",")), dashIfNegative(n.NUMANode), dashIfNegative(n.IOMMUGroup), orDash(n.Link), usable, orDash(n.Why))
			}
		})
	})
}

func dashIfNegative(n int) string {
	if n < 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// nicChange is what bind and unbind print.
type nicChange struct {
	Address string     `json:"address"`
	Steps   []pci.Step `json:"steps"`
	Done    bool       `json:"done"`
}

func bindNIC(c *cli.Context) error {
	driver, force := c.String("driver"), c.Bool("force")
	if driver != "vfio-pci" && driver != "uio_pci_generic" {
		return usagef("--driver must be vfio-pci or uio_pci_generic, not %q", driver)
	}
	return changeNIC(c, func(b pci.Binder, address string, preview bool) ([]pci.Step, error) {
		if preview {
			return b.PlanBind(address, driver, force)
		}
		return b.Bind(address, driver, force)
	})
}

func unbindNIC(c *cli.Context) error {
	return changeNIC(c, func(b pci.Binder, address string, preview bool) ([]pci.Step, error) {
		return b.Unbind(address, preview)
	})
}

// changeNIC gives a NIC another driver. It asks only by refusing what would cut somebody off (--force).
func changeNIC(c *cli.Context, do func(b pci.Binder, address string, preview bool) ([]pci.Step, error)) error {
	args, err := arguments(c, c.Command.ArgsUsage)
	if err != nil {
		return err
	}
	b := pci.Binder{Host: pci.ThisHost(), Record: pci.DefaultRecord}
	address, err := b.Host.Find(args[0])
	if err != nil {
		return err
	}
	steps, err := do(b, address, true)
	if err != nil {
		return err
	}
	return runChange(c, change.Change{
		Empty:   len(steps) == 0,
		Unasked: true,
		Show:    func(w io.Writer) { printSteps(w, address, steps) },
		Apply: func(context.Context, func(string)) (err error) {
			steps, err = do(b, address, false)
			return err
		},
		Report: func(w io.Writer, applied bool) {
			if applied {
				fmt.Fprintf(w, "%s: the driver is now %s\n", address, orDash(b.Host.NIC(address).Driver))
			}
		},
		Result: func(bool) any { return nicChange{address, steps, !c.Bool("dry-run")} },
	})
}

func printSteps(w io.Writer, address string, steps []pci.Step) {
	if len(steps) == 0 {
		fmt.Fprintf(w, "%s: nothing to do, already configured\n", address)
	}
	for _, s := range steps {
		fmt.Fprintln(w, s)
	}
}
