package qemuwrap

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// keyval is the value of an option such as -netdev: a list of keys and values, in QEMU's own syntax ("tap,id=n0,vhost=on", a comma in a
// value is doubled) or in JSON. Members that are not touched keep their bytes and their order.
type keyval struct {
	isJSON  bool
	first   string // the key that the first member may leave out: type, driver, qom-type, size
	members []member
}

type member struct {
	key string
	raw string // legacy: "key=value" as it came, or "value" of the first; JSON: the value
}

// parseKeyval reads a value; first is the key that may be left out.
func parseKeyval(value, first string) (*keyval, error) {
	k := &keyval{first: first}
	if strings.HasPrefix(strings.TrimSpace(value), "{") {
		k.isJSON = true
		return k, k.parseJSON(value)
	}
	for i, piece := range splitCommas(value) {
		key, _, found := strings.Cut(piece, "=")
		if !found && i == 0 {
			key = first
		}
		k.members = append(k.members, member{key, piece})
	}
	return k, nil
}

// splitCommas splits at single commas: two in a row stand for one in a value.
func splitCommas(s string) []string {
	var pieces []string
	begin := 0
	for i := 0; i < len(s); i++ {
		if s[i] != ',' {
			continue
		}
		if i+1 < len(s) && s[i+1] == ',' {
			i++
			continue
		}
		pieces = append(pieces, s[begin:i])
		begin = i + 1
	}
	return append(pieces, s[begin:])
}

func (k *keyval) parseJSON(value string) error {
	d := json.NewDecoder(strings.NewReader(value))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return fmt.Errorf("%q is no JSON object", value)
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return fmt.Errorf("JSON %q: %w", value, err)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return fmt.Errorf("JSON %q: %w", value, err)
		}
		k.members = append(k.members, member{t.(string), string(raw)})
	}
	if _, err := d.Token(); err != nil {
		return fmt.Errorf("JSON %q: %w", value, err)
	}
	if d.More() {
		return fmt.Errorf("JSON %q: something follows the object", value)
	}
	return nil
}

// String gives the value for the command line.
func (k *keyval) String() string {
	var b strings.Builder
	if !k.isJSON {
		for i, m := range k.members {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(m.raw)
		}
		return b.String()
	}
	b.WriteByte('{')
	for i, m := range k.members {
		if i > 0 {
			b.WriteByte(',')
		}
		b.Write(encode(m.key))
		b.WriteByte(':')
		b.WriteString(m.raw)
	}
	b.WriteByte('}')
	return b.String()
}

// encode gives v as JSON, without HTML's escapes.
func encode(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // strings, numbers and booleans can be encoded
	}
	return bytes.TrimSpace(b.Bytes())
}

// index finds the last member with the key, which is the one that counts, or -1.
func (k *keyval) index(key string) int {
	for i := len(k.members) - 1; i >= 0; i-- {
		if k.members[i].key == key {
			return i
		}
	}
	return -1
}

// get is the value of a key as text: JSON's true and false are on and off. ok is false where there is none.
func (k *keyval) get(key string) (value string, ok bool) {
	i := k.index(key)
	if i < 0 {
		return "", false
	}
	raw := k.members[i].raw
	if k.isJSON {
		return jsonText(raw), true
	}
	if _, v, found := strings.Cut(raw, "="); found {
		return strings.ReplaceAll(v, ",,", ","), true
	}
	if i == 0 && key == k.first {
		return strings.ReplaceAll(raw, ",,", ","), true
	}
	return "on", true // a flag: "share" is "share=on"; "noshare" is not understood by newer QEMUs either
}

func jsonText(raw string) string {
	switch raw {
	case "true":
		return "on"
	case "false":
		return "off"
	}
	var s string
	if json.Unmarshal([]byte(raw), &s) == nil {
		return s
	}
	return raw
}

// text is get without ok.
func (k *keyval) text(key string) string {
	v, _ := k.get(key)
	return v
}

// set gives a key a value (string, bool or uint64), in place if the key is there, at the end otherwise. It reports whether that changes
// anything.
func (k *keyval) set(key string, value any) bool {
	m := member{key, k.format(key, value)}
	i := k.index(key)
	if i < 0 {
		k.members = append(k.members, m)
		return true
	}
	if old, _ := k.get(key); old == legacyText(value) {
		return false
	}
	k.members[i] = m
	return true
}

func (k *keyval) format(key string, value any) string {
	if k.isJSON {
		return string(encode(value))
	}
	text := strings.ReplaceAll(legacyText(value), ",", ",,")
	if key == k.first && len(k.members) > 0 && k.members[0].key == key && !strings.Contains(k.members[0].raw, "=") {
		return text
	}
	return key + "=" + text
}

func legacyText(value any) string {
	switch v := value.(type) {
	case bool:
		if v {
			return "on"
		}
		return "off"
	case uint64:
		return strconv.FormatUint(v, 10)
	default:
		return fmt.Sprint(v)
	}
}

// remove drops all members that the function names, and tells which.
func (k *keyval) remove(drop func(key string) bool) (removed []string) {
	keep := k.members[:0:0]
	for _, m := range k.members {
		if drop(m.key) {
			removed = append(removed, m.key)
		} else {
			keep = append(keep, m)
		}
	}
	k.members = keep
	return removed
}

// parseSize reads a size as QEMU writes it: a number with a suffix; without one it is in units of unit bytes.
func parseSize(s string, unit uint64) (uint64, error) {
	number := strings.TrimRight(s, "bBkKmMgGtTpPeE")
	suffix := strings.ToUpper(s[len(number):])
	factor := unit
	if suffix != "" {
		i := strings.Index("BKMGTPE", suffix)
		if i < 0 || len(suffix) != 1 {
			return 0, fmt.Errorf("size %q: want a number with a suffix such as M or G", s)
		}
		factor = 1 << (10 * i)
	}
	bad := fmt.Errorf("size %q: want a number with a suffix such as M or G", s)
	if n, err := strconv.ParseUint(number, 0, 64); err == nil {
		if n >= 1<<63/factor {
			return 0, bad
		}
		return n * factor, nil
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || !(f >= 0 && f*float64(factor) < 1<<63) {
		return 0, bad
	}
	return uint64(f * float64(factor)), nil
}
