package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"vhostkit/switchd/forward"
)

// maxPortsFile bounds what is read of the remembered ports, in bytes: ten times what MaxPorts of them take.
const maxPortsFile = 8 << 20

// readPorts reads the remembered ports; none, if there is no such file.
func readPorts(path string) ([]namedPort, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the remembered ports: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPortsFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the remembered ports: %w", err)
	}
	ports, err := parsePorts(data)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; correct it, or remove it and add the ports again with vhostctl port add", path, err)
	}
	return ports, nil
}

// parsePorts checks what somebody may have edited: each name is a port's, and there once; owners are users and groups.
func parsePorts(data []byte) ([]namedPort, error) {
	if len(data) > maxPortsFile {
		return nil, fmt.Errorf("it has more than %d bytes", maxPortsFile)
	}
	var file portsFile
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, err
	}
	if len(file.Ports) > forward.MaxPorts {
		return nil, fmt.Errorf("it has %d ports, a switch %d at most", len(file.Ports), forward.MaxPorts)
	}
	seen := map[string]bool{}
	for _, n := range file.Ports {
		if !portName.MatchString(n.Name) {
			return nil, fmt.Errorf("it names a port %q, which is no port name", n.Name)
		}
		if seen[n.Name] {
			return nil, fmt.Errorf("it names port %q twice", n.Name)
		}
		seen[n.Name] = true
		for _, id := range []*int{n.UID, n.GID, n.Asked} {
			if id != nil && (*id < 0 || *id > math.MaxInt32) {
				return nil, fmt.Errorf("port %q has user or group %d", n.Name, *id)
			}
		}
	}
	return file.Ports, nil
}
