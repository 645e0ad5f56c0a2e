package config

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// Kind is what kind of value an option has.
type Kind int

// The kinds of values.
const (
	Text    Kind = iota
	Number       // decimal, from Low to High
	Boolean      // 0 or 1, false or true
	Switch       // the same; on the command line the name alone is enough
	Choice       // one of Choices
	List         // texts; on the command line the option is repeated
	Mode         // permissions in octal
	Cores        // such as 2-3,5
	Size         // bytes, also with K, M, G or T
	Mask         // hexadecimal, one bit
)

// Option is a setting: a row of the table that the command lines, the configuration file, its sample, reloading and the documents come from.
type Option struct {
	Name    string // of the long option, without dashes, and of the key in the file
	Short   string // a letter; empty: none
	Sample  string // the option of DPDK's vhost sample that means the same; empty: none
	Section string // of the file; empty: it is on the command line only
	Kind    Kind
	Low     int // of a Number
	High    int
	Choices []string
	Default string // as on the command line; {run} and {state} are directories
	Arg     string // what stands for the value in help
	Help    string // a phrase without full stop at its end
	// Reloadable tells that a change takes effect at SIGHUP; any other needs a restart.
	Reloadable bool
	field      func(*Config) any // a pointer into the configuration
}

// Section is a table of the configuration file.
type Section struct{ Name, Title string }

// Find looks an option up by its name.
func Find(name string) (Option, bool) {
	for _, o := range Options() {
		if o.Name == name {
			return o, true
		}
	}
	return Option{}, false
}

// Set takes over what was written for the option: one text, or each of a List's. Only Validate checks ranges and choices.
func (o Option) Set(c *Config, values ...string) error {
	if list, ok := o.field(c).(*[]string); ok {
		*list = append([]string(nil), values...)
		return nil
	}
	text := values[len(values)-1]
	switch to := o.field(c).(type) {
	case *string:
		*to = text
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return o.wrong(strconv.Quote(text))
		}
		*to = n
	case *bool:
		b, ok := parseBool(text)
		if !ok {
			return o.wrong(strconv.Quote(text))
		}
		*to = b
	case *CoreList:
		if text == "" {
			*to = CoreList{-1}
			return nil
		}
		cores, err := ParseCores(text)
		if err != nil {
			return o.wrong(strconv.Quote(text))
		}
		*to = cores
	case *ByteSize:
		if to.Set(text) != nil {
			return o.wrong(strconv.Quote(text))
		}
	case *uint64:
		mask, err := ParsePortMask(text)
		if err != nil {
			return err
		}
		*to = mask
	default:
		panic(fmt.Sprintf("option %s is of type %T", o.Name, to))
	}
	return nil
}

// Value is what the option has in a configuration.
func (o Option) Value(c Config) any {
	switch v := o.field(&c).(type) {
	case *string:
		return *v
	case *int:
		return *v
	case *bool:
		return *v
	case *[]string:
		return *v
	case *CoreList:
		return *v
	case *ByteSize:
		return *v
	case *uint64:
		return *v
	}
	return nil
}

// check checks the range or choice.
func (o Option) check(c *Config) error {
	switch v := o.field(c).(type) {
	case *int:
		if *v < o.Low || *v > o.High {
			return o.wrong(strconv.Itoa(*v))
		}
	case *string:
		if o.Kind == Choice {
			return oneOf("--"+o.Name, *v, o.Choices...)
		}
		if _, err := strconv.ParseUint(*v, 8, 9); o.Kind == Mode && err != nil {
			return o.wrong(strconv.Quote(*v))
		}
	}
	return nil
}

// wrong says what a value must be.
func (o Option) wrong(value string) error {
	return &RangeError{Option: "--" + o.Name, Value: value, Want: o.want()}
}

// want tells what values are possible.
func (o Option) want() string {
	switch o.Kind {
	case Number:
		return fmt.Sprintf("%d..%d", o.Low, o.High)
	case Boolean, Switch:
		return "0 or 1 (or false or true)"
	case Choice:
		return strings.Join(o.Choices, " or ")
	case Mode:
		return "an octal mode such as 0660"
	case Cores:
		return "a list such as 1-3,5 of cores 0..1023"
	case Size:
		return "a number of bytes such as 512M, 64G or 1T"
	case List:
		return "a list of texts"
	}
	return "a text"
}

func parseBool(text string) (value, ok bool) {
	value, err := strconv.ParseBool(text)
	return value, err == nil
}

// defaults makes the configuration that holds where nothing is said, with these directories.
func defaults(run, state string) Config {
	c := Config{MainCore: -1}
	for _, o := range Options() {
		if o.Default == "" && o.Kind != Cores {
			continue
		}
		if err := o.Set(&c, o.defaultIn(run, state)); err != nil {
			panic(fmt.Sprintf("default of the option table: %v", err)) // the table is wrong
		}
	}
	return c
}

// defaultIn is the default with these directories.
func (o Option) defaultIn(run, state string) string {
	text := strings.NewReplacer("{run}", run, "{state}", state).Replace(o.Default)
	if text != o.Default {
		return filepath.Clean(text)
	}
	return text
}
