# shellcheck shell=sh disable=SC2154
# A Go toolchain new enough for go.mod; read by install.sh.

# The toolchain that is fetched where the distribution's Go is too old to fetch one by itself (before 1.21).
toolchain=1.26.8

get_go() {
	find_go >/dev/null && return 0
	bootstrap=$(find_go any) || {
		case $manager in
		apt) add_packages golang-go ;;
		dnf) add_packages golang-bin ;;
		esac
		find_go >/dev/null && return 0
		bootstrap=$(find_go any) || die "the distribution's Go package brought no go command"
	}
	fetch_toolchain "$bootstrap"
	find_go >/dev/null || die "the Go toolchain in $(cache_dir)/go does not run"
}

# Every Go toolchain is also a module; an old go command can fetch and verify it, but not use it.
fetch_toolchain() {
	case $(uname -m) in
	x86_64) arch=amd64 ;;
	aarch64) arch=arm64 ;;
	*) arch=$(uname -m) ;;
	esac
	module=golang.org/toolchain@v0.0.1-go$toolchain.linux-$arch
	say "fetching Go $toolchain, because $1 is too old ($(cd / && "$1" version 2>/dev/null))"
	store=$(cache_dir)
	mkdir -p "$store" || die "cannot create the cache $store: set VHOSTKIT_CACHE to a directory you may write"
	work=$(mktemp -d "$store/.go.XXXXXX")
	trap 'chmod -R u+w "$work" 2>/dev/null; rm -rf "$work"' EXIT
	trap 'exit 130' INT TERM
	(cd "$work" && GOFLAGS=-modcacherw GOMODCACHE=$work/mod GO111MODULE=on "$1" mod download "$module" >"$work/log" 2>&1) || {
		tail -n 3 "$work/log" >&2
		die "cannot download the module $module"
	}
	root=$work/mod/$module
	# A module zip carries no modes, and no go.mod but its own: newer go commands undo both in the same way.
	chmod -R u+w "$root"
	chmod +x "$root"/bin/* "$root"/pkg/tool/*/* || die "the module $module has no bin or pkg/tool"
	find "$root" -name _go.mod | while read -r f; do mv "$f" "${f%_go.mod}go.mod"; done
	rm -rf "${store:?}/go"
	mv "$root" "$store/go"
	chmod -R u+w "$work" && rm -rf "$work"
	trap - EXIT INT TERM
}
