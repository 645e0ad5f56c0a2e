package tap

import (
	"testing"

	"vhostkit/test/leaks"
)

// TestMain: the tests leave no goroutine and no descriptor behind.
func TestMain(m *testing.M) { leaks.Main(m) }
