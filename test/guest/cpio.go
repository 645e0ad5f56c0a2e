package guest

import (
	"fmt"
	"io"
)

// cpioWriter writes an archive in the "newc" format, which the kernel takes as an initramfs
// (Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's sources).
type cpioWriter struct {
	w       io.Writer
	inode   uint32
	written int64
	err     error
}

const (
	cpioDirectory = 0o040000
	cpioRegular   = 0o100000
	cpioSymlink   = 0o120000
	cpioCharacter = 0o020000
)

// entry is one file of the archive. Directories must come before what is in them.
type entry struct {
	name         string // relative, without a leading slash
	mode         uint32 // type and permissions
	data         []byte // contents, or the target of a symbolic link
	major, minor uint32 // of a device
}

func (c *cpioWriter) add(e entry) {
	c.inode++
	links := 1
	if e.mode&cpioDirectory != 0 && e.mode&cpioRegular != cpioRegular {
		links = 2
	}
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		c.inode, e.mode, 0, 0, links, 0, len(e.data), 0, 0, e.major, e.minor, len(e.name)+1, 0)
	c.put([]byte(header))
	c.put([]byte(e.name + "\x00"))
	c.pad()
	c.put(e.data)
	c.pad()
}

func (c *cpioWriter) close() error {
	c.inode = 0
	c.add(entry{name: "TRAILER!!!"})
	return c.err
}

func (c *cpioWriter) put(p []byte) {
	if c.err != nil || len(p) == 0 {
		return
	}
	n, err := c.w.Write(p)
	c.written += int64(n)
	c.err = err
}

func (c *cpioWriter) pad() {
	if rest := c.written % 4; rest != 0 {
		c.put(make([]byte, 4-rest))
	}
}
