package forward

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/switchd/guestmem"
	"vhostkit/switchd/virtio"
)

// TestOwnFault: a fault in memory of the switch's own, such as the ring journal whose file was truncated, stops no port: the ring goes on.
func TestOwnFault(t *testing.T) {
	page := unix.Getpagesize()
	fd, err := unix.MemfdCreate("journal", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	own, err := unix.Mmap(fd, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED) // of an empty file
	if err != nil {
		t.Fatal(err)
	}
	first := guestmem.AddressOf(own)
	s := startSwitch(t, Config{Cores: []int{-1}, Replace: func(at guestmem.Ptr) bool {
		return at >= first && at < first+guestmem.Ptr(page) && unix.Ftruncate(fd, int64(page)) == nil
	}})
	g := newGuest(t, s, 16)
	failed := make(chan error, 1)
	if g.port, err = s.AddPort(func(err error) { failed <- err }); err != nil {
		t.Fatal(err)
	}
	f := rigFeatures | virtio.Bits(virtio.VIRTIO_F_RING_PACKED)
	desc := g.tx.desc
	clear(desc.Bytes(0x10000))
	q, err := virtio.NewQueue(virtio.Config{
		Size: 16, Features: f, Desc: desc, Driver: g.tx.avail, Device: g.tx.used, Memory: g.memory, State: virtio.State{AvailWrap: true},
		Kick: -1, Call: -1, Journal: first,
	})
	if err != nil {
		t.Fatal(err)
	}
	g.port.Update([]*virtio.Queue{nil, q}, f, g.memory)
	for i := range guestmem.Ptr(3) {
		at := desc + 16*i
		at.StoreU64(rigMemory/2 + 0x10000)
		(at + 8).StoreReleaseU64(64 + rigHeader | uint64(i)<<32 | 1<<55) // AVAIL at wrap counter 1
		for end := time.Now().Add(10 * time.Second); (at+8).LoadAcquireU64()>>63 == 0; time.Sleep(time.Millisecond) {
			select {
			case err := <-failed:
				t.Fatalf("buffer %d: the port was stopped: %v", i, err)
			default:
			}
			if time.Now().After(end) {
				t.Fatalf("buffer %d does not come back", i)
			}
		}
	}
	select {
	case err := <-failed:
		t.Fatalf("the port was stopped: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
}
