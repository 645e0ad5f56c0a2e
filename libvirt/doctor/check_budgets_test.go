package doctor

import (
	"strings"
	"testing"

	"vhostkit/switchd/control"
)

func TestBudgets(t *testing.T) {
	for _, test := range []struct {
		name string
		b    control.Budget
		want Status
		text string
	}{
		{"room", control.Budget{Used: 74, Limit: 100, Reserve: 12, LimitPerUser: 75, BusiestUser: 107, BusiestUsed: 60}, OK, ""},
		{"three quarters", control.Budget{Used: 75, Limit: 100, Reserve: 12, LimitPerUser: 75, BusiestUser: 107, BusiestUsed: 60}, Warn, "75 of 100"},
		{"but the reserve", control.Budget{Used: 88, Limit: 100, Reserve: 12, LimitPerUser: 75, BusiestUser: 107, BusiestUsed: 60}, Fail, "more are refused"},
		{"a user's share", control.Budget{Used: 75, Limit: 100, Reserve: 12, LimitPerUser: 75, BusiestUser: 107, BusiestUsed: 75}, Fail, "user 107 has 75 of the 75"},
		{"nobody", control.Budget{Used: 0, Limit: 100, Reserve: 12, LimitPerUser: 75, BusiestUser: -1}, OK, ""},
	} {
		test.b.Resource = "ports"
		r := checkBudgets(control.Stats{}, control.Stats{Budgets: []control.Budget{test.b}})
		if r.Status != test.want || !strings.Contains(r.Detail, test.text) || (r.Fix == "") != (test.want == OK) {
			t.Errorf("%s: %+v", test.name, r)
		}
	}
	if r := checkBudgets(control.Stats{}, control.Stats{}); r.Status != NotApplicable {
		t.Errorf("an older switchd: %+v", r)
	}
}
