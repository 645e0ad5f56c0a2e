package pci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"vhostkit/internal/atomicfile"
	"vhostkit/internal/host"
)

// Binder changes which driver has a card, and remembers which one had it.
type Binder struct {
	Host Host
	// Record is the file where the drivers before are kept, by address.
	Record string
	// LoadModule makes the kernel load a module; nil: modprobe.
	LoadModule func(name string) error
}

// DefaultRecord is where Binder keeps what it has changed.
const DefaultRecord = "/var/lib/vhostkit/nics.json"

// Step is a file below /sys and what is written there.
type Step struct {
	File string `json:"file"`
	Text string `json:"text"`
}

func (s Step) String() string { return fmt.Sprintf("echo %q > %s", s.Text, s.File) }

// ErrInUse says that taking a card away would cut somebody off.
var ErrInUse = errors.New("the card is in use")

// PlanBind gives the steps that give a card to a driver; none if it has it already. Without force a card that is in use is refused, one that
// would be of no use, and what is no card.
func (b Binder) PlanBind(address, driver string, force bool) ([]Step, error) {
	h := b.Host
	n := h.NIC(address)
	if n.Driver == driver {
		return nil, nil
	}
	if err := h.drivable(n); err != nil && !force {
		return nil, fmt.Errorf("bind %s to %s: %w", address, driver, err)
	}
	for _, i := range n.Interfaces {
		if use := h.InUse(i); use != "" && !force {
			return nil, fmt.Errorf("bind %s to %s: %w: %s: it would be cut off (--force does it all the same)", address, driver, ErrInUse, use)
		}
	}
	if err := h.free(address); err != nil {
		return nil, fmt.Errorf("bind %s to %s: %w", address, driver, err)
	}
	if driver == "vfio-pci" && !force {
		group, err := h.group(address)
		if err != nil {
			return nil, fmt.Errorf("bind %s to vfio-pci: %w", address, err)
		}
		if why := h.sharing(address, group); why != "" {
			return nil, fmt.Errorf("bind %s to vfio-pci: the switch could not open it: %s; --force begins with this one all the same", address, why)
		}
	}
	return b.steps(address, n.Driver, driver), nil
}

// steps: the driver before lets go, the override chooses the next one, and the kernel looks again.
func (b Binder) steps(address, from, to string) (list []Step) {
	dir := b.Host.device(address)
	list = append(list, Step{filepath.Join(dir, "driver_override"), to})
	if from != "" {
		list = append(list, Step{filepath.Join(dir, "driver/unbind"), address})
	}
	return append(list, Step{filepath.Join(b.Host.Sys, "bus/pci/drivers_probe"), address})
}

// Bind carries a plan out and remembers the driver before.
func (b Binder) Bind(address, driver string, force bool) (done []Step, err error) {
	steps, err := b.PlanBind(address, driver, force)
	if err != nil || len(steps) == 0 {
		return nil, err
	}
	if err := b.load(driver); err != nil {
		return nil, err
	}
	record, err := b.read()
	if err != nil {
		return nil, err
	}
	if _, known := record[address]; !known {
		record[address] = b.Host.driver(address)
		if err := b.write(record); err != nil {
			return nil, err
		}
	}
	return steps, b.run(address, driver, steps)
}

// Unbind gives a card back to the driver that had it before Bind; to the one that the kernel chooses, if Bind was never used.
func (b Binder) Unbind(address string, dryRun bool) (done []Step, err error) {
	record, err := b.read()
	if err != nil {
		return nil, err
	}
	before, known := record[address]
	now := b.Host.driver(address)
	if !known && now != "vfio-pci" && now != userIO {
		return nil, nil
	}
	if known && before == now && now != "" {
		steps := []Step{{filepath.Join(b.Host.device(address), "driver_override"), "\n"}}
		if dryRun {
			return steps, nil
		}
		delete(record, address)
		return steps, errors.Join(write(steps), b.write(record))
	}
	if err := b.Host.free(address); err != nil {
		return nil, fmt.Errorf("unbind %s from %s: %w", address, now, err)
	}
	steps := b.steps(address, now, "\n")
	if dryRun {
		return steps, nil
	}
	if before != "" {
		_ = b.load(before) // the module may be built in, or have another name
	}
	if err := b.run(address, before, steps); err != nil {
		return steps, err
	}
	delete(record, address)
	return steps, b.write(record)
}

// run carries steps out and waits until the driver has the card; want "" takes any, none too.
func (b Binder) run(address, want string, steps []Step) error {
	if err := write(steps); err != nil {
		return err
	}
	for end := time.Now().Add(5 * time.Second); want != "" && b.Host.driver(address) != want; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return fmt.Errorf("bind %s to %s: the kernel has not done it (%q has it now): dmesg tells why", address, want, b.Host.driver(address))
		}
	}
	return nil
}

func write(steps []Step) error {
	for _, s := range steps {
		if err := os.WriteFile(s.File, []byte(s.Text), 0o200); err != nil {
			return fmt.Errorf("write %q to %s: %w", s.Text, s.File, err)
		}
	}
	return nil
}

func (b Binder) load(driver string) error {
	if _, err := os.Stat(filepath.Join(b.Host.Sys, "bus/pci/drivers", driver)); err == nil {
		return nil
	}
	load := b.LoadModule
	if load == nil {
		load = host.LoadModule
	}
	if err := load(driver); err != nil {
		return fmt.Errorf("load the driver %s: %w", driver, err)
	}
	return nil
}

func (b Binder) read() (map[string]string, error) {
	record := map[string]string{}
	data, err := os.ReadFile(b.Record)
	if errors.Is(err, fs.ErrNotExist) {
		return record, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &record)
	}
	if err != nil {
		return nil, fmt.Errorf("read which drivers the cards had before from %s: %w", b.Record, err)
	}
	return record, nil
}

// write replaces the record; an empty one is removed.
func (b Binder) write(record map[string]string) error {
	if len(record) == 0 {
		return atomicfile.Remove(b.Record)
	}
	data, err := json.MarshalIndent(record, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(b.Record), 0o755)
	}
	if err == nil {
		err = atomicfile.Write(b.Record, append(data, '\n'), 0o644)
	}
	if err != nil {
		return fmt.Errorf("keep which drivers the cards had before in %s: %w", b.Record, err)
	}
	return nil
}
