package qemuwrap

import "strings"

// option is one option of a command line with its value, or one argument that is no option (a disk image).
type option struct {
	name   string   // without dashes; empty for an argument that is no option
	tokens []string // as they came: the option, and its value if it takes one
}

// withoutValue are the options of QEMU 1.x to 11 that take no value. All others take the next argument, whatever it looks like.
var withoutValue = setOf(`h help version nodefaults nodefconfig no-user-config nographic S s daemonize snapshot no-reboot no-shutdown
	enable-kvm no-kvm no-kvm-irqchip no-kvm-pit no-kvm-pit-reinjection mem-prealloc no-hpet no-acpi usb full-screen no-frame
	alt-grab ctrl-grab no-quit sdl curses portrait win2k-hack no-fd-bootchk rtc-td-hack singlestep one-insn-per-tb localtime
	old-param semihosting only-migratable preconfig enable-fips enable-sync-profile show-cursor xen-attach xen-domid-restrict async-teardown
	no-virtio-balloon`)

func setOf(words string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(words) {
		set[w] = true
	}
	return set
}

// parse takes a command line (without the program's name) apart. Joining all tokens again gives it back.
func parse(args []string) []option {
	var list []option
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' {
			list = append(list, option{tokens: args[i : i+1 : i+1]})
			continue
		}
		name := strings.TrimPrefix(a[1:], "-") // QEMU takes one dash or two
		n := 2
		if withoutValue[name] || i+1 == len(args) {
			n = 1
		}
		list = append(list, option{name: name, tokens: args[i : i+n : i+n]})
		i += n - 1
	}
	return list
}

// join is the opposite of parse.
func join(list []option) []string {
	var args []string
	for _, o := range list {
		args = append(args, o.tokens...)
	}
	return args
}

// value is the option's value, "" if it has none.
func (o *option) value() string {
	if len(o.tokens) < 2 {
		return ""
	}
	return o.tokens[1]
}

// setValue replaces the value. Tokens are never changed in place: they may be the caller's.
func (o *option) setValue(v string) { o.tokens = []string{o.tokens[0], v} }

func newOption(name, value string) option {
	return option{name: name, tokens: []string{"-" + name, value}}
}

// is tells whether the option has one of these names and a value.
func (o *option) is(names ...string) bool {
	for _, n := range names {
		if o.name == n && len(o.tokens) == 2 {
			return true
		}
	}
	return false
}

// listsChoices are the options that answer "help" with what they could be.
var listsChoices = setOf(`machine M cpu accel device netdev net nic object chardev drive blockdev display vga soundhw audiodev audio d trace
	watchdog tpmdev sandbox monitor serial global set`)

// isProbe tells whether somebody only wants to know what this QEMU can do: libvirt at its first contact, or a person. Such a call passes
// as it is.
func isProbe(list []option) bool {
	for _, o := range list {
		switch o.name {
		case "h", "help", "version":
			return true
		case "machine", "M":
			if v := o.value(); v == "none" || strings.HasPrefix(v, "none,") || strings.HasPrefix(v, "type=none") {
				return true
			}
		}
		if v := o.value(); listsChoices[o.name] && (v == "help" || v == "?" || strings.HasSuffix(v, ",help") || strings.HasSuffix(v, ",?")) {
			return true
		}
	}
	return len(list) == 0
}
