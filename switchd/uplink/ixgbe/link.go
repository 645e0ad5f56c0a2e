package ixgbe

import (
	"fmt"
	"time"

	"vhostkit/switchd/uplink"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// linkRetry is how often a link that does not come up is started again: some modules need it.
const linkRetry = 2 * time.Second

// startLink sets the link to 10 gigabit over SFI, switches the laser on, and starts the link (4.6.4.2, 8.2.3.22.19).
func (n *NIC) startLink() {
	n.clear(regs.ESDP, regs.ESDP_SDP3)
	v := n.r.Read32(regs.AUTOC2) &^ regs.AUTOC2_10G
	n.r.Write32(regs.AUTOC2, v|regs.AUTOC2_10G_SFI)
	v = n.r.Read32(regs.AUTOC) &^ regs.AUTOC_LMS
	n.r.Write32(regs.AUTOC, v|regs.AUTOC_LMS_10G|regs.AUTOC_RESTART)
	n.linkTry = time.Now()
}

// Link tells what the NIC last said of its link.
func (n *NIC) Link() (uplink.Link, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.state == closed {
		return uplink.Link{}, uplink.ErrNoDevice
	}
	if n.state == running {
		n.watchLink()
	}
	if n.state == gone {
		return uplink.Link{}, fmt.Errorf("%w: %s disappeared from the PCI bus", uplink.ErrNoDevice, n.Name())
	}
	return uplink.Link{Up: true, Carrier: n.carrier.Load(), MTU: n.config.mtu()}, nil
}

// watchLink looks at the link, tells of changes, and starts one again that stays away. The NIC's own switch needs no wire: with it, frames
// are handed over without a link, too. The caller holds mu, and not the rings.
func (n *NIC) watchLink() {
	links := n.r.Read32(regs.LINKS)
	if links == allOnes && n.r.Read32(regs.STATUS) == allOnes {
		n.lose()
		return
	}
	up := links&regs.LINKS_UP != 0
	if was := n.carrier.Swap(up); was != up {
		n.tellWorkers()
		if up {
			n.log.Info("link up", "speed", linkSpeed(links))
		} else {
			n.log.Warn("link down; check the cable, the module and the other side. The switch tries again by itself", "retry", linkRetry)
			n.linkTry = time.Now()
		}
	}
	if !up && time.Since(n.linkTry) >= n.linkPatience() {
		n.startLink()
	}
}

// linkPatience is linkRetry, or less if the watchdog looks more often than every second.
func (n *NIC) linkPatience() time.Duration { return 2 * min(n.interval(), linkRetry/2) }

func linkSpeed(links uint32) string {
	switch links & regs.LINKS_SPEED {
	case regs.LINKS_SPEED_10G:
		return "10G"
	case 2 << 28:
		return "1G"
	case 1 << 28:
		return "100M"
	}
	return "unknown"
}
