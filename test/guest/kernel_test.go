package guest

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// bzImage is the least that kernelPayload takes for one.
func bzImage(payload []byte) []byte {
	image := make([]byte, 5*512)
	image[0x1f1] = 4
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(image[0x248:], 16)
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(payload)))
	return append(append(image, make([]byte, 16)...), payload...)
}

func TestUnpackKernel(t *testing.T) {
	elf := append([]byte("\x7fELF.........."), pvhNote...)
	sized := func(data []byte, size int) []byte {
		return binary.LittleEndian.AppendUint32(bytes.Clone(data), uint32(size))
	}
	cut := bzImage(sized(elf, len(elf)))
	for name, c := range map[string]struct {
		image  []byte
		unpack bool
	}{
		"an ELF file with an entry":     {bzImage(sized(elf, len(elf)+4)), true},
		"the size does not match":       {bzImage(sized(elf, 1)), false},
		"no ELF file":                   {bzImage(sized([]byte("anything"), 8+4)), false},
		"no entry":                      {bzImage(sized([]byte("\x7fELF...."), 8+4)), false},
		"cut":                           {cut[:len(cut)-10], false},
		"no bzImage":                    {[]byte("short"), false},
		"damaged compressed data in it": {bzImage([]byte("\xfd7zXZ\x00.........")), false},
	} {
		path := filepath.Join(t.TempDir(), "vmlinuz")
		if err := os.WriteFile(path, c.image, 0o644); err != nil {
			t.Fatal(err)
		}
		want := path
		if c.unpack {
			want = path + ".elf"
		}
		for range 2 {
			if got := unpackKernel(path); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	}
}
