package guestmem

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// sink keeps loads from being optimized away.
var sink uint64

func memfd(t *testing.T, size int64) int {
	t.Helper()
	fd, err := unix.MemfdCreate("guestmem-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Ftruncate(fd, size); err != nil {
		t.Fatal(err)
	}
	return fd
}

// mapped counts this process's mappings of the tests' files.
func mapped(t *testing.T) int {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(maps), "/memfd:guestmem-test")
}

func TestTranslate(t *testing.T) {
	fd := memfd(t, 0x10000)
	m, err := Map([]RegionSpec{
		{GuestPhysAddr: 0x4000, Size: 0x2000, UserAddr: 0x7f0000004000, MmapOffset: 0x1000, FD: fd},
		{GuestPhysAddr: 0x2000, Size: 0x2000, UserAddr: 0x7f0000100000, MmapOffset: 0x8800, FD: fd}, // ends where the other begins
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for _, c := range []struct{ addr, size, want uint64 }{
		{0x4000, 0x2000, 0x2000}, {0x5fff, 1, 1}, {0x5fff, 2, 1}, {0x6000, 1, 0}, {0x1fff, 1, 0}, {0x2000, 0x4000, 0x2000}, {0x3ff0, 0x20, 0x10},
		{0, 1, 0}, {^uint64(0), 1, 0}, {^uint64(0) - 1, 100, 0}, {0x4000, 0, 0}, {0x4000, ^uint64(0), 0x2000},
	} {
		var hint Hint
		for range 2 { // with a cold and a warm hint
			if _, n := m.Translate(c.addr, c.size, &hint); n != c.want {
				t.Errorf("Translate(%#x, %#x) gives %#x bytes, want %#x", c.addr, c.size, n, c.want)
			}
		}
	}
	var hint Hint
	p, _ := m.Translate(0x2000, 8, &hint)
	p.StoreU64(0x1122334455667788)
	var b [8]byte
	if _, err := unix.Pread(fd, b[:], 0x8800); err != nil || b[0] != 0x88 || b[7] != 0x11 {
		t.Errorf("the file has %x at the region's offset, %v", b, err)
	}
	if q, ok := m.User(0x7f0000100000, 8); !ok || q != p {
		t.Errorf("User gives %#x, %v; want %#x", q, ok, p)
	}
	for _, c := range []struct{ addr, size uint64 }{{0x7f0000101fff, 2}, {0x7f0000000000, 1}, {0x7f0000100000, ^uint64(0)}} {
		if _, ok := m.User(c.addr, c.size); ok {
			t.Errorf("User(%#x, %#x) is in no region", c.addr, c.size)
		}
	}
	if !m.Contains(p) || m.Contains(1) {
		t.Error("Contains is wrong about whose an address is")
	}
}

func TestMapRefuses(t *testing.T) {
	fd := memfd(t, 0x4000)
	first := RegionSpec{GuestPhysAddr: 0x1000, Size: 0x1000, UserAddr: 0x1000, FD: fd}
	for name, specs := range map[string][]RegionSpec{
		"empty":                {{GuestPhysAddr: 0, Size: 0, FD: fd}},
		"longer than the file": {{Size: 0x4001, FD: fd}},
		"offset past the file": {{Size: 0x1000, MmapOffset: 0x4000, FD: fd}},
		"guest address wraps":  {{GuestPhysAddr: ^uint64(0) - 10, Size: 0x1000, FD: fd}},
		"user address wraps":   {{UserAddr: ^uint64(0) - 10, Size: 0x1000, FD: fd}},
		"offset wraps":         {{Size: 0x1000, MmapOffset: ^uint64(0) - 10, FD: fd}},
		"guest overlap":        {first, {GuestPhysAddr: 0x1fff, Size: 0x1000, UserAddr: 0x8000, FD: fd}},
		"user overlap":         {first, {GuestPhysAddr: 0x8000, Size: 0x1000, UserAddr: 0x1800, FD: fd}},
		"no descriptor":        {{Size: 0x1000, FD: -1}},
	} {
		if _, err := Map(specs); !errors.Is(err, ErrRegion) {
			t.Errorf("%s: %v, want ErrRegion", name, err)
		}
	}
	if n := mapped(t); n != 0 {
		t.Errorf("%d mappings left behind by refused tables", n)
	}
}

func TestWithAndWithout(t *testing.T) {
	fd := memfd(t, 0x8000)
	one, err := Map([]RegionSpec{{GuestPhysAddr: 0, Size: 0x1000, UserAddr: 0x10000, FD: fd}})
	if err != nil {
		t.Fatal(err)
	}
	two, err := one.With(RegionSpec{GuestPhysAddr: 0x4000, Size: 0x1000, UserAddr: 0x20000, MmapOffset: 0x4000, FD: fd})
	if err != nil {
		t.Fatal(err)
	}
	one.Close()
	if n := mapped(t); n != 2 {
		t.Errorf("%d mappings, want 2", n)
	}
	if _, err := two.Without(0x4000, 0x20000, 0x2000); !errors.Is(err, ErrRegion) {
		t.Errorf("a region of another size was removed: %v", err)
	}
	three, err := two.Without(0, 0x10000, 0x1000)
	if err != nil {
		t.Fatal(err)
	}
	two.Close()
	if n, r := mapped(t), three.Regions(); n != 1 || len(r) != 1 || r[0].GuestPhysAddr != 0x4000 {
		t.Errorf("%d mappings, regions %+v", n, r)
	}
	three.Close()
	if n := mapped(t); n != 0 {
		t.Errorf("%d mappings after the last Close", n)
	}
}

// TestFaultIsContained: the file is truncated under the mapping; each way of touching it gives an error that names the address.
func TestFaultIsContained(t *testing.T) {
	fd := memfd(t, 0x4000)
	m, err := Map([]RegionSpec{{Size: 0x4000, FD: fd}})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	var hint Hint
	p, _ := m.Translate(0, 0x4000, &hint)
	buffer, err := NewBuffer(0x4000)
	if err != nil {
		t.Fatal(err)
	}
	defer buffer.Close()
	few, many := 64, 3000
	if fault := Contain(func() { p.StoreU64(1) }); fault != nil {
		t.Fatal(fault)
	}
	if err := unix.Ftruncate(fd, 0); err != nil {
		t.Fatal(err)
	}
	for name, f := range map[string]func(){
		"load":          func() { sink = p.LoadU64() },
		"acquiring":     func() { sink = uint64(p.LoadAcquireU32()) },
		"store":         func() { p.StoreU16(1) },
		"publishing":    func() { p.StoreReleaseU32(1) },
		"copy from":     func() { Copy(buffer.Addr(0), p+5, many) },
		"copy to":       func() { Copy(p+5, buffer.Addr(0), few) },
		"bytes":         func() { copy(make([]byte, 100), p.Bytes(100)) },
		"segments":      func() { ReadSegments(make([]byte, 10), []Segment{{p, 10}}, 0) },
		"another page ": func() { sink = uint64((p + 0x2000).LoadU16()) },
	} {
		fault := Contain(f)
		if fault == nil || !m.Contains(fault.Addr) {
			t.Errorf("%s: fault %v, want one in the region", name, fault)
		}
	}
}

func TestRecoveredPassesOtherPanicsOn(t *testing.T) {
	defer func() {
		if r := recover(); r != "a bug" {
			t.Errorf("recovered %v", r)
		}
	}()
	Contain(func() { panic("a bug") })
}

// TestSegmentsProperty compares the copying over arbitrary pieces with one over plain slices.
func TestSegmentsProperty(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 7))
	buffer, err := NewBuffer(1 << 16)
	if err != nil {
		t.Fatal(err)
	}
	defer buffer.Close()
	scatter := func(at, n int) (list []Segment) {
		for n > 0 {
			part := min(n, 1+rnd.IntN(n+3))
			list = append(list, Segment{buffer.Addr(at), uint32(part)})
			at += part + rnd.IntN(5) // with gaps
			n -= part
		}
		return list
	}
	for range 2000 {
		n := 1 + rnd.IntN(300)
		from, to := scatter(0, n), scatter(1<<15, n)
		want := make([]byte, n)
		for i := range want {
			want[i] = byte(rnd.Uint32())
		}
		WriteSegments(from, 0, want)
		srcOff, dstOff := rnd.IntN(n), rnd.IntN(n)
		count := rnd.IntN(n - max(srcOff, dstOff) + 1)
		before := make([]byte, n)
		ReadSegments(before, to, 0)
		CopySegments(to, dstOff, from, srcOff, count)
		got := make([]byte, n)
		ReadSegments(got, to, 0)
		copy(before[dstOff:], want[srcOff:srcOff+count])
		if !bytes.Equal(got, before) {
			t.Fatalf("copying %d bytes from %d to %d over %v and %v", count, srcOff, dstOff, from, to)
		}
	}
}
