package config

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"testing"

	"github.com/BurntSushi/toml"

	"vhostkit/templates"
)

// TestSample: the sample file names every setting, with the value that holds without it.
func TestSample(t *testing.T) {
	settings := regexp.MustCompile(`(?m)^#([a-z0-9-]+ = )`).ReplaceAllString(templates.SwitchdConfig, "$1")
	file := filepath.Join(t.TempDir(), "switchd.toml")
	if err := os.WriteFile(file, []byte(settings), 0o644); err != nil {
		t.Fatal(err)
	}
	c := DefaultConfig()
	if err := c.LoadFile(file); err != nil {
		t.Fatal(err)
	}
	meta, err := toml.Decode(settings, &Config{})
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	for i := range reflect.TypeOf(c).NumField() {
		f := reflect.TypeOf(c).Field(i)
		key := f.Tag.Get("toml")
		if key == "-" {
			continue
		}
		if !meta.IsDefined(key) {
			t.Errorf("the sample lacks %s", key)
		}
		is, should := reflect.ValueOf(c).Field(i), reflect.ValueOf(want).Field(i)
		if is.Kind() == reflect.Slice && is.Len()+should.Len() == 0 || os.Geteuid() != 0 && slices.Contains([]string{"socket-dir", "state-dir", "control"}, key) {
			continue
		}
		if !reflect.DeepEqual(is.Interface(), should.Interface()) {
			t.Errorf("the sample says %s = %v, the default is %v", key, is, should)
		}
	}
}

func TestCoresAsText(t *testing.T) {
	for text, want := range map[string]CoreList{`cores = "2-3,5"`: {2, 3, 5}, `cores = [1, 4]`: {1, 4}, `cores = ""`: {-1}} {
		var c Config
		if _, err := toml.Decode(text, &c); err != nil || !slices.Equal(c.Cores, want) {
			t.Errorf("%s: %v, %v; want %v", text, c.Cores, err, want)
		}
	}
	for _, bad := range []string{`cores = "x"`, `cores = ["a"]`, `cores = true`} {
		var c Config
		if _, err := toml.Decode(bad, &c); err == nil {
			t.Errorf("%s: %v", bad, c.Cores)
		}
	}
}
