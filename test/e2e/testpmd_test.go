package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vhostkit/test/frontend"
	"vhostkit/test/internal/proc"
)

// testpmd starts dpdk-testpmd with virtio_user devices and ends it with the test. It returns its output so far.
func testpmd(t *testing.T, prefix string, vdevs []string, app ...string) *proc.Buffer {
	t.Helper()
	path, err := exec.LookPath("dpdk-testpmd")
	if err != nil {
		t.Fatalf("dpdk-testpmd is missing (make test installs it): %v", err)
	}
	args := []string{"-l", "0,1", "--main-lcore", "0", "--no-huge", "-m", "300", "--no-pci", "--no-telemetry", "--file-prefix=" + prefix}
	for i, v := range vdevs {
		args = append(args, "--vdev", fmt.Sprintf("net_virtio_user%d,%s", i, v))
	}
	args = append(append(args, "--", "--nb-cores=1", "--no-mlockall", "--total-num-mbufs=8192"), app...)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	cmd := exec.CommandContext(ctx, path, args...)
	out := &proc.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	stdin, err := cmd.StdinPipe() // without -i it runs until Enter
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			_ = cmd.Process.Kill()
			<-done
		}
		cancel()
		if t.Failed() {
			t.Logf("testpmd:\n%s", proc.Tail(out.String(), 40))
		}
	})
	return out
}

// TestTestpmdMatrix (docs/dpdk-compat.md, 5): every kind of ring that DPDK's virtio_user drives. Numbered frames go
// from a front-end through the switch to testpmd, which sends them back: content, order, loss.
func TestTestpmdMatrix(t *testing.T) {
	n := 0
	for _, packed := range []int{0, 1} {
		for _, merge := range []int{0, 1} {
			for _, inOrder := range []int{0, 1} {
				for _, vectorized := range []int{0, 1} {
					for _, server := range []int{0, 1} {
						n++
						name := fmt.Sprintf("packed=%d mrg=%d in_order=%d vectorized=%d server=%d", packed, merge, inOrder, vectorized, server)
						options := fmt.Sprintf("mac=02:00:00:01:00:02,packed_vq=%d,mrg_rxbuf=%d,in_order=%d,vectorized=%d,queue_size=256",
							packed, merge, inOrder, vectorized)
						t.Run(name, func(t *testing.T) { testpmdCase(t, fmt.Sprintf("vk%d_%d", os.Getpid(), n), options, merge, server) })
					}
				}
			}
		}
	}
}

func testpmdCase(t *testing.T, prefix, options string, merge, server int) {
	args := []string{"--mergeable", strconv.Itoa(merge)}
	var other *switchd
	var socket string
	if server == 1 {
		// testpmd listens; the switch connects there as a client. The front-end reaches it by a named port, which always listens.
		dir, err := os.MkdirTemp("", "vhkpmd") // not TempDir: DPDK's options cannot hold the test's name
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		socket = filepath.Join(dir, "pmd.sock")
		other = startSwitchd(t, append(args, "--client", "--socket-file", socket)...)
		if p, err := other.Client.AddPort(context.Background(), "front"); err != nil {
			t.Fatal(err)
		} else {
			other.Socket = p.Socket
		}
		options += ",server=1"
	} else {
		other = startSwitchd(t, args...)
		socket = other.Socket
	}
	d := dial(t, other, frontend.Config{Mergeable: merge == 1})
	testpmd(t, prefix, []string{"path=" + socket + "," + options}, "--forward-mode=macswap", "--tx-first")
	other.waitLog(t, "MAC_ADDRESS 02:00:00:01:00:02 and")
	teach(t, other, d, addr(1))
	drain(d)
	const frames, window = 3000, 64
	next := uint32(0)
	for sent := uint32(0); next < frames; {
		for sent < frames && sent < next+window {
			if err := d.Send(0, numbered(addr(2), addr(1), 60+int(sent*17%1440), sent)); err != nil {
				t.Fatal(err)
			}
			sent++
		}
		f, err := d.Receive(0, 5*time.Second)
		if err != nil {
			t.Fatalf("frame %d did not come back: %v", next, err)
		}
		if f[12] != 0x88 { // testpmd's own first frames
			continue
		}
		got, err := check(f)
		if err != nil || got != next {
			t.Fatalf("frame %d came back as %d: %v", next, got, err)
		}
		to, from := addr(1), addr(2)
		if !bytes.Equal(f[:6], to[:]) || !bytes.Equal(f[6:12], from[:]) || len(f) != 60+int(next*17%1440) {
			t.Fatalf("frame %d came back with header %x and %d bytes", next, f[:14], len(f))
		}
		next++
	}
}

func drain(d *frontend.Device) {
	for {
		if _, err := d.Receive(0, 50*time.Millisecond); err != nil {
			return
		}
	}
}

// TestTestpmdThroughput: two devices of one testpmd send to each other at full speed; its own counters say what arrived.
func TestTestpmdThroughput(t *testing.T) {
	sw := startSwitchd(t, "--cores", "1")
	out := testpmd(t, fmt.Sprintf("vkt%d", os.Getpid()), []string{
		"path=" + sw.Socket + ",mac=02:00:00:01:00:01", "path=" + sw.Socket + ",mac=02:00:00:01:00:02",
	}, "--forward-mode=mac", "--tx-first", "--eth-peer=0,02:00:00:01:00:02", "--eth-peer=1,02:00:00:01:00:01", "--stats-period", "1")
	received := regexp.MustCompile(`RX-packets: (\d+)`)
	eventually(t, 20*time.Second, "testpmd has received 100000 frames", func() bool {
		for _, m := range received.FindAllStringSubmatch(out.String(), -1) {
			if n, _ := strconv.Atoi(m[1]); n > 100000 {
				return true
			}
		}
		return false
	})
	if strings.Contains(sw.Log(), "device stopped") {
		t.Error("a device was stopped")
	}
}
