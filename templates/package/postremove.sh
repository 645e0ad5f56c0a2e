#!/bin/sh
# Nothing of the switch stays: what it remembered goes with purge (deb) or removal (rpm).
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
case "$1" in
purge | 0)
	rm -rf /run/vhostkit /var/lib/vhostkit /etc/vhostkit
	if getent passwd vhostkit >/dev/null; then
		userdel vhostkit || true
	fi
	if getent group vhostkit >/dev/null; then
		groupdel vhostkit || true
	fi
	;;
esac
exit 0
