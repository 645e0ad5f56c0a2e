package main

// A room is a package, or with "/..." a package and all below it. The row whose path is longest is the one that counts. Tests may import
// whatever they need.
type room struct {
	path  string
	may   []string // what of this module it may import, beside what is below a "/..." of its own
	never []string // what of the standard library and of other modules it must do without, each with all below it
}

// io is what a package without input and output cannot need.
var io = []string{"os", "net", "syscall", "log", "io/fs", "golang.org/x/sys/unix"}

// plan says which way imports run: downwards. Rows are in the order of ARCHITECTURE.md's rooms.
var plan = []room{
	{"cmd/qemu-wrap", []string{"qemuwrap", "switchd/control", "templates", "internal/..."}, nil},
	{"cmd/switchd", []string{"switchd/...", "templates/...", "internal/..."}, nil},
	{"cmd/vhostctl/...", []string{"hugepages/...", "libvirt/...", "switchd/config", "switchd/control", "switchd/pci", "templates/...", "internal/..."}, nil},

	{"internal/...", nil, nil},
	{"templates/...", []string{"internal/..."}, nil},
	{"hugepages/...", []string{"templates/...", "internal/..."}, nil},
	{"hugepages/guests", []string{"hugepages/...", "libvirt", "libvirt/domainxml", "internal/..."}, nil},
	{"libvirt/...", []string{"qemuwrap", "switchd/control/...", "templates/...", "internal/..."}, nil},
	{"qemuwrap/...", []string{"switchd/control", "internal/..."}, nil},

	// Those that wire everything.
	{"switchd/daemon/...", []string{"switchd/...", "internal/..."}, nil},

	// Settings know nothing of the switch.
	{"switchd/config/...", []string{"internal/..."}, []string{"net/http"}},

	// Pure: what they decide depends on what they are given only.
	{"switchd/ether", nil, []string{"os", "syscall", "log", "golang.org/x/sys/unix"}},
	{"switchd/bridge/...", []string{"switchd/ether"}, io},
	{"switchd/policy/...", []string{"switchd/ether", "switchd/bridge"}, io},

	{"switchd/budget", nil, nil},
	{"switchd/eventfd", nil, nil},
	{"switchd/logging", []string{"internal/term"}, nil},
	{"switchd/ticks", nil, []string{"os", "net"}},
	{"switchd/unixsocket", []string{"internal/..."}, nil},
	{"switchd/foreign", []string{"switchd/budget"}, nil},
	{"switchd/guestmem", []string{"switchd/budget", "switchd/foreign"}, nil},
	{"switchd/virtio", []string{"switchd/guestmem", "switchd/control/names"}, []string{"os", "net", "log"}},

	// A device does not know who forwards, and the other way round: the daemon puts an adapter between them.
	{"switchd/vhost", []string{"switchd/budget", "switchd/foreign", "switchd/guestmem", "switchd/virtio", "switchd/control/names"}, []string{"net"}},
	{"switchd/vhost/...", []string{
		"switchd/budget", "switchd/foreign", "switchd/guestmem", "switchd/unixsocket", "switchd/virtio", "switchd/vhost/...", "switchd/control/names", "internal/...",
	}, nil},
	// No sockets, files, registers, libvirt or metrics.
	{"switchd/forward/...", []string{
		"switchd/bridge", "switchd/policy", "switchd/ether", "switchd/eventfd", "switchd/guestmem", "switchd/ticks", "switchd/uplink", "switchd/virtio",
	}, []string{"os", "net", "io/fs", "log"}},

	{"switchd/uplink", []string{"switchd/ether", "switchd/guestmem"}, []string{"os", "net"}},
	{"switchd/uplink/...", []string{"switchd/ether", "switchd/guestmem", "switchd/pci", "switchd/uplink", "switchd/uplink/...", "internal/..."}, nil},
	{"switchd/uplink/ixgbe/regs", nil, []string{"os", "net"}},
	{"switchd/pci/...", []string{"switchd/guestmem", "internal/..."}, nil},

	// Words that programs compare: those who speak them and those who listen have them from one place.
	{"switchd/control/names", nil, io},
	{"switchd/control/...", []string{"switchd/budget", "switchd/unixsocket", "internal/..."}, nil},

	{"test/...", []string{"cmd/...", "hugepages/...", "internal/...", "libvirt/...", "qemuwrap/...", "switchd/...", "templates/..."}, nil},
}

// outside says who may import another module; a module that is not named here may be imported by all. The row whose module is longest counts.
var outside = map[string][]string{
	"libvirt.org/go/libvirt":             {"libvirt"},
	"libvirt.org/go/libvirtxml":          {"libvirt/...", "hugepages/guests", "test/..."},
	"github.com/urfave/cli":              {"cmd/...", "templates/man"},
	"github.com/coreos/go-systemd":       {"switchd/daemon/..."},
	"github.com/prometheus":              {"switchd/metrics/..."},
	"golang.org/x/tools":                 {"test/lint"},
	"github.com/rogpeppe/go-internal":    {"internal/sysedit", "test/..."},
	"github.com/BurntSushi/toml":         {"switchd/config/...", "qemuwrap", "libvirt/...", "internal/..."},
	"github.com/hashicorp/go-multierror": {"hugepages/...", "libvirt/...", "switchd/...", "templates/...", "internal/..."},
}
