#!/bin/sh
# Makes a small Linux to try the switch with: guest-image.sh DIRECTORY
#
#   DIRECTORY/vmlinuz   the distribution's kernel, from the cache of install.sh
#   DIRECTORY/initrd    busybox and the modules for virtio-net; a shell on the console
#
# address=A.B.C.D/N on the kernel's command line is the address of eth0.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/lib.sh"
[ $# = 1 ] || die "usage: test/setup/guest-image.sh DIRECTORY"
out=$1
"$here/install.sh" kernel
kernel=${VHOSTKIT_KERNEL:-$(cache_dir)/kernel/vmlinuz}
modules=$(readlink -f "${VHOSTKIT_MODULES:-$(cache_dir)/kernel/modules}")
busybox=$(command -v busybox) || die "no busybox here: run test/setup/install.sh demo"

mkdir -p "$out"
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
trap 'exit 130' INT TERM
mkdir "$root/bin" "$root/dev" "$root/lib" "$root/proc" "$root/sys"
cp "$busybox" "$root/bin/busybox"

# The modules, in the order in which they have to be loaded; those that the kernel has built in are not listed.
base=${modules%/lib/modules/*}
for name in virtio_pci virtio_net; do
	PATH=$PATH:/usr/sbin:/sbin modprobe -d "$base" -S "${modules##*/}" --show-depends "$name"
done | while read -r kind file _; do
	[ "$kind" = insmod ] || continue
	to=$root/lib/$(basename "$file" | sed 's/\.ko.*/.ko/')
	[ ! -e "$to" ] || continue
	case $file in
	*.xz) xz -dc "$file" ;;
	*.zst) zstd -dcq "$file" ;;
	*.gz) gzip -dc "$file" ;;
	*) cat "$file" ;;
	esac >"$to"
	basename "$to" >>"$root/lib/order"
done

cat >"$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc none /proc && mount -t sysfs none /sys && mount -t devtmpfs none /dev
for m in $(cat /lib/order); do insmod "/lib/$m"; done
ip link set lo up
for word in $(cat /proc/cmdline); do
	case $word in
	address=*) ip addr add "${word#address=}" dev eth0 && ip link set eth0 up ;;
	esac
done
ip -4 addr show eth0
exec setsid cttyhack sh
INIT
chmod 755 "$root/init"
(cd "$root" && find . | "$busybox" cpio -o -H newc 2>/dev/null) | gzip -1 >"$out/initrd"
cp "$kernel" "$out/vmlinuz"
chmod 644 "$out/vmlinuz" "$out/initrd"
say "$out has vmlinuz and initrd"
