package leaks

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestPlanted(t *testing.T) {
	before, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Left(time.Second); err != nil {
		t.Fatalf("nothing was done, and left is %v", err)
	}
	stop := make(chan struct{})
	go planted(stop)
	if err := before.Left(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), "leaks.planted") {
		t.Errorf("of a goroutine: %v", err)
	}
	close(stop)
	if err := before.Left(time.Second); err != nil {
		t.Errorf("the goroutine has ended: %v", err)
	}
	path := t.TempDir() + "/planted"
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := before.Left(50 * time.Millisecond); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("of a descriptor: %v", err)
	}
	f.Close()
	if err := before.Left(time.Second); err != nil {
		t.Errorf("the descriptor is closed: %v", err)
	}
}

func planted(stop chan struct{}) { <-stop }

// TestLater: what is on its way out is waited for.
func TestLater(t *testing.T) {
	before, err := Take()
	if err != nil {
		t.Fatal(err)
	}
	go time.Sleep(100 * time.Millisecond)
	if err := before.Left(5 * time.Second); err != nil {
		t.Error(err)
	}
}
