package control

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestUplinkCounters: a counter reaches clients that know the list and those that know fields only; a client understands a switchd without list.
func TestUplinkCounters(t *testing.T) {
	var u UplinkStats
	u.SetCounters([]Counter{{Name: "full", Help: "no room", Lost: true, Value: 7}, {Name: "wire_rx", Value: 8}, {Name: "new", Help: "h", Value: 9}})
	if u.Full != 7 || u.WireRX != 8 || len(u.AllCounters()) != 3 {
		t.Errorf("%+v", u)
	}
	text, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"full":7`, `"wire_rx":8`, `{"name":"full","help":"no room","lost":true,"value":7}`, `{"name":"new","help":"h","value":9}`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	var old UplinkStats
	if err := json.Unmarshal([]byte(`{"name":"x","full":3,"spoofed":4,"wire_tx":5}`), &old); err != nil {
		t.Fatal(err)
	}
	got := map[string]Counter{}
	for _, c := range old.AllCounters() {
		got[c.Name] = c
	}
	if len(got) != 11 || !got["full"].Lost || got["full"].Value != 3 || got["spoofed"].Value != 4 || got["wire_tx"].Lost || got["wire_tx"].Value != 5 {
		t.Errorf("%+v", got)
	}
}
