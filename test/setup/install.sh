#!/bin/sh
# Installs what vhostkit's demo or tests need on this machine and prints nothing if all is there.
#
#   test/setup/install.sh demo    QEMU, busybox, iproute2, a guest kernel in the cache, Go
#   test/setup/install.sh test    the same, and DPDK's testpmd, libvirt, ethtool, tcpdump
#   test/setup/install.sh bench   DPDK and Open vSwitch, for the comparison
#   test/setup/install.sh kernel  only the guest kernel in the cache
#   test/setup/install.sh go      only Go, and gcc for vhostctl's binding to libvirt
#
# Debian 12 and 13, Ubuntu 24.04 (apt) and Fedora (dnf). As a user it asks sudo for the packages only.
# VHOSTKIT_CACHE       where fetched things are kept (default: $XDG_CACHE_HOME/vhostkit or ~/.cache/vhostkit)
# VHOSTKIT_KERNEL      a kernel to use for the guests instead; needs VHOSTKIT_MODULES, its lib/modules/VERSION
# VHOSTKIT_GO          a Go command to use instead of the one found
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
. "$here/packages.sh"
. "$here/kernel.sh"
. "$here/golang.sh"

PATH=$PATH:/usr/sbin:/sbin:/usr/local/go/bin
export PATH

main() {
	profile=${1:-demo}
	case $profile in
	demo | test | kernel | go | bench) ;;
	-h | --help | help)
		sed -n '2,13s/^# \{0,1\}//p' "$0"
		exit 0
		;;
	*) die "unknown profile '$profile': use demo, test, bench, kernel or go" ;;
	esac
	[ "$(uname -s)" = Linux ] || die "vhostkit runs on Linux only, this is $(uname -s)"
	[ "$(uname -m)" = x86_64 ] || [ "$profile" = go ] ||
		die "the guests are x86-64 and their kernel comes from this machine's distribution, but this is $(uname -m)"
	find_distribution
	case $profile in
	demo | test | bench) install_packages "$profile" ;;
	esac
	[ "$profile" = go ] || [ "$profile" = bench ] || get_kernel
	[ "$profile" = kernel ] || {
		have gcc || install_compiler
		get_go
	}
}

main "$@"
