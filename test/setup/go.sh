#!/bin/sh
# Runs the Go command that set-up found or fetched: go.sh ARGUMENTS...
. "$(dirname "$0")/lib.sh"
go=$(find_go) || die "no Go 1.26 or newer found: run test/setup/install.sh demo, or set VHOSTKIT_GO"
# Programs that Go programs start (the guest rig) must find the same one. Some distributions ship a go.env that forbids
# what go.mod may ask for: fetching a newer toolchain.
PATH=$(dirname "$go"):$PATH
GOTOOLCHAIN=${GOTOOLCHAIN:-auto}
export PATH GOTOOLCHAIN
exec "$go" "$@"
