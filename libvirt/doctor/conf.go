package doctor

import (
	"strings"
)

const (
	qemuConf    = "/etc/libvirt/qemu.conf"
	wrapperConf = "/etc/vhostkit/qemu-wrap.toml"
)

// conf holds the settings of qemu.conf or a flat TOML file: what stands between = and the end of the value, as words without quotes.
type conf map[string][]string

// readConf reads what is active; the last assignment wins. A missing file has no settings.
func readConf(f Files, file string) conf {
	c := conf{}
	var key string
	inList := false
	for _, line := range strings.Split(text(f, file), "\n") {
		line = strings.TrimSpace(stripComment(line))
		if !inList {
			name, value, ok := strings.Cut(line, "=")
			if !ok {
				continue
			}
			key, line = strings.TrimSpace(name), strings.TrimSpace(value)
			c[key] = nil
			inList = strings.HasPrefix(line, "[")
		}
		for _, word := range strings.Split(strings.Trim(line, "[] "), ",") {
			if word = strings.Trim(strings.TrimSpace(word), `"'`); word != "" {
				c[key] = append(c[key], word)
			}
		}
		if strings.HasSuffix(line, "]") {
			inList = false
		}
	}
	return c
}

// stripComment cuts at the first # outside quotes.
func stripComment(line string) string {
	var quote rune
	for i, r := range line {
		switch {
		case quote != 0:
			if r == quote {
				quote = 0
			}
		case r == '"' || r == '\'':
			quote = r
		case r == '#':
			return line[:i]
		}
	}
	return line
}

func (c conf) set(key string) bool {
	_, ok := c[key]
	return ok
}

func (c conf) value(key string) string {
	if v := c[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}
