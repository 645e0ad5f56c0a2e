package main

import (
	"fmt"
	"io"
	"strings"

	"vhostkit/switchd/control"
)

// budgetsTable shows what guests and front-ends may take, of which half is or was in use.
func budgetsTable(w io.Writer, budgets []control.Budget) {
	var tight []control.Budget
	for _, b := range budgets {
		if b.Most >= b.Limit-b.Limit/2 && b.Most > 0 {
			tight = append(tight, b)
		}
	}
	if len(tight) == 0 {
		return
	}
	fmt.Fprintln(w)
	table(w, "BUDGET USED MOST LIMIT PER-USER BUSIEST-USER", func(row func(...any)) {
		for _, b := range tight {
			busiest := "-"
			if b.BusiestUser >= 0 {
				busiest = fmt.Sprintf("%d (%s)", b.BusiestUser, amount(b.Resource, b.BusiestUsed))
			}
			row(b.Resource, amount(b.Resource, b.Used), amount(b.Resource, b.Most), amount(b.Resource, b.Limit), amount(b.Resource, b.LimitPerUser), busiest)
		}
	})
}

// amount writes bytes of the resources that are memory in GiB.
func amount(resource string, n uint64) string {
	if strings.HasSuffix(resource, "memory") || resource == "address_space" {
		return fmt.Sprintf("%.1fGiB", float64(n)/(1<<30))
	}
	return fmt.Sprint(n)
}
