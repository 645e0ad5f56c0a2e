package daemon

import (
	"os"
	"testing"

	"vhostkit/switchd/logging"
)

// silent is an output that nobody reads.
func silent(t testing.TB) *logging.Output {
	t.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	out, err := logging.Open(logging.Config{Stdout: null, Stderr: null, Addresses: 64})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		out.Close()
		null.Close()
	})
	return out
}
