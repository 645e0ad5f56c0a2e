package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vhostkit/switchd/pci"
	"vhostkit/switchd/uplink/ixgbe/regs"
)

// asProgram makes this binary the program itself.
const asProgram = "NIC82599_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

const patience = 10 * time.Second

// start starts the program. It ends with the test, without an error.
func start(t *testing.T, args ...string) {
	t.Helper()
	said := &bytes.Buffer{}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the program ended with %v:\n%s", err, said)
		}
	})
}

// dial connects to one of the program's sockets, when it is there.
func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", path)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			_ = c.SetDeadline(time.Now().Add(patience))
			return c
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// ask sends a vfio-user command: {u16 id, u16 command, u32 size, u32 flags, u32 errno} and a payload.
func ask(t *testing.T, c net.Conn, command uint16, payload []byte) []byte {
	t.Helper()
	le := binary.LittleEndian
	m := le.AppendUint16(le.AppendUint16(nil, 7), command)
	m = append(le.AppendUint32(m, uint32(16+len(payload))), make([]byte, 8)...)
	if _, err := c.Write(append(m, payload...)); err != nil {
		t.Fatal(err)
	}
	var h [16]byte
	if _, err := io.ReadFull(c, h[:]); err != nil {
		t.Fatal(err)
	}
	if le.Uint16(h[0:]) != 7 || le.Uint16(h[2:]) != command || le.Uint32(h[8:]) != 1 {
		t.Fatalf("the answer to command %d starts with %x", command, h)
	}
	answer := make([]byte, le.Uint32(h[4:])-16)
	if _, err := io.ReadFull(c, answer); err != nil {
		t.Fatal(err)
	}
	return answer
}

// TestProgram: it serves a card over vfio-user, and tells its state.
func TestProgram(t *testing.T) {
	dir := t.TempDir()
	socket, control, wire := filepath.Join(dir, "card"), filepath.Join(dir, "control"), filepath.Join(dir, "wire.pcap")
	start(t, "--socket", socket, "--control", control, "--wire", "pcap:"+wire, "--mac", "02:00:00:00:00:07", "--faults", "link,hung")
	c := dial(t, socket)
	version := ask(t, c, 1, append([]byte{0, 0, 1, 0}, "{\"capabilities\":{}}\x00"...))
	if len(version) < 5 || !bytes.Equal(version[:4], []byte{0, 0, 1, 0}) || !json.Valid(bytes.TrimRight(version[4:], "\x00")) {
		t.Errorf("VERSION: %q", version)
	}
	info := ask(t, c, 4, append([]byte{16}, make([]byte, 15)...)) // DEVICE_GET_INFO
	if want := []byte{16, 0, 0, 0, 3, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0}; !bytes.Equal(info, want) {
		t.Errorf("GET_INFO: %x, want %x: a PCI device that can be reset, 9 regions, 5 kinds of interrupts", info, want)
	}

	// A driver's way to it, beside the client that only asked.
	d, err := pci.Open("vfio-user:"+socket, pci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if id, err := d.ReadConfig(0, 4); id != regs.Device82599<<16|regs.VendorIntel || err != nil {
		t.Errorf("the device is %#x, %v", id, err)
	}
	r, err := d.BAR(0)
	if err != nil {
		t.Fatal(err)
	}
	r.Write32(regs.RDT(3), 5) // before the queue is enabled
	r.Write32(regs.ESDP, 0)   // the laser on
	if links := r.Read32(regs.LINKS); links&regs.LINKS_UP != 0 {
		t.Errorf("--faults link: LINKS is %#x", links)
	}
	s := State{}
	if err := json.NewDecoder(dial(t, control)).Decode(&s); err != nil {
		t.Fatal(err)
	}
	if len(s.Violations) != 1 || !strings.Contains(s.Violations[0], "RDT[3]") {
		t.Errorf("violations %q", s.Violations)
	}
	if s.Registers["RAL[0]"] != 2 || s.Registers["RAH[0]"] != regs.RAH_AV|0x0700 || s.Resets != 1 {
		t.Errorf("RAL[0] %#x, RAH[0] %#x, %d resets", s.Registers["RAL[0]"], s.Registers["RAH[0]"], s.Resets)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if header, err := os.ReadFile(wire); len(header) != 24 || err != nil {
		t.Errorf("the wire's file has %d bytes, %v", len(header), err)
	}
}

func TestWrongArguments(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "--socket"},
		{[]string{"--socket", "/nowhere/card"}, "/nowhere/card"},
		{[]string{"--socket", "x", "--mac", "nonsense"}, "nonsense"},
		{[]string{"--socket", "x", "--faults", "link,moon"}, "moon"},
		{[]string{"--socket", "x", "--wire", "string:1"}, "string"},
		{[]string{"--socket", "x", "--wire", "pcap:/nowhere/file"}, "/nowhere/file"},
		{[]string{"--socket", "x", "--wire", "tap:a-name-that-is-too-long"}, "a-name-that-is-too-long"},
		{[]string{"--socket", "x", "--control", "/nowhere/control"}, "/nowhere/control"},
	} {
		if err := run(t.Context(), c.args); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
}
