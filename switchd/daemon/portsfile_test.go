package daemon

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"vhostkit/switchd/forward"
)

// TestDamagedPorts: a file that nobody wrote like that is refused, with what to do.
func TestDamagedPorts(t *testing.T) {
	many := strings.Repeat(`"a",`, forward.MaxPorts) + `"a"`
	for _, k := range []struct{ name, content, want string }{
		{"no JSON", "{", "unexpected end"},
		{"a path", `{"ports":["../../etc/x"]}`, "no port name"},
		{"twice", `{"ports":["a","b","a"]}`, "twice"},
		{"too many", `{"ports":[` + many + `]}`, "at most"},
		{"owner", `{"ports":[{"name":"a","uid":-1}]}`, "user or group -1"},
		{"asked by", `{"ports":[{"name":"a","asked":99999999999}]}`, "user or group"},
		{"long", strings.Repeat(" ", maxPortsFile) + "{}", "more than"},
	} {
		path := filepath.Join(t.TempDir(), "ports.json")
		if err := os.WriteFile(path, []byte(k.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readPorts(path); err == nil || !strings.Contains(err.Error(), k.want) || !strings.Contains(err.Error(), "vhostctl port add") {
			t.Errorf("%s: %v, want %q", k.name, err, k.want)
		}
	}
}

// FuzzPorts: any content is an error, or ports that the switch could have written, which it reads again as they are.
func FuzzPorts(f *testing.F) {
	f.Add([]byte(`{"ports":["vm1-net0",{"name":"b","uid":1,"gid":2,"asked":3}]}`))
	f.Add([]byte(`{"ports":[{"name":"a"},{"name":"a"}]}`))
	f.Add([]byte(`{"ports":[null,{"NAME":"a","uid":1e3}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		ports, err := parsePorts(data)
		if err != nil {
			return
		}
		if len(ports) > forward.MaxPorts {
			t.Fatalf("%d ports", len(ports))
		}
		for _, p := range ports {
			if len(p.Name) > 63 || strings.ContainsAny(p.Name, "/\x00 \n") || filepath.Base(p.Name+".sock") != p.Name+".sock" {
				t.Fatalf("port %q", p.Name)
			}
			for _, id := range []*int{p.UID, p.GID, p.Asked} {
				if id != nil && (*id < 0 || *id > math.MaxInt32) {
					t.Fatalf("port %q: owner %d", p.Name, *id)
				}
			}
		}
		written, err := json.Marshal(portsFile{Ports: ports})
		if err != nil {
			t.Fatal(err)
		}
		if again, err := parsePorts(written); err != nil || !reflect.DeepEqual(again, ports) {
			t.Fatalf("%s is read as %+v, %v; want %+v", written, again, err, ports)
		}
	})
}
