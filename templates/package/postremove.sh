#!/bin/sh
# Nothing of the switch stays: what it remembered goes with purge (deb) or removal (rpm), and so does its user, of whom no file is left.
# The group kvm, which is not the switch's own, stays.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
case "$1" in
purge | 0)
	rm -rf /run/vhostkit /var/lib/vhostkit/switchd
	# The originals of files that vhostctl has changed are kept as long as the changes are there.
	if [ -e /var/lib/vhostkit/hugepages.json ] || [ -e /var/lib/vhostkit/install-acl.json ]; then
		echo "vhostkit: /var/lib/vhostkit is kept: it holds the originals of files that vhostctl changed and that were not changed back" >&2
	else
		rm -rf /var/lib/vhostkit
	fi
	# rpm leaves what an administrator wrote there as .rpmsave; dpkg's purge means that, too.
	if [ "$1" = purge ]; then
		rm -rf /etc/vhostkit
	fi
	if getent passwd vhostkit >/dev/null; then
		userdel vhostkit || true
	fi
	if getent group vhostkit >/dev/null; then
		groupdel vhostkit || true
	fi
	;;
esac
exit 0
