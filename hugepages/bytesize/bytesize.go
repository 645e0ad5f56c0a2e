// Package bytesize reads and writes amounts of memory the way the kernel, libvirt and people do.
package bytesize

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is an amount of memory in bytes.
type Size uint64

// Units, powers of 1024.
const (
	KiB Size = 1 << 10
	MiB Size = 1 << 20
	GiB Size = 1 << 30
	TiB Size = 1 << 40
)

// maximum keeps sums of a few sizes below 2^64.
const maximum = 1 << 56

// Parse reads a number with one of the units K, M, G, T (powers of 1024, any case, also KiB and KB); without a unit it is bytes, as the
// kernel reads it. It must be above zero.
func Parse(text string) (Size, error) {
	digits := strings.TrimRight(text, "kKmMgGtTiIbB")
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("size %q: want a number with K, M, G or T, such as 4G", text)
	}
	unit := strings.TrimSuffix(strings.TrimSuffix(strings.ToUpper(text[len(digits):]), "B"), "I")
	factors := map[string]Size{"": 1, "K": KiB, "M": MiB, "G": GiB, "T": TiB}
	factor, ok := factors[unit]
	if !ok {
		return 0, fmt.Errorf("size %q: want a number with K, M, G or T, such as 4G", text)
	}
	if n == 0 {
		return 0, fmt.Errorf("size %q: want more than nothing", text)
	}
	if n > math.MaxUint64/uint64(factor) || n*uint64(factor) > maximum {
		return 0, fmt.Errorf("size %q: too large", text)
	}
	return Size(n) * factor, nil
}

// String is the largest unit that leaves no rest: 1G, 2M, 1536M. The kernel's command line and mount options take it.
func (s Size) String() string {
	for _, u := range []struct {
		size Size
		name string
	}{{TiB, "T"}, {GiB, "G"}, {MiB, "M"}, {KiB, "K"}} {
		if s >= u.size && s%u.size == 0 {
			return fmt.Sprintf("%d%s", s/u.size, u.name)
		}
	}
	return strconv.FormatUint(uint64(s), 10)
}

// Pages is how many pages of that size hold s.
func (s Size) Pages(page Size) uint64 { return uint64((s + page - 1) / page) }
