package daemon

import (
	"fmt"
	"strings"
)

// LegacyStats are a device's numbers as DPDK's vhost sample shows them, in frames.
type LegacyStats struct {
	Device                int
	TxTotal, TxSuccessful uint64
	RxTotal, RxSuccessful uint64
}

// FormatLegacyStats is the statistics screen of DPDK's vhost sample; clear makes the terminal begin at its top.
func FormatLegacyStats(devices []LegacyStats, clear bool) string {
	var b strings.Builder
	if clear {
		b.WriteString("\x1b[2J\x1b[1;1H")
	}
	b.WriteString("\nDevice statistics =================================\n")
	for _, d := range devices {
		fmt.Fprintf(&b, "Statistics for device %d\n-----------------------\n", d.Device)
		for _, line := range []struct {
			name  string
			count uint64
		}{
			{"TX total:", d.TxTotal}, {"TX dropped:", d.TxTotal - min(d.TxSuccessful, d.TxTotal)}, {"TX successful:", d.TxSuccessful},
			{"RX total:", d.RxTotal}, {"RX dropped:", d.RxTotal - min(d.RxSuccessful, d.RxTotal)}, {"RX successful:", d.RxSuccessful},
		} {
			fmt.Fprintf(&b, "%-22s %d\n", line.name, line.count)
		}
	}
	b.WriteString("===================================================\n")
	return b.String()
}
