#!/bin/sh
# Makes the user and the directories; starts nothing. Also run by dpkg's trigger when QEMU is upgraded.
set -e
# libvirt remembers what an emulator can do by the time of its file: the wrapper's must change with QEMU's.
# (An .rpm's is new after each installation, and rpm -V looks at the time.)
case "$1" in
triggered)
	touch -c /usr/bin/qemu-wrap
	exit 0
	;;
configure) touch -c /usr/bin/qemu-wrap ;;
esac
if command -v systemd-sysusers >/dev/null; then
	systemd-sysusers /usr/lib/sysusers.d/vhostkit.conf
elif ! getent passwd vhostkit >/dev/null; then
	getent group kvm >/dev/null || groupadd --system kvm
	useradd --system --user-group --groups kvm --home-dir /var/lib/vhostkit --no-create-home --shell /usr/sbin/nologin vhostkit
fi
if command -v systemd-tmpfiles >/dev/null; then
	systemd-tmpfiles --create /usr/lib/tmpfiles.d/vhostkit.conf || true
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || true
	case "$1:$2" in
	configure:?* | 2:*)
		if systemctl --quiet is-active switchd.service; then
			echo "vhostkit: the previous version of switchd is still running; to switch: systemctl restart switchd (guests reconnect by themselves)"
		fi
		;;
	esac
fi
exit 0
