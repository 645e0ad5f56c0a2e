package ixgbe

import (
	"fmt"
	"time"

	"github.com/hashicorp/go-multierror"

	"vhostkit/switchd/uplink/ixgbe/regs"
)

// How long the NIC may take for what it is told. The datasheet's figures are far below.
const (
	patience   = 100 * time.Millisecond
	resetTime  = 10 * time.Millisecond // after a reset, before anything is touched (4.2.1.6.1)
	queueDrain = 100 * time.Microsecond
)

// allOnes is what a register reads as if nobody answers.
const allOnes = 0xffffffff

// await polls a register until the bits under mask are as wanted.
func (n *NIC) await(offset, mask, want uint32, limit time.Duration) error {
	for end := time.Now().Add(limit); ; time.Sleep(50 * time.Microsecond) {
		v := n.r.Read32(offset)
		if v&mask == want {
			return nil
		}
		if v == allOnes {
			return fmt.Errorf("register %s reads 0xffffffff: the NIC disappeared from the PCI bus", regs.Name(offset))
		}
		if time.Now().After(end) {
			return fmt.Errorf("register %s is %#x after %v: bits %#x should be %#x; the device hangs: reset it, or power it off and on",
				regs.Name(offset), v, limit, mask, want)
		}
	}
}

func (n *NIC) set(offset, bits uint32)   { n.r.Write32(offset, n.r.Read32(offset)|bits) }
func (n *NIC) clear(offset, bits uint32) { n.r.Write32(offset, n.r.Read32(offset)&^bits) }

// restart takes the NIC from any state to forwarding. If it does not get there, a reset of the whole function may help. between is called once
// when it has stopped, before a reset lets it forget what it counted; nil: nothing. The caller holds mu, or is the only one to know the NIC.
func (n *NIC) restart(between func()) error {
	err := n.bringUp(between)
	if err == nil || n.r.Read32(regs.STATUS) == allOnes {
		return err
	}
	if reset := n.dev.Reset(); reset != nil {
		return multierror.Append(err, fmt.Errorf("a function-level reset in its place: %w", reset))
	}
	n.log.Warn("the NIC did not come up; its whole function was reset, and it is tried once more", "error", err)
	return n.bringUp(nil)
}

// bringUp resets the NIC and sets it up (4.6.3). What was configured before is configured again. It may reach memory only from the reset on.
func (n *NIC) bringUp(between func()) error {
	if err := n.command(pciMemory, 0); err != nil {
		return err
	}
	n.forgetChecks()
	if err := n.halt(between); err != nil {
		return err
	}
	if err := n.command(pciMaster, 0); err != nil {
		return err
	}
	n.maskInterrupts()
	for _, w := range []struct{ offset, bit uint32 }{{regs.EEC, regs.EEC_ARD}, {regs.RDRXCTL, regs.RDRXCTL_DMAIDONE}} {
		if err := n.await(w.offset, w.bit, w.bit, patience); err != nil {
			return err
		}
	}
	n.startLink()
	n.clearStatistics()
	n.clearTables()
	n.setReceive()
	n.setPools()
	n.setTransmit()
	if err := n.startReceive(); err != nil {
		return err
	}
	if err := n.startRings(); err != nil {
		return err
	}
	n.setFilters()
	n.set(regs.CTRL_EXT, regs.CTRL_EXT_DRV_LOAD)
	return nil
}

func (n *NIC) maskInterrupts() {
	n.r.Write32(regs.EIMC, 0x7fffffff)
	n.r.Write32(regs.EIMC_EX(0), 0xffffffff)
	n.r.Write32(regs.EIMC_EX(1), 0xffffffff)
	n.r.Read32(regs.EICR)
}

// halt stops the NIC and resets it. One that does not stop is what a reset is for: twice then, because what is under way on the bus may outlive
// the first (5.2.5.3.2).
func (n *NIC) halt(between func()) error {
	stopped := n.quiesce()
	if between != nil {
		between()
	}
	err := n.reset()
	if stopped != nil {
		n.log.Warn("the NIC does not stop by itself; it is reset all the same", "error", stopped)
		err = n.reset()
	}
	return err
}

// quiesce stops reception, the queues and the NIC's access to memory (5.2.5.3.2).
func (n *NIC) quiesce() error {
	n.maskInterrupts()
	n.clear(regs.RXCTRL, regs.RXCTRL_RXEN)
	var running []uint32
	for q := range regs.RXQueues {
		if n.r.Read32(regs.RXDCTL(q))&regs.RXDCTL_ENABLE != 0 {
			n.clear(regs.RXDCTL(q), regs.RXDCTL_ENABLE)
			running = append(running, regs.RXDCTL(q))
		}
	}
	result := &multierror.Error{}
	for _, control := range running {
		if err := n.await(control, regs.RXDCTL_ENABLE, 0, patience); err != nil {
			result = multierror.Append(result, err) // the others have had their time by now
			break
		}
	}
	time.Sleep(queueDrain)
	n.set(regs.CTRL, regs.CTRL_GIO_DIS)
	return multierror.Append(result, n.await(regs.STATUS, regs.STATUS_GIO, 0, patience)).ErrorOrNil()
}

// reset resets all but the PCI registers, and the link with them (4.2.1.6).
func (n *NIC) reset() error {
	n.set(regs.CTRL, regs.CTRL_RST|regs.CTRL_LRST)
	time.Sleep(time.Millisecond)
	if err := n.await(regs.CTRL, regs.CTRL_RST, 0, patience); err != nil {
		return err
	}
	time.Sleep(resetTime)
	n.clear(regs.CTRL, regs.CTRL_GIO_DIS)
	return nil
}

// startReceive opens the way from the wire (4.6.7). The queues come later, each when its pool is first used.
func (n *NIC) startReceive() error {
	n.set(regs.SECRXCTRL, regs.SECRXCTRL_RX_DIS)
	if err := n.await(regs.SECRXSTAT, regs.SECRXSTAT_RDY, regs.SECRXSTAT_RDY, patience); err != nil {
		return err
	}
	n.set(regs.RXCTRL, regs.RXCTRL_RXEN)
	n.clear(regs.SECRXCTRL, regs.SECRXCTRL_RX_DIS)
	return nil
}
