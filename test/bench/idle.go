package main

import (
	"context"
	"path/filepath"
	"time"

	"vhostkit/switchd/control"
)

// looks counts how often a switch has looked at its rings, and how often in vain. Only switchd tells.
type looks struct{ all, empty uint64 }

func (c *contestant) idle(ctx context.Context) (l looks) {
	if c.peer.name != "switchd" {
		return l
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	stats, err := control.NewClient(filepath.Join(c.dir, "control")).Stats(ctx)
	if err != nil {
		return l
	}
	for _, w := range stats.Workers {
		l.all += w.Polls
		l.empty += w.EmptyPolls
	}
	return l
}

// since is the share of looks in vain between two readings.
func (l looks) since(before looks) float64 {
	if l.all <= before.all {
		return 0
	}
	return float64(l.empty-before.empty) / float64(l.all-before.all)
}
