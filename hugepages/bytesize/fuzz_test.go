package bytesize

import (
	"strings"
	"testing"
)

// FuzzParse: a size that is taken is one that its own notation gives back, and lies between nothing and the maximum.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"1G", "2048kB", "16GiB", "18446744073709551616", "0x10", "1iB", "٣G", "72057594037927936", "65536T"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		size, err := Parse(text)
		if err != nil {
			if size != 0 || !strings.HasPrefix(err.Error(), "size ") {
				t.Fatalf("Parse(%q) = %d, %v", text, size, err)
			}
			return
		}
		if size == 0 || size > maximum {
			t.Fatalf("Parse(%q) = %d", text, size)
		}
		if again, err := Parse(size.String()); err != nil || again != size {
			t.Fatalf("Parse(%q) = %d, written %v, read %d %v", text, size, size, again, err)
		}
		for _, page := range []Size{4 * KiB, 2 * MiB, GiB} {
			if n := size.Pages(page); Size(n)*page < size || Size(n)*page-size >= page {
				t.Fatalf("%d bytes in %d pages of %v", size, n, page)
			}
		}
	})
}
