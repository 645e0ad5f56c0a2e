package switchd

import (
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/control"
	"vhostkit/switchd/forward"
)

// legacyQueuePairs is --max-queue-pairs of the old command lines, which have no such option.
const legacyQueuePairs = 8

// LegacyDefaults is what holds for the old command lines where the configuration file does not say otherwise.
func LegacyDefaults() Config {
	c := DefaultConfig()
	c.MaxQueuePairs = legacyQueuePairs
	return c
}

// ByteSize is a number of bytes, written with K, M, G or T for powers of 1024.
type ByteSize uint64

// Set reads it.
func (b *ByteSize) Set(s string) error {
	digits, unit := s, uint64(1)
	if i := strings.IndexAny("KMGT", strings.ToUpper(s[max(0, len(s)-1):])); s != "" && i >= 0 {
		digits, unit = s[:len(s)-1], 1<<(10*(i+1))
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return fmt.Errorf("%q: want a number of bytes such as 512M, 64G or 1T", s)
	}
	*b = ByteSize(n * unit)
	return nil
}

func (b ByteSize) String() string {
	for i := 4; i > 0; i-- {
		if unit := ByteSize(1) << (10 * i); b > 0 && b%unit == 0 {
			return fmt.Sprintf("%d%c", b/unit, "KMGT"[i-1])
		}
	}
	return strconv.FormatUint(uint64(b), 10)
}

// UnmarshalTOML reads a number or text.
func (b *ByteSize) UnmarshalTOML(v any) error {
	if err := b.Set(fmt.Sprint(v)); err != nil {
		return fmt.Errorf("max-guest-memory = %w", err)
	}
	return nil
}

// Limits makes the bounds of what foreigners may take, on this host. It is an error if the configuration does not fit.
func (c *Config) Limits() (budget.Limits, error) {
	host, err := budget.ThisHost()
	if err != nil {
		return budget.Limits{}, err
	}
	limits, err := budget.For(host, budget.Sizes{Ports: c.MaxPorts, QueuePairs: c.MaxQueuePairs, GuestMemory: uint64(c.MaxGuestMemory)})
	if err != nil {
		return limits, err
	}
	limits[budget.Ports].Total = min(limits[budget.Ports].Total, forward.MaxPorts)
	return limits, nil
}

// newBudget opens the books. Three quarters of anything gone is worth a line in the log.
func newBudget(c *Config, log *slog.Logger) (*budget.Budget, error) {
	limits, err := c.Limits()
	if err != nil {
		return nil, err
	}
	return budget.New(limits, func(u budget.Usage) {
		log.Warn("three quarters of what guests and front-ends may take are gone; see vhostctl doctor", "resource", u.Resource.String(),
			"used", u.Used, "limit", u.Limit, "busiest_user", u.BusiestUser, "of_that_user", u.BusiestUsed)
	}), nil
}

func budgets(b *budget.Budget) []control.Budget {
	var list []control.Budget
	for _, u := range b.Usage() {
		list = append(list, control.Budget{
			Resource: u.Resource.String(), Used: u.Used, Most: u.Most, Limit: u.Limit, Reserve: u.Reserve, LimitPerUser: u.LimitPerUser,
			LimitPerDevice: u.LimitPerDevice, BusiestUser: u.BusiestUser, BusiestUsed: u.BusiestUsed,
		})
	}
	return list
}
