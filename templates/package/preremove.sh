#!/bin/sh
# Stops the switch when the package goes away; an upgrade leaves it running.
set -e
case "$1" in
remove | 0)
	if [ -d /run/systemd/system ]; then
		systemctl --no-reload disable --now switchd.service switchd.socket vhostkit-hugepages.service || true
	fi
	;;
esac
exit 0
