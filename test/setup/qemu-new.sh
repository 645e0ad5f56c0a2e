#!/bin/sh
# shellcheck disable=SC2154
# Makes a QEMU with a vfio-user client (10.1 or newer) available and prints the command that runs it: qemu-new.sh
#
# Where the installed one is too old, a newer one is fetched from a newer suite of the same Debian mirror that apt is set up with, and unpacked
# into the cache with the libraries that it was built against. Nothing of it is installed. CACHE/qemu/qemu-system-x86_64 starts it with its own
# loader. VHOSTKIT_QEMU names one to be used instead.
set -eu
. "$(dirname "$0")/lib.sh"

# Newest last is not wanted: the first suite that has one is nearest to what people run.
suites="trixie-backports forky-backports testing sid"

# Does this QEMU have the client?
fits() { "$1" -device vfio-user-pci,help 2>/dev/null | grep -q "socket="; }

for q in "${VHOSTKIT_QEMU:-}" qemu-system-x86_64 "$(cache_dir)/qemu/qemu-system-x86_64"; do
	if [ -n "$q" ] && have "$q" && fits "$q"; then
		command -v "$q"
		exit 0
	fi
done
[ -z "${VHOSTKIT_QEMU:-}" ] || die "VHOSTKIT_QEMU=$VHOSTKIT_QEMU has no vfio-user-pci device: QEMU 10.1 or newer is needed"
have apt-get && have dpkg-deb || die "this needs QEMU 10.1 or newer with vfio-user-pci: install one and name it in VHOSTKIT_QEMU"

store=$(cache_dir)/qemu
mkdir -p "$store" || die "cannot create the cache $store: set VHOSTKIT_CACHE to a directory you may write"
exec 9>"$store/.lock"
if have flock; then flock -w 900 9 || die "another set-up holds $store/.lock for fifteen minutes"; fi
if [ -x "$store/qemu-system-x86_64" ] && fits "$store/qemu-system-x86_64"; then
	printf '%s\n' "$store/qemu-system-x86_64"
	exit 0
fi

# The repositories that apt is set up with, but for those of security updates, which have suites of their own.
mirrors() {
	apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' | awk '$2 !~ /security/ && $1 ~ /debian/ && !seen[$1]++ { print $1 }'
}

work=$(mktemp -d "$store/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/root"
: >"$work/status"

# apt with a state of its own: its sources, its lists, and an empty machine.
own_apt() {
	command=$1
	shift
	"$command" -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::Etc::preferencesparts=- -o Dir::Etc::preferences=- \
		-o "Dir::State=$work/state" -o "Dir::State::status=$work/status" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root -o Debug::NoLocking=1 \
		-o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -r "$keyring" ] || die "$keyring is missing: install debian-archive-keyring"

# Lists a suite and the one that it is made for; succeeds if it has a QEMU that will do.
look_into() {
	{
		printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$1" "$2"
		case $2 in
		*-backports) printf 'deb [signed-by=%s] %s %s main\n' "$keyring" "$1" "${2%-backports}" ;;
		esac
	} >"$work/sources.list"
	own_apt apt-get -qq update >"$work/log" 2>&1 || return 1
	version=$(own_apt apt-cache madison qemu-system-x86 | awk -F'|' '{ gsub(/ /, "", $2); print $2 }' | head -n 1)
	[ -n "$version" ] && dpkg --compare-versions "${version#*:}" ge 10.1~
}

found=
for mirror in $(mirrors); do
	for suite in $suites; do
		if look_into "$mirror" "$suite"; then
			found=$suite
			break 2
		fi
	done
done
[ -n "$found" ] || {
	tail -n 3 "$work/log" >&2
	die "no QEMU 10.1 or newer in $suites of the package sources that apt is set up with: install one and name it in VHOSTKIT_QEMU"
}
say "fetching QEMU $version into $store (kept for the next time)"
own_apt apt-get -qq -y --download-only --no-install-recommends -t "$found" install qemu-system-x86 >"$work/log" 2>&1 || {
	tail -n 5 "$work/log" >&2
	die "fetching QEMU $version failed (see the lines above)"
}
for f in "$work"/cache/archives/*.deb; do
	dpkg-deb -x "$f" "$work/root" || die "cannot unpack $(basename "$f")"
done

# Its own loader, libraries and firmware.
loader=
for l in "$work"/root/usr/lib64/ld-linux-x86-64.so.2 "$work"/root/lib64/ld-linux-x86-64.so.2 "$work"/root/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2; do
	[ -e "$l" ] && loader=${l#"$work"/root/} && break
done
[ -n "$loader" ] || die "no loader among the fetched packages"
tree=$store/$(printf %s "$version" | tr -c 'A-Za-z0-9.\n' -)
rm -rf "$tree"
mv "$work/root" "$tree"
cat >"$work/run" <<END
#!/bin/sh
root='$tree'
exec "\$root/$loader" --library-path "\$root/usr/lib/x86_64-linux-gnu:\$root/lib/x86_64-linux-gnu:\$root/usr/lib/x86_64-linux-gnu/pulseaudio" \\
	"\$root/usr/bin/qemu-system-x86_64" -L "\$root/usr/share/qemu" -L "\$root/usr/share/seabios" -L "\$root/usr/lib/ipxe/qemu" "\$@"
END
chmod 755 "$work/run"
fits "$work/run" || die "QEMU $version was unpacked into $tree but does not run, or has no vfio-user-pci: $("$work/run" --version 2>&1 | head -n 2)"
mv "$work/run" "$store/qemu-system-x86_64"
printf '%s\n' "$store/qemu-system-x86_64"
