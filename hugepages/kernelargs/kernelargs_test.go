package kernelargs

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"vhostkit/hugepages/bytesize"
)

const base = 2 * bytesize.MiB

func guide(vms, small uint64) Wanted {
	return Wanted{Default: bytesize.GiB, Pools: []Pool{{Size: bytesize.GiB, Count: vms}, {Size: base, Count: small}}, Base: base}
}

func TestPlan(t *testing.T) {
	small := Wanted{Default: base, Pools: []Pool{{Size: base, Count: 512}}, Base: base}
	nodes := Wanted{Default: bytesize.GiB, Pools: []Pool{{Size: bytesize.GiB, Count: 3, Nodes: map[int]uint64{0: 2, 1: 1}}}, Base: base}
	exact := small
	exact.Exact = true
	for _, c := range []struct {
		line string
		want Wanted
		is   string
	}{
		{"", guide(4, 256), "default_hugepagesz=1G hugepagesz=1G hugepages=4 hugepagesz=2M hugepages=256"},
		{"quiet ", guide(4, 256), "quiet default_hugepagesz=1G hugepagesz=1G hugepages=4 hugepagesz=2M hugepages=256 "},
		{"quiet", small, "quiet hugepagesz=2M hugepages=512"},
		{"hugepages=256 quiet", small, "hugepagesz=2M hugepages=512 quiet"},
		{"hugepages=1024 quiet", small, "hugepages=1024 quiet"},
		{"hugepages=1024 quiet", exact, "hugepagesz=2M hugepages=512 quiet"},
		// What hung on the default size keeps its own.
		{"hugepages=64 quiet", nodes, "hugepagesz=2M hugepages=64 quiet default_hugepagesz=1G hugepagesz=1G hugepages=0:2,1:1"},
		{"default_hugepagesz=1G hugepages=2", guide(4, 256), "default_hugepagesz=1G hugepagesz=1G hugepages=4 hugepagesz=2M hugepages=256"},
		{"default_hugepagesz=1G hugepagesz=1G hugepages=8", guide(4, 256), "default_hugepagesz=1G hugepagesz=1G hugepages=8 hugepagesz=2M hugepages=256"},
		{"hugepagesz=1G hugepages=2 default_hugepagesz=2M x", guide(4, 1), "hugepagesz=1G hugepages=4 default_hugepagesz=1G x hugepagesz=2M hugepages=1"},
		{"default_hugepagesz=2M hugepages=7", guide(4, 1), "default_hugepagesz=1G hugepagesz=2M hugepages=7 hugepagesz=1G hugepages=4"},
		{"hugepagesz=2M quiet", small, "hugepagesz=2M hugepages=512 quiet"},
		// The same size again does not count.
		{"hugepagesz=2M hugepages=1 hugepagesz=2M hugepages=9000", small, "hugepagesz=2M hugepages=512 hugepagesz=2M hugepages=9000"},
		{"hugepagesz=1G hugepages=0:1,1:4", nodes, "hugepagesz=1G hugepages=0:2,1:4 default_hugepagesz=1G"},
		{"hugepagesz=1G hugepages=0:1,1:1", guide(5, 1), "hugepagesz=1G hugepages=0:3,1:2 default_hugepagesz=1G hugepagesz=2M hugepages=1"},
		{`dyndbg="a hugepages=9 b" hugepagesz=3X hugepages=5`, small, `dyndbg="a hugepages=9 b" hugepagesz=3X hugepages=5 hugepagesz=2M hugepages=512`},
	} {
		change, err := Plan(c.line, c.want)
		if err != nil {
			t.Errorf("%q: %v", c.line, err)
			continue
		}
		got := change.Apply(c.line)
		if got != c.is {
			t.Errorf("%q\n got %q\nwant %q", c.line, got, c.is)
		}
		if again, err := Plan(got, c.want); err != nil || !again.Empty() {
			t.Errorf("%q: a second time: %+v %v", got, again, err)
		}
	}
	if _, err := Plan("hugepagesz=1G hugepages=9", nodes); !errors.Is(err, ErrConflict) {
		t.Errorf("fewer pages by node than there are: %v", err)
	}
}

func TestRead(t *testing.T) {
	got := Read("ro hugepages=3 default_hugepagesz=1G hugepagesz=2M hugepages=0:1,1:2 -- hugepagesz=16G hugepages=1", base)
	want := Settings{Default: bytesize.GiB, Pools: []Pool{{Size: bytesize.GiB, Count: 3}, {Size: base, Count: 3, Nodes: map[int]uint64{0: 1, 1: 2}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// FuzzPlan: whatever a line says, its change makes it say what is wanted, lowers nothing, and touches no other parameter.
func FuzzPlan(f *testing.F) {
	for _, line := range []string{"quiet hugepages=3", "default_hugepagesz=1G hugepagesz=2M hugepages=1", "hugepages=0:1,1:2 hugepagesz=1G", `a="hugepages=1 ` + "\t"} {
		f.Add(line, uint16(3), uint16(7))
	}
	f.Fuzz(func(t *testing.T, line string, vms, small uint16) {
		w := guide(uint64(vms)+1, uint64(small)+1)
		if strings.Count(line, `"`)%2 != 0 {
			return // an open quote swallows what is added: callers refuse it by reading the result
		}
		before := Read(line, base)
		change, err := Plan(line, w)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(line, "--") && change.Add != "" {
			return
		}
		got := change.Apply(line)
		after := Read(got, base)
		if after.Default != bytesize.GiB {
			t.Fatalf("%q: default %v", got, after.Default)
		}
		for _, p := range append(w.Pools, before.Pools...) {
			if after.Pool(p.Size).Count < p.Count {
				t.Fatalf("%q → %q: %d pages of %v, want %d", line, got, after.Pool(p.Size).Count, p.Size, p.Count)
			}
		}
		if again, err := Plan(got, w); err != nil || !again.Empty() {
			t.Fatalf("%q → %q → %q, %v", line, got, again.Apply(got), err)
		}
		if a, b := others(line), others(got); a != b {
			t.Fatalf("other parameters changed: %q → %q", a, b)
		}
	})
}

// others is the line without its parameters about hugepages.
func others(line string) string {
	for {
		list := tokens(line)
		if len(list) == 0 {
			return strings.Join(strings.FieldsFunc(line, func(r rune) bool { return r < 128 && isSpace(byte(r)) }), " ")
		}
		line = line[:list[0].start] + line[list[0].end:]
	}
}
