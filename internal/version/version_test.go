package version

import (
	"runtime"
	"strings"
	"testing"
)

func TestBuildInfo(t *testing.T) {
	text := BuildInfo()
	for _, part := range []string{Version + " (", runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH} {
		if !strings.Contains(text, part) {
			t.Errorf("%q lacks %q", text, part)
		}
	}
}
