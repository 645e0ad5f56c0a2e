package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

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
