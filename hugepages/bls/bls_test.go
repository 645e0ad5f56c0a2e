package bls

import (
	"errors"
	"testing"

	"vhostkit/hugepages/bytesize"
	"vhostkit/hugepages/kernelargs"
)

var guide = kernelargs.Wanted{Default: bytesize.GiB, Base: 2 * bytesize.MiB,
	Pools: []kernelargs.Pool{{Size: bytesize.GiB, Count: 4}, {Size: 2 * bytesize.MiB, Count: 256}}}

const added = "default_hugepagesz=1G hugepagesz=1G hugepages=4 hugepagesz=2M hugepages=256"

func TestEntry(t *testing.T) {
	for in, want := range map[string]string{
		"title F\nlinux /v\noptions root=/dev/sda ro\ngrub_users $grub_users\n": "title F\nlinux /v\noptions root=/dev/sda ro " + added + "\ngrub_users $grub_users\n",
		"linux /v\noptions root=/x $tuned_params":                               "linux /v\noptions root=/x $tuned_params " + added,
		"linux /v\r\noptions\troot=/x \r\n":                                     "linux /v\r\noptions\troot=/x " + added + " \r\n",
		"linux /v\noptions a hugepages=3\noptions b\n":                          "linux /v\noptions a hugepagesz=2M hugepages=256\noptions b default_hugepagesz=1G hugepagesz=1G hugepages=4\n",
		"linux /v\n":          "linux /v\noptions " + added + "\n",
		"linux /v":            "linux /v\noptions " + added + "\n",
		"linux /v\noptions\n": "linux /v\noptions " + added + "\n",
		"# options x\nefi /EFI/Linux/x.efi\noptions  a\n":                                  "# options x\nefi /EFI/Linux/x.efi\noptions  a " + added + "\n",
		"linux /v\noptions hugepagesz=1G\noptions hugepages=2 default_hugepagesz=1G x=y\n": "linux /v\noptions hugepagesz=1G\noptions hugepages=4 default_hugepagesz=1G x=y hugepagesz=2M hugepages=256\n",
	} {
		e, err := ParseEntry([]byte(in))
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		got, err := e.Change(guide)
		if err != nil || string(got) != want {
			t.Errorf("%q\n got %q %v\nwant %q", in, got, err, want)
			continue
		}
		after, err := ParseEntry(got)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := after.Change(guide); again != nil || err != nil {
			t.Errorf("%q a second time: %q %v", got, again, err)
		}
	}
	for _, in := range []string{"", "title x\n", "linux /v\noptions \x00\n"} {
		if _, err := ParseEntry([]byte(in)); !errors.Is(err, ErrUnparsable) {
			t.Errorf("%q: %v", in, err)
		}
	}
	e, err := ParseEntry([]byte("linux /v\noptions a=\"b\n"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Change(guide); !errors.Is(err, ErrUnparsable) {
		t.Errorf("an open quote: %v", err)
	}
}

func TestCommandLine(t *testing.T) {
	for in, want := range map[string]string{
		"root=/x quiet\n":            "root=/x quiet " + added + "\n",
		"root=/x quiet":              "root=/x quiet " + added,
		"# why\nroot=/x\n\nquiet \n": "# why\nroot=/x\n\nquiet " + added + " \n",
		"":                           added + "\n",
		"a\n# hugepages=9\n":         "a " + added + "\n# hugepages=9\n",
		"hugepages=1\r\n":            "hugepagesz=2M hugepages=256 default_hugepagesz=1G hugepagesz=1G hugepages=4\r\n",
	} {
		got, err := ChangeCommandLine([]byte(in), guide)
		if err != nil || string(got) != want {
			t.Errorf("%q\n got %q %v\nwant %q", in, got, err, want)
		}
		if again, err := ChangeCommandLine(got, guide); again != nil || err != nil {
			t.Errorf("%q a second time: %q %v", got, again, err)
		}
	}
}

func FuzzEntry(f *testing.F) {
	f.Add([]byte("title F\nlinux /v\noptions root=/dev/sda hugepages=1\noptions $tuned\r\n"))
	f.Add([]byte("efi x\noptions\t\noptions"))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := ParseEntry(data)
		if err != nil {
			return
		}
		check(t, data, e.Change, func(after []byte) (string, error) {
			e, err := ParseEntry(after)
			if err != nil {
				return "", err
			}
			return e.CommandLine(), nil
		})
	})
}

func FuzzCommandLine(f *testing.F) {
	f.Add([]byte("root=/x\n# hugepages=3\nhugepages=1 quiet \r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		check(t, data, func(w kernelargs.Wanted) ([]byte, error) { return ChangeCommandLine(data, w) }, CommandLine)
	})
}

func check(t *testing.T, data []byte, change func(kernelargs.Wanted) ([]byte, error), read func([]byte) (string, error)) {
	after, err := change(guide)
	if err != nil || after == nil {
		return
	}
	line, err := read(after)
	if err != nil {
		t.Fatalf("%q → %q: %v", data, after, err)
	}
	s := kernelargs.Read(line, guide.Base)
	if s.Default != bytesize.GiB || s.Pool(bytesize.GiB).Count < 4 || s.Pool(2*bytesize.MiB).Count < 256 {
		t.Fatalf("%q → %q says %+v", data, after, s)
	}
}
