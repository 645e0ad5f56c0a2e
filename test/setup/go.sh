#!/bin/sh
# Runs the Go command that set-up found or fetched: go.sh ARGUMENTS...
. "$(dirname "$0")/lib.sh"
go=$(find_go) || die "no Go 1.24 or newer found: run test/setup/install.sh demo, or set VHOSTKIT_GO"
# Programs that Go programs start (go generate, the guest rig) must find the same one.
PATH=$(dirname "$go"):$PATH
export PATH
exec "$go" "$@"
