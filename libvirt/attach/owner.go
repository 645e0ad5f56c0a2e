package attach

import (
	"encoding/xml"
	"fmt"
	"os/user"
	"strconv"
	"strings"
)

// owner is the user and group that QEMU will run as: of the domain's own label, or of libvirt's for its type. nil is unknown: the socket gets
// switchd's own settings.
func (p *Plan) owner() (uid, gid *int, err error) {
	label := ownLabel(p.before)
	if label == "" {
		capabilities, err := p.conn.Capabilities()
		if err != nil {
			return nil, nil, err
		}
		label = baseLabel(capabilities)
	}
	if label == "" {
		return nil, nil, nil
	}
	u, g, _ := strings.Cut(label, ":")
	uid, err = id(u, func(name string) (string, error) {
		found, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return found.Uid, nil
	})
	if err != nil {
		return nil, nil, err
	}
	gid, err = id(g, func(name string) (string, error) {
		found, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return found.Gid, nil
	})
	return uid, gid, err
}

// id reads "+64055", "64055" or a name.
func id(s string, look func(string) (string, error)) (*int, error) {
	if s == "" {
		return nil, nil
	}
	n, err := strconv.Atoi(strings.TrimPrefix(s, "+"))
	if err != nil {
		number, err := look(s)
		if err != nil {
			return nil, fmt.Errorf("QEMU's user or group: %w", err)
		}
		if n, err = strconv.Atoi(number); err != nil {
			return nil, fmt.Errorf("QEMU's user or group %s: %w", s, err)
		}
	}
	return &n, nil
}

// ownLabel is the domain's static DAC label.
func ownLabel(text string) string {
	var d struct {
		Labels []struct {
			Model string `xml:"model,attr"`
			Type  string `xml:"type,attr"`
			Label string `xml:"label"`
		} `xml:"seclabel"`
	}
	if xml.Unmarshal([]byte(text), &d) != nil {
		return ""
	}
	for _, l := range d.Labels {
		if l.Model == "dac" && l.Type == "static" {
			return strings.TrimSpace(l.Label)
		}
	}
	return ""
}

// baseLabel is the DAC label that libvirt gives to QEMU's processes.
func baseLabel(capabilities string) string {
	var c struct {
		Models []struct {
			Model  string   `xml:"model"`
			Labels []string `xml:"baselabel"`
		} `xml:"host>secmodel"`
	}
	if xml.Unmarshal([]byte(capabilities), &c) != nil {
		return ""
	}
	for _, m := range c.Models {
		if strings.TrimSpace(m.Model) == "dac" && len(m.Labels) > 0 {
			return strings.TrimSpace(m.Labels[0])
		}
	}
	return ""
}
