package daemon

import (
	"log/slog"

	"vhostkit/switchd/budget"
	"vhostkit/switchd/config"
	"vhostkit/switchd/control"
	"vhostkit/switchd/forward"
)

// Limits makes the bounds of what foreigners may take, on this host. It is an error if the configuration does not fit.
func Limits(c config.Config) (budget.Limits, error) {
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
func newBudget(c config.Config, log *slog.Logger) (*budget.Budget, error) {
	limits, err := Limits(c)
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
