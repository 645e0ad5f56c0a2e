package qemuwrap

import (
	"reflect"
	"regexp"
	"testing"

	"github.com/BurntSushi/toml"

	"vhostkit/templates"
)

// TestSample: the sample file names every setting, with the value that holds without it.
func TestSample(t *testing.T) {
	settings := regexp.MustCompile(`(?m)^#([a-z_]+ = )`).ReplaceAllString(templates.QEMUWrapConfig, "$1")
	var c Config
	meta, err := toml.Decode(settings, &c)
	if err != nil || len(meta.Undecoded()) > 0 {
		t.Fatalf("%v, unknown %v", err, meta.Undecoded())
	}
	want := DefaultConfig()

	for _, w := range []*Words{&c.EmulOptsUser, &c.EmulOptsUserVhost, &c.Interfaces} {
		if len(*w) == 0 {
			*w = nil
		}
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("the sample says %+v, the defaults are %+v", c, want)
	}
	for i := range reflect.TypeOf(c).NumField() {
		if key := reflect.TypeOf(c).Field(i).Tag.Get("toml"); !meta.IsDefined(key) {
			t.Errorf("the sample lacks %s", key)
		}
	}
}
