# shellcheck shell=sh disable=SC2154
# Shared by the set-up scripts; read with "." by POSIX shells.

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
	printf 'setup: error: %s\n' "$*" >&2
	exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# The directory for everything that is fetched once and kept: kernels, a Go toolchain.
cache_dir() {
	if [ -n "${VHOSTKIT_CACHE:-}" ]; then
		printf '%s\n' "$VHOSTKIT_CACHE"
	elif [ -n "${XDG_CACHE_HOME:-}" ]; then
		printf '%s\n' "$XDG_CACHE_HOME/vhostkit"
	elif [ -n "${HOME:-}" ]; then
		printf '%s\n' "$HOME/.cache/vhostkit"
	else
		printf '%s\n' "/var/tmp/vhostkit-$(id -u)"
	fi
}

# The minor number N of Go 1.N that $1 is, or 0 if it does not run. Asked from / because inside a module a newer
# toolchain may answer in its place.
go_minor() {
	v=$(cd / && GOTOOLCHAIN=local "$1" version 2>/dev/null) || {
		echo 0
		return
	}
	v=${v#*go1.}
	v=${v%%[!0-9]*}
	echo "${v:-0}"
}

# Prints a Go command that can build this module: 1.26 or newer, or 1.21 and newer, which fetch the toolchain that
# go.mod asks for by themselves. $1 "any" accepts whatever is there.
find_go() {
	want=21
	[ "${GOTOOLCHAIN:-}" = local ] && want=26
	[ "${1:-}" = any ] && want=1
	for g in "${VHOSTKIT_GO:-}" go /usr/local/go/bin/go "$(cache_dir)/go/bin/go" /usr/lib/go-1.*/bin/go /usr/lib/golang/bin/go; do
		[ -n "$g" ] && have "$g" || continue
		if [ "$(go_minor "$g")" -ge "$want" ]; then
			command -v "$g"
			return 0
		fi
	done
	return 1
}
