# The first process of the rig's namespaces: makes them look like a freshly installed host, starts libvirt's daemons, and collects
# orphans. All that it mounts and starts ends with it. $1 is the rig's directory.
set -eu
PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
export PATH
work=$1

# A sysfs of this network namespace. The list of mounts has no cgroups then, so that libvirt makes none.
umount -R -l /sys
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /run
for dir in /etc/libvirt /etc/vhostkit /var/lib/libvirt /var/lib/vhostkit /var/cache/libvirt /var/log/libvirt; do
	if [ -d "$dir" ]; then mount -t tmpfs -o mode=755 tmpfs "$dir"; fi
done
mkdir -p /run/libvirt /run/vhostkit /run/hugepages
# Before libvirtd starts: it looks for it only then. A kernel without hugepages is fine.
mount -t hugetlbfs -o pagesize=2M hugetlbfs /run/hugepages || true
ip link set lo up

# The machine's AppArmor and SELinux know nothing of these directories. QEMU's user stays the distribution's.
cat >/etc/libvirt/qemu.conf <<END
security_driver = "none"
hugetlbfs_mount = "/run/hugepages"
END
virtlogd -p /run/virtlogd.pid >"$work/virtlogd.log" 2>&1 &
libvirtd -p /run/libvirtd.pid >"$work/libvirtd.log" 2>&1 &

# The shell reaps every orphan while it waits.
while :; do
	wait || true
	sleep 1
done
