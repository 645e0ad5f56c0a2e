#!/bin/bash
# Runs each fuzz target of the module for the given time, two at once: fuzz.sh TIME [PACKAGE...]
set -u
cd "$(dirname "$0")/../.." || exit 1
GO=$PWD/test/setup/go.sh
time=${1:?usage: fuzz.sh TIME [PACKAGE...]}
shift
[ $# -gt 0 ] || set -- ./...

# Prints PACKAGE TARGET lines.
targets() {
	# Only packages that define a target need their tests built.
	"$GO" list -f '{{.Dir}} {{.ImportPath}}' "$@" | while read -r dir path; do
		grep -qsE '^func Fuzz[A-Z0-9_]' "$dir"/*_test.go || continue
		"$GO" test -list '^Fuzz' "$path" | sed -n "s|^\(Fuzz[A-Za-z0-9_]*\)\$|$path \1|p"
	done
}

# One target. Go's fuzzer sometimes reports that its own time was up as a failure; that is no finding, so such a run
# is repeated once.
one() {
	local log
	log=$(mktemp)
	for _ in first again; do
		if "$GO" test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -fuzzminimizetime 50x -parallel 1 -timeout 0 "$1" >"$log" 2>&1; then
			echo "$2: $(grep '^fuzz: elapsed' "$log" | tail -n 1 | sed 's/^fuzz: //')"
			grep '^ok' "$log"
			rm -f "$log"
			return 0
		fi
		if grep -q 'Failing input' "$log" || ! grep -q 'context deadline exceeded' "$log"; then break; fi
	done
	echo "FAIL: fuzz target $2 of $1"
	tail -n 60 "$log"
	rm -f "$log"
	return 1
}

list=$(targets "$@") || exit 1
[ -n "$list" ] || {
	echo "no fuzz targets in $*"
	exit 0
}
failed=0
running=0
while read -r package target; do
	if [ "$running" -ge 2 ]; then
		wait -n || failed=1
		running=$((running - 1))
	fi
	one "$package" "$target" &
	running=$((running + 1))
done <<<"$list"
while [ "$running" -gt 0 ]; do
	wait -n || failed=1
	running=$((running - 1))
done
exit "$failed"
