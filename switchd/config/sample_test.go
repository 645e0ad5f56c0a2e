package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"vhostkit/templates"
)

// TestSample: the installed sample is what the table makes: go run ./cmd/switchd --sample-config >templates/switchd.toml.
func TestSample(t *testing.T) {
	if templates.SwitchdConfig != Sample() {
		t.Errorf("templates/switchd.toml is not what the option table makes:\n%s", Sample())
	}
}

// TestDocumentedOptions: the table in the document is what the option table makes: go run ./cmd/switchd --options-table.
func TestDocumentedOptions(t *testing.T) {
	text, err := os.ReadFile("../../docs/options.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(text), "\n\n"+Markdown()) {
		t.Errorf("docs/options.md does not end with what the option table makes:\n%s", Markdown())
	}
}

// TestSampleHasTheDefaults: with every line of the sample active, the file says what holds without it.
func TestSampleHasTheDefaults(t *testing.T) {
	settings := regexp.MustCompile(`(?m)^#([a-z0-9-]+ = )`).ReplaceAllString(Sample(), "$1")
	c := Config{MainCore: -1}
	if err := c.LoadFile(write(t, settings)); err != nil {
		t.Fatal(err)
	}
	want := defaults(systemRun, systemState)
	for _, o := range Options() {
		is, should := reflect.ValueOf(o.Value(c)), reflect.ValueOf(o.Value(want))
		if o.Section == "" || is.Kind() == reflect.Slice && is.Len()+should.Len() == 0 {
			continue
		}
		if !strings.Contains(settings, "\n"+o.Name+" = ") {
			t.Errorf("the sample lacks %s", o.Name)
		}
		if !reflect.DeepEqual(is.Interface(), should.Interface()) {
			t.Errorf("the sample says %s = %v, the default is %v", o.Name, is, should)
		}
	}
	if len(c.Notices) != 0 {
		t.Errorf("notices about the sample: %q", c.Notices)
	}
}

// TestTable: each field of Config that can be set has one row, and each row what its kind needs.
func TestTable(t *testing.T) {
	var c Config
	rows, names := map[any]string{}, map[string]bool{}
	for _, o := range Options() {
		if names[o.Name] || o.Help == "" || strings.HasSuffix(o.Help, ".") {
			t.Errorf("row %s: twice, or without help, or with a full stop", o.Name)
		}
		names[o.Name] = true
		if o.Kind == Number && o.Low >= o.High || o.Kind == Choice && len(o.Choices) < 2 || (o.Kind == Switch || o.Kind == Boolean) != (o.Arg == "") {
			t.Errorf("row %s: range %d..%d, choices %q, argument %q", o.Name, o.Low, o.High, o.Choices, o.Arg)
		}
		rows[o.field(&c)] = o.Name
	}
	v := reflect.ValueOf(&c).Elem()
	for i := range v.NumField() {
		switch name := v.Type().Field(i).Name; name {
		case "MainCore", "Notices", "Warnings": // of the old command lines; of the parsing
		default:
			if rows[v.Field(i).Addr().Interface()] == "" {
				t.Errorf("Config.%s has no row", name)
			}
		}
	}
}

func TestCoresInFile(t *testing.T) {
	for text, want := range map[string]CoreList{`cores = "2-3,5"`: {2, 3, 5}, `cores = [1, 4]`: {1, 4}, `cores = [3, 2]`: {3, 2}, `cores = [-1, -1]`: {-1, -1},
		`CORES = [7]`: {7}, `cores = ""`: {-1}} {
		var c Config
		if err := c.LoadFile(write(t, "[workers]\n"+text)); err != nil || !reflect.DeepEqual(c.Cores, want) {
			t.Errorf("%s: %v, %v; want %v", text, c.Cores, err, want)
		}
	}
	for _, bad := range []string{`cores = "x"`, `cores = ["a"]`, `cores = true`, `cores = []`, `cores = [1024]`, `cores = [-2]`} {
		var c Config
		if err := c.LoadFile(write(t, bad)); err == nil || !strings.Contains(err.Error(), "cores must be a list such as") {
			t.Errorf("%s: %v, %v", bad, c.Cores, err)
		}
	}
}

// TestCoresOnce: a core that an array names twice is refused by the check, and not passed over.
func TestCoresOnce(t *testing.T) {
	c := DefaultConfig()
	if err := c.LoadFile(write(t, "[workers]\ncores = [2, 2]")); err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "each core once") {
		t.Errorf("cores = [2, 2]: %v", err)
	}
}

// TestSameTwice: what stands before all sections and below its own may be written in two ways, but must mean the same.
func TestSameTwice(t *testing.T) {
	for text, fine := range map[string]bool{
		"mergeable = true\n[ports]\nmergeable = 1": true, "mergeable = true\n[ports]\nmergeable = 0": false,
	} {
		c := DefaultConfig()
		if err := c.LoadFile(write(t, text)); (err == nil) != fine {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// write makes a configuration file.
func write(t *testing.T, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "switchd.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
