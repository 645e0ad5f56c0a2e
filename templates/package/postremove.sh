#!/bin/sh
# Purge (deb) or removal (rpm) deletes the switch's state and its user, who owns no files any more. The group kvm is not the switch's own,
# and stays.
set -e
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
fi
case "$1" in
purge | 0)
	rm -rf /run/vhostkit /var/lib/vhostkit/switchd
	# The originals of files that vhostctl has changed are kept as long as the changes are there.
	if [ -e /var/lib/vhostkit/hugepages.json ] || [ -e /var/lib/vhostkit/install-acl.json ]; then
		echo "vhostkit: /var/lib/vhostkit is kept: it holds the originals of files that vhostctl changed and whose changes were not undone" >&2
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
