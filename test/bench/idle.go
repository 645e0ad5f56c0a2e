package main

import (
	"context"
	"path/filepath"
	"time"

	"vhostkit/switchd/control"
)

// looks counts how often a switch has looked at its rings, and how often in vain. Only switchd tells.
type looks struct {
	all, empty uint64
	at         time.Time
}

func (c *contestant) looks(ctx context.Context) (l looks) {
	if c.peer.name != "switchd" {
		return l
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	stats, err := control.NewClient(filepath.Join(c.dir, "control")).Stats(ctx)
	if err != nil {
		return l
	}
	l.at = time.Now()
	for _, w := range stats.Workers {
		l.all += w.Polls
		l.empty += w.EmptyPolls
	}
	return l
}

// vain is how long a look in vain takes while the guests are there and send nothing. Under load it takes longer, because the lines that are
// looked at are on their way between the cores.
func (c *contestant) vain(ctx context.Context) time.Duration {
	before := c.looks(ctx)
	time.Sleep(30 * time.Millisecond)
	after := c.looks(ctx)
	if after.empty <= before.empty {
		return 0
	}
	return after.at.Sub(before.at) / time.Duration(after.empty-before.empty)
}

// idleSince is the share of the time since an earlier reading that went into looks in vain, at least.
func (l looks) idleSince(before looks, vain time.Duration) float64 {
	if l.empty <= before.empty || !l.at.After(before.at) {
		return 0
	}
	return min(1, float64(l.empty-before.empty)*float64(vain)/float64(l.at.Sub(before.at)))
}
