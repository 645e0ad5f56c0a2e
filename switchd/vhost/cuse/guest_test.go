package cuse

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
)

// guest is memory of this process that stands for a guest's, at guest address base.
type guest struct {
	data []byte
	fd   int
	base uint64
}

const pageSize = 4096

// newGuest maps pages of a new memfd from a page of the file on.
func newGuest(t testing.TB, base uint64, pages, from int) *guest {
	t.Helper()
	fd, err := unix.MemfdCreate("cuse-test", unix.MFD_CLOEXEC)
	if err == nil {
		err = unix.Ftruncate(fd, int64(pages+from)*pageSize)
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := unix.Mmap(fd, int64(from)*pageSize, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Munmap(data)
		unix.Close(fd)
	})
	return &guest{data: data, fd: fd, base: base}
}

// at is the address of a byte in this process.
func (g *guest) at(offset int) uint64 { return uint64(guestmem.AddressOf(g.data)) + uint64(offset) }

func (g *guest) region() guestRegion { return guestRegion{g.base, uint64(len(g.data)), g.at(0)} }

// table is vhost_memory.
func table(regions ...guestRegion) []byte {
	b := words(uint32(len(regions)), 0)
	for _, r := range regions {
		for _, v := range []uint64{r.GuestPhysAddr, r.Size, r.UserAddr, 0} {
			b = binary.NativeEndian.AppendUint64(b, v)
		}
	}
	return b
}

// ringAddr is vhost_vring_addr of a ring of 16 descriptors at a page of the guest.
func (g *guest) ringAddr(index uint32, page int) []byte {
	b := words(index, 0)
	for _, offset := range []int{0, 1024, 512, 0} { // descriptors, used, available, log
		b = binary.NativeEndian.AppendUint64(b, g.at(page*pageSize+offset))
	}
	return b
}

func eventFD(t testing.TB) int {
	t.Helper()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// features that a modern guest's driver takes: VERSION_1, and the bit that says that the tap has no header.
func features() []byte {
	return binary.NativeEndian.AppendUint64(nil, 1<<32|1<<VHOST_NET_F_VIRTIO_NET_HDR)
}

// setUp says what QEMU says before it starts the rings, in its order.
func (k *kernel) setUp(handle uint64, g *guest) {
	k.t.Helper()
	k.ok(handle, VHOST_SET_OWNER, nil)
	k.ok(handle, VHOST_GET_FEATURES, nil)
	for i := range uint32(queues) {
		k.ok(handle, VHOST_SET_VRING_CALL, words(i, uint32(eventFD(k.t))))
	}
	k.start(handle, g)
}

// start is what QEMU says at each start of the guest's driver.
func (k *kernel) start(handle uint64, g *guest) {
	k.t.Helper()
	k.ok(handle, VHOST_SET_FEATURES, features())
	k.ok(handle, VHOST_SET_MEM_TABLE, table(g.region()))
	for i := range uint32(queues) {
		k.ok(handle, VHOST_SET_VRING_NUM, words(i, 16))
		k.ok(handle, VHOST_SET_VRING_BASE, words(i, 0))
		k.ok(handle, VHOST_SET_VRING_ADDR, g.ringAddr(i, int(i)))
		k.ok(handle, VHOST_SET_VRING_KICK, words(i, uint32(eventFD(k.t))))
	}
	for i := range uint32(queues) {
		k.ok(handle, VHOST_NET_SET_BACKEND, words(i, uint32(g.fd)))
	}
}

const noFD = ^uint32(0)
