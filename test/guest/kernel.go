package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vhostkit/internal/atomicfile"
)

// CacheDir is where the set-up scripts and this package keep what is fetched or made once: VHOSTKIT_CACHE, or
// vhostkit in the user's cache directory. It need not exist.
func CacheDir() (string, error) {
	if dir := os.Getenv("VHOSTKIT_CACHE"); dir != "" {
		return dir, nil
	}
	base, err := os.UserCacheDir()
	if err != nil {
		return fmt.Sprintf("/var/tmp/vhostkit-%d", os.Getuid()), nil
	}
	return filepath.Join(base, "vhostkit"), nil
}

// Kernel is a guest kernel: a bzImage, or an ELF file with a PVH entry, and its lib/modules/VERSION directory.
type Kernel struct {
	Image   string
	Modules string
}

// FindKernel returns VHOSTKIT_KERNEL with VHOSTKIT_MODULES, or the kernel that test/setup/install.sh has fetched.
func FindKernel() (Kernel, error) {
	if image := os.Getenv("VHOSTKIT_KERNEL"); image != "" {
		k := Kernel{Image: image, Modules: os.Getenv("VHOSTKIT_MODULES")}
		if k.Modules == "" {
			return k, errors.New("VHOSTKIT_KERNEL is set but VHOSTKIT_MODULES is not: set it to that kernel's lib/modules/VERSION")
		}
		return k, nil
	}
	cache, err := CacheDir()
	if err != nil {
		return Kernel{}, err
	}
	dir := filepath.Join(cache, "kernel")
	modules, err := filepath.EvalSymlinks(filepath.Join(dir, "modules"))
	if err != nil {
		return Kernel{}, fmt.Errorf("no kernel for the guests in %s (%w): run test/setup/install.sh kernel", dir, err)
	}
	image, err := filepath.EvalSymlinks(filepath.Join(dir, "vmlinuz"))
	if err != nil {
		return Kernel{}, fmt.Errorf("no kernel for the guests in %s (%w): run test/setup/install.sh kernel", dir, err)
	}
	return Kernel{Image: image, Modules: modules}, nil
}

// unpackKernel returns the path of the ELF file inside the bzImage, made beside it at the first call. It halves the
// time to boot: an emulated processor takes seconds to decompress a kernel. If that fails for any reason, the bzImage
// boots as well, so its own path is returned.
func unpackKernel(image string) string {
	elf := image + ".elf"
	if from, err := os.Stat(image); err == nil {
		if to, err := os.Stat(elf); err == nil && !to.ModTime().Before(from.ModTime()) {
			return elf
		}
	}
	data, err := os.ReadFile(image)
	if err != nil {
		return image
	}
	payload, err := kernelPayload(data)
	if err != nil {
		return image
	}
	// The four bytes after the compressed stream make some tools fail at the end, with everything written.
	vmlinux, _ := decompress(payload)
	if size := binary.LittleEndian.Uint32(payload[len(payload)-4:]); int(size) != len(vmlinux) ||
		!bytes.HasPrefix(vmlinux, []byte("\x7fELF")) || !bytes.Contains(vmlinux, pvhNote) {
		return image
	}
	if err := atomicfile.Write(elf, vmlinux, 0o644); err != nil {
		return image
	}
	return elf
}

// pvhNote is the head of the ELF note XEN_ELFNOTE_PHYS32_ENTRY: without it QEMU cannot enter the ELF file.
var pvhNote = []byte("\x04\x00\x00\x00\x08\x00\x00\x00\x12\x00\x00\x00Xen\x00")

// kernelPayload returns the compressed kernel in a bzImage: the stream and, after it, its decompressed size in four
// bytes (Documentation/arch/x86/boot.rst in the kernel's sources, payload_offset and payload_length).
func kernelPayload(image []byte) ([]byte, error) {
	const setupSects, magic, payloadOffset, payloadLength = 0x1f1, 0x202, 0x248, 0x24c
	if len(image) < payloadLength+4 || string(image[magic:magic+4]) != "HdrS" {
		return nil, errors.New("not a bzImage")
	}
	sectors := uint64(image[setupSects])
	if sectors == 0 {
		sectors = 4
	}
	start := (sectors+1)*512 + uint64(binary.LittleEndian.Uint32(image[payloadOffset:]))
	end := start + uint64(binary.LittleEndian.Uint32(image[payloadLength:]))
	if end > uint64(len(image)) || end < start+8 {
		return nil, errors.New("the payload lies outside the bzImage")
	}
	return image[start:end], nil
}
