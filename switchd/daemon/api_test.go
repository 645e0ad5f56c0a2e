package daemon

import (
	"encoding/json"
	"fmt"
	"io"
	"testing"

	"vhostkit/switchd/config"
	"vhostkit/switchd/vhost"
)

// BenchmarkPorts1024 is what one request for all ports costs with 1024 connected devices.
func BenchmarkPorts1024(b *testing.B) {
	c := config.DefaultConfig()
	dir := b.TempDir()
	c.SocketDir, c.StateDir, c.ControlSocket = dir, dir, dir+"/c.sock"
	d, err := New(c, silent(b))
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1024 {
		if _, err := d.Connect(vhost.Connection{Name: fmt.Sprint("p", i), Fail: func(error) {}}); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if err := json.NewEncoder(io.Discard).Encode(d.Ports()); err != nil {
			b.Fatal(err)
		}
	}
}
