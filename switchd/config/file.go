package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
	"github.com/hashicorp/go-multierror"
)

// LoadFile reads a TOML file over the present values and reports everything in it that is wrong. Options are keys below their sections; a key
// that stands before all sections, as in files of earlier versions, is read with a notice.
func (c *Config) LoadFile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	tables := map[string]any{}
	if _, err := toml.Decode(string(data), &tables); err != nil {
		if strings.Contains(err.Error(), "uplink") && strings.Contains(err.Error(), "already been defined") {
			err = fmt.Errorf("%w: write the key uplink below [uplink]", err)
		}
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	f := &file{config: c, path: path, lines: strings.Split(string(data), "\n"), tables: tables, wrong: &multierror.Error{ErrorFormat: formatErrors}}
	for _, name := range f.inOrder(tables, "") {
		if section, ok := tables[name].(map[string]any); ok {
			f.readSection(name, section)
		} else {
			f.readFlat(name, tables[name])
		}
	}
	c.File = path
	return f.wrong.ErrorOrNil()
}

// file is a configuration file that is being read.
type file struct {
	config *Config
	path   string
	lines  []string
	tables map[string]any
	wrong  *multierror.Error
}

func (f *file) readSection(name string, keys map[string]any) {
	if !slices.ContainsFunc(Sections(), func(s Section) bool { return s.Name == name }) {
		f.fail("", name, "unknown section %q%s", name, didYouMean(name))
		return
	}
	for _, key := range f.inOrder(keys, name) {
		o, ok := findKey(key)
		switch {
		case !ok || o.Section == "":
			f.fail(name, key, "unknown setting %q%s", key, didYouMean(key))
		case o.Section != name:
			f.fail(name, key, "setting %q belongs below [%s]", key, o.Section)
		default:
			f.set(o, name, keys[key])
		}
	}
}

// readFlat reads a key before all sections.
func (f *file) readFlat(key string, value any) {
	o, ok := findKey(key)
	if !ok || o.Section == "" {
		f.fail("", key, "unknown setting %q%s", key, didYouMean(key))
		return
	}
	if section, ok := f.tables[o.Section].(map[string]any); ok {
		if other, both := section[key]; both && !o.same(other, value) {
			f.fail("", key, "setting %q is there twice, as %v and below [%s] as %v: remove one", key, value, o.Section, other)
			return
		}
	}
	f.config.Notices = append(f.config.Notices,
		fmt.Sprintf("configuration file %s:%d: %s belongs below [%s] now; it is read here, too", f.path, f.line("", key), key, o.Section))
	f.set(o, "", value)
}

func (f *file) set(o Option, section string, value any) {
	if list, ok := value.([]any); ok && o.Kind == Cores {
		f.setCores(o, section, list)
		return
	}
	texts, ok := o.texts(value)
	if !ok {
		f.fail(section, o.Name, "%s must be %s, not %#v", o.Name, o.want(), value)
		return
	}
	if err := o.Set(f.config, texts...); err != nil {
		f.fail(section, o.Name, "%s must be %s, not %#v", o.Name, o.want(), value)
	}
}

// setCores takes an array of numbers as it is: workers are numbered in its order, and -1 is one that is not pinned.
func (f *file) setCores(o Option, section string, list []any) {
	var cores CoreList
	for _, e := range list {
		n, ok := e.(int64)
		if !ok || n < -1 || n > 1023 {
			f.fail(section, o.Name, "%s must be %s, not %#v", o.Name, o.want(), list)
			return
		}
		cores = append(cores, int(n))
	}
	if len(cores) == 0 {
		f.fail(section, o.Name, "%s must be %s, not an empty list", o.Name, o.want())
		return
	}
	*o.field(f.config).(*CoreList) = cores
}

// same tells whether two values of the file mean the same, as 1 and true do.
func (o Option) same(a, b any) bool {
	x, known := o.texts(a)
	y, also := o.texts(b)
	if !known || !also {
		return reflect.DeepEqual(a, b)
	}
	if o.Kind == Boolean || o.Kind == Switch {
		s, _ := parseBool(x[0])
		t, _ := parseBool(y[0])
		return s == t
	}
	return slices.Equal(x, y)
}

// findKey finds an option by its key in the file, whose capitals do not matter.
func findKey(key string) (Option, bool) {
	if o, ok := Find(key); ok {
		return o, true
	}
	return Find(strings.ToLower(key))
}

// texts is a value of the file as it would stand on the command line.
func (o Option) texts(value any) (texts []string, ok bool) {
	switch v := value.(type) {
	case bool:
		return []string{strconv.FormatBool(v)}, o.Kind == Boolean || o.Kind == Switch
	case int64:
		return []string{strconv.FormatInt(v, 10)}, slices.Contains([]Kind{Number, Boolean, Switch, Size}, o.Kind)
	case string:
		return []string{v}, slices.Contains([]Kind{Text, Choice, Mode, Cores, Size}, o.Kind)
	case []any:
		for _, e := range v {
			switch e := e.(type) {
			case string:
				texts = append(texts, e)
			default:
				return nil, false
			}
		}
		return texts, o.Kind == List
	}
	return nil, false
}

func (f *file) fail(section, key, format string, args ...any) {
	at := f.path
	if n := f.line(section, key); n > 0 {
		at += ":" + strconv.Itoa(n)
	}
	f.wrong = multierror.Append(f.wrong, fmt.Errorf("configuration file %s: %s", at, fmt.Sprintf(format, args...)))
}

// line finds the line of a key, or of a section's name, because the decoder does not tell; 0 where the file writes it in another way.
func (f *file) line(section, key string) int {
	in := ""
	for i, line := range f.lines {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			in = strings.Trim(line, "[] \t")
			if section == "" && in == key {
				return i + 1
			}
			continue
		}
		name, _, pair := strings.Cut(line, "=")
		if pair && in == section && strings.Trim(strings.TrimSpace(name), `"'`) == key {
			return i + 1
		}
	}
	return 0
}

// inOrder lists keys in the order of their lines.
func (f *file) inOrder(keys map[string]any, section string) []string {
	var names []string
	for name := range keys {
		names = append(names, name)
	}
	slices.Sort(names)
	slices.SortStableFunc(names, func(a, b string) int { return f.line(section, a) - f.line(section, b) })
	return names
}
