# shellcheck shell=sh disable=SC2154
# The guests' kernel; read by install.sh.
#
# The distribution's own kernel is fetched and unpacked into the cache, never installed into the host:
#   CACHE/kernel/vmlinuz   the kernel
#   CACHE/kernel/modules   its modules, with modules.dep
# Both are symbolic links into CACHE/kernel/VERSION.

get_kernel() {
	if [ -n "${VHOSTKIT_KERNEL:-}" ]; then
		[ -r "$VHOSTKIT_KERNEL" ] || die "VHOSTKIT_KERNEL=$VHOSTKIT_KERNEL cannot be read"
		[ -r "${VHOSTKIT_MODULES:-}/modules.dep" ] || die "VHOSTKIT_MODULES must name the lib/modules/VERSION of VHOSTKIT_KERNEL, with a modules.dep"
		return 0
	fi
	store=$(cache_dir)/kernel
	kernel_complete "$store" && return 0
	mkdir -p "$store" || die "cannot create the cache $store: set VHOSTKIT_CACHE to a directory you may write"
	(
		# Two set-ups at a time: the second waits and finds the first one's work.
		if have flock; then flock -w 600 9 || die "another set-up holds $store/.lock for ten minutes"; fi
		kernel_complete "$store" || fetch_kernel
	) 9>"$store/.lock"
}

kernel_complete() { [ -r "$1/vmlinuz" ] && [ -r "$1/modules/modules.dep" ]; }

fetch_kernel() {
	say "fetching a kernel for the guests into $store (kept for the next time)"
	work=$(mktemp -d "$store/.new.XXXXXX")
	trap 'rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM
	mkdir "$work/root"
	case $manager in
	apt) unpack_kernel_apt ;;
	dnf) unpack_kernel_dnf ;;
	esac
	set -- "$work"/root/lib/modules/*/kernel
	[ -d "$1" ] || {
		# Merged /usr: depmod looks into lib/modules.
		[ -d "$work/root/usr/lib/modules" ] || die "no modules in the kernel packages"
		mkdir -p "$work/root/lib"
		ln -s ../usr/lib/modules "$work/root/lib/modules"
		set -- "$work"/root/lib/modules/*/kernel
	}
	version=$(basename "$(dirname "$1")")
	depmod -b "$work/root" "$version" || die "depmod failed for the guests' kernel $version"
	image=
	for f in "$work/root/boot/vmlinuz-$version" "$work/root/lib/modules/$version/vmlinuz"; do
		[ -f "$f" ] && image=${f#"$work"/root/} && break
	done
	[ -n "$image" ] || die "no vmlinuz in the kernel packages for $version"
	rm -rf "${store:?}/$version"
	mv "$work/root" "$store/$version"
	ln -sfn "$version/lib/modules/$version" "$store/modules"
	ln -sfn "$version/$image" "$store/vmlinuz"
	chmod -R u+rwX,go+rX "$store/$version"
}

# First real package behind a meta package: apt_dependency META PATTERN
apt_dependency() { apt-cache depends "$1" 2>/dev/null | awk -v p="$2" '$1 ~ /Depends:/ && $2 ~ p { print $2; exit }'; }

unpack_kernel_apt() {
	# The lists of a new machine are empty, and those of an old one name packages that are gone.
	download_kernel_apt || {
		apt_update
		download_kernel_apt
	} || {
		tail -n 3 "$work/log" >&2
		die "no kernel from the package sources (see the line above): check them, or set VHOSTKIT_KERNEL and VHOSTKIT_MODULES"
	}
	for f in "$work"/*.deb; do
		dpkg-deb -x "$f" "$work/root" || die "cannot unpack $(basename "$f")"
	done
}

# Downloads the packages behind Debian's or Ubuntu's newest kernel.
download_kernel_apt() {
	meta=linux-image-amd64
	[ -n "$(apt-cache madison "$meta" 2>/dev/null)" ] || meta=linux-image-generic
	image=$(apt_dependency "$meta" '^linux-image-.*[0-9]')
	[ -n "$image" ] || {
		echo "apt-cache names no kernel behind $meta" >"$work/log"
		return 1
	}
	names=$image
	if [ "$meta" = linux-image-generic ]; then
		# Ubuntu has the modules in packages of their own.
		release=${image#linux-image-}
		release=${release#unsigned-}
		names="$names linux-modules-$release"
		extra=linux-modules-extra-$release
		[ -z "$(apt-cache madison "$extra" 2>/dev/null)" ] || names="$names $extra"
	fi
	for n in $names; do
		(cd "$work" && apt-get -qq download "$n" >"$work/log" 2>&1) || return 1
	done
}

unpack_kernel_dnf() {
	have dnf && dnf -q download --help >/dev/null 2>&1 || add_packages dnf-plugins-core
	have rpm2cpio || add_packages rpm
	have cpio || add_packages cpio
	# Only 64-bit, and one version for all three: dnf picks the newest of each from the same sources.
	(cd "$work" && dnf -q download --arch=x86_64 kernel-core kernel-modules-core kernel-modules >"$work/log" 2>&1) || {
		tail -n 3 "$work/log" >&2
		die "dnf download of the kernel packages failed"
	}
	for f in "$work"/*.rpm; do
		(cd "$work/root" && rpm2cpio "$f" | cpio -idm --quiet) || die "cannot unpack $(basename "$f")"
	done
}
