package doctor

import (
	"fmt"

	"vhostkit/switchd/control"
)

// widen says how to make more room for a resource.
var widen = map[string]string{
	"ports":         "raise --max-ports of switchd",
	"connections":   "raise --max-ports of switchd",
	"requests":      "see who asks so much: ss -xp | grep vhostkit",
	"descriptors":   "systemctl edit switchd   # LimitNOFILE=, and --max-ports, --max-queue-pairs",
	"threads":       "see switchd's log for processes that make it wait",
	"mappings":      "sysctl vm.max_map_count=262144   # and restart switchd",
	"address_space": "lower --max-guest-memory of switchd",
	"guest_memory":  "raise --max-guest-memory of switchd, or start fewer guests",
}

// checkBudgets looks at what guests and front-ends may make the switch take.
func checkBudgets(_, after control.Stats) Result {
	if len(after.Budgets) == 0 {
		return notApplicable("this switchd has no budgets")
	}
	all := []Result{ok("%d resources", len(after.Budgets))}
	for _, b := range after.Budgets {
		who := ""
		if b.BusiestUser >= 0 {
			who = fmt.Sprintf("; user %d has %d of the %d that one user may have", b.BusiestUser, b.BusiestUsed, b.LimitPerUser)
		}
		detail := fmt.Sprintf("%s: %d of %d are used%s", b.Resource, b.Used, b.Limit, who)
		switch {
		case b.Used >= b.Limit-min(b.Reserve, b.Limit), b.BusiestUser >= 0 && b.BusiestUsed >= b.LimitPerUser:
			all = append(all, fail(widen[b.Resource], "%s: more are refused", detail))
		case b.Used >= b.Limit-b.Limit/4:
			all = append(all, warn(widen[b.Resource], "%s", detail))
		}
	}
	return merge(all...)
}
