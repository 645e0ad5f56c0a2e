package daemon

import (
	"strings"
	"testing"
)

func TestFormatLegacyStats(t *testing.T) {
	devices := []LegacyStats{{Device: 0, TxTotal: 10, TxSuccessful: 7, RxTotal: 5, RxSuccessful: 5}, {Device: 12, TxTotal: 1, TxSuccessful: 3}}
	const want = `
Device statistics =================================
Statistics for device 0
-----------------------
TX total:              10
TX dropped:            3
TX successful:         7
RX total:              5
RX dropped:            0
RX successful:         5
Statistics for device 12
-----------------------
TX total:              1
TX dropped:            0
TX successful:         3
RX total:              0
RX dropped:            0
RX successful:         0
===================================================
`
	if got := FormatLegacyStats(devices, false); got != want {
		t.Errorf("screen:\n%s\nwant:\n%s", got, want)
	}
	if got := FormatLegacyStats(nil, true); !strings.HasPrefix(got, "\x1b[2J\x1b[1;1H\nDevice statistics") {
		t.Errorf("on a terminal: %q", got)
	}
	if got := FormatLegacyStats(nil, false); strings.Contains(got, "\x1b") {
		t.Errorf("not on a terminal: %q", got)
	}
}
