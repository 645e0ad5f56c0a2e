#!/bin/sh
# Stops the switch when the package goes away; an upgrade leaves it running.
set -e
units="switchd.service switchd.socket vhostkit-hugepages.service"
case "$1" in
remove | 0)
	# Without a service manager that runs (a chroot, an image being built) only the links of "enable" are taken away.
	now=
	[ ! -d /run/systemd/system ] || now=--now
	if command -v systemctl >/dev/null; then
		# shellcheck disable=SC2086
		systemctl --no-reload --quiet disable $now $units || true
	fi
	for done in "hugepages:hugepages undo" "install-acl:host setup --undo"; do
		if [ -e "/var/lib/vhostkit/${done%%:*}.json" ]; then
			echo "vhostkit: what vhostctl changed on this system (${done%%:*}) stays; to undo it, install vhostkit again and run: vhostctl ${done#*:}" >&2
		fi
	done
	;;
esac
exit 0
