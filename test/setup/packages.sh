# shellcheck shell=sh disable=SC2154
# Packages of the distribution; read by install.sh.

# Sets $manager to apt or dnf.
find_distribution() {
	if have apt-get; then
		manager=apt
	elif have dnf; then
		manager=dnf
	else
		die "neither apt-get nor dnf here: install the packages that $here/packages.sh names by hand"
	fi
}

# The package names of a profile, for $manager.
package_names() {
	if [ "$1" = bench ]; then
		case $manager in
		apt) echo dpdk dpdk-dev openvswitch-switch-dpdk iproute2 util-linux gcc libc6-dev make ca-certificates ;;
		dnf) echo dpdk openvswitch iproute util-linux gcc glibc-devel make ca-certificates ;;
		esac
		return 0
	fi
	case $manager in
	apt)
		echo qemu-system-x86 ipxe-qemu seabios busybox-static iproute2 kmod xz-utils zstd ca-certificates git make
		[ "$1" = test ] && echo dpdk dpdk-dev ethtool tcpdump gcc libc6-dev libvirt-daemon-system libvirt-clients \
			libvirt-daemon-driver-qemu apparmor debootstrap rpm binutils e2fsprogs systemd
		;;
	dnf)
		echo qemu-system-x86-core ipxe-roms-qemu seabios-bin busybox iproute kmod xz zstd ca-certificates git-core make cpio
		[ "$1" = test ] && echo dpdk ethtool tcpdump gcc glibc-devel libvirt-daemon libvirt-daemon-driver-qemu libvirt-client \
			rpm binutils e2fsprogs systemd
		;;
	esac
	return 0
}

installed() {
	case $manager in
	apt) [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
	dnf) rpm -q --whatprovides "$1" >/dev/null 2>&1 ;;
	esac
}

can_be_root() { [ "$(id -u)" = 0 ] || have sudo; }

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

# Installs those of the named packages that are missing.
add_packages() {
	missing=
	for p in "$@"; do
		installed "$p" || missing="$missing $p"
	done
	[ -n "$missing" ] || return 0
	can_be_root || die "these packages are missing:$missing; run this as root, or install sudo"
	say "installing$missing"
	log=$(mktemp)
	# $missing is split into words on purpose.
	# shellcheck disable=SC2086
	case $manager in
	apt)
		apt_update
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends $missing >"$log" 2>&1
		;;
	dnf) as_root dnf -q -y --setopt=install_weak_deps=False install $missing >"$log" 2>&1 ;;
	esac || {
		tail -n 5 "$log" >&2
		rm -f "$log"
		die "could not install:$missing (see the lines above)"
	}
	rm -f "$log"
}

# Refreshes apt's lists at most once a run.
apt_update() {
	[ -z "${apt_fresh:-}" ] && can_be_root || return 0
	as_root apt-get -qq -o DPkg::Lock::Timeout=120 update >/dev/null 2>&1 || say "apt-get update failed; going on with the lists that are there"
	apt_fresh=1
}

# What cgo needs.
install_compiler() {
	case $manager in
	apt) add_packages gcc libc6-dev ;;
	dnf) add_packages gcc glibc-devel ;;
	esac
}

install_packages() {
	# shellcheck disable=SC2046
	add_packages $(package_names "$1")
}
