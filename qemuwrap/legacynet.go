package qemuwrap

import (
	"fmt"
	"strings"
)

// convertLegacyNetworks turns what vhost-user cannot be written with (-nic tap,…, and -net nic with -net tap) into -netdev and -device.
func (r *rewriter) convertLegacyNetworks() error {
	if r.config.Mode == ModeCUSE {
		return nil // -net tap,vhost=on takes vhostfd as -netdev does
	}
	for i := 0; i < len(r.options); i++ {
		if o := &r.options[i]; o.is("nic") {
			if err := r.convertNIC(i); err != nil {
				return err
			}
		}
	}
	return r.convertNet()
}

// virtioModel tells whether a -nic or -net model is virtio-net, which is named in several ways.
func virtioModel(model string) bool {
	return model == "virtio" || strings.HasPrefix(model, "virtio-net")
}

func deviceDriver(model string) string {
	if model == "virtio" {
		return "virtio-net-pci"
	}
	return model
}

// convertNIC splits -nic tap,model=virtio,… in two.
func (r *rewriter) convertNIC(i int) error {
	k, err := parseKeyval(r.options[i].value(), "type")
	if err != nil {
		return fmt.Errorf("-nic: %w", err)
	}
	if k.text("type") != "tap" || !virtioModel(k.text("model")) || len(r.config.Interfaces) > 0 && !r.selectedByMAC(k.text("mac")) {
		return nil
	}
	if k.text("id") == "" {
		k.set("id", fmt.Sprintf("nic%d", i))
	}
	device := "driver=" + deviceDriver(k.text("model")) + ",netdev=" + doubleCommas(k.text("id"))
	if mac := k.text("mac"); mac != "" {
		device += ",mac=" + mac
	}
	k.remove(func(key string) bool { return key == "model" || key == "mac" })
	r.options[i] = newOption("netdev", k.String())
	r.insert(i+1, newOption("device", strings.TrimPrefix(device, "driver=")))
	r.because("-nic: split into -netdev and -device, which vhost-user needs")
	return nil
}

func (r *rewriter) selectedByMAC(mac string) bool {
	for _, s := range r.config.Interfaces {
		if s == "all" || mac != "" && strings.EqualFold(s, mac) {
			return true
		}
	}
	return false
}

// convertNet joins one -net nic,model=virtio and one -net tap. With more of them it cannot be told which belong together.
func (r *rewriter) convertNet() error {
	var nics, taps []int
	for i := range r.options {
		o := &r.options[i]
		if !o.is("net") {
			continue
		}
		k, err := parseKeyval(o.value(), "type")
		if err != nil {
			return fmt.Errorf("-net: %w", err)
		}
		switch {
		case k.text("type") == "tap":
			taps = append(taps, i)
		case k.text("type") == "nic" && virtioModel(k.text("model")):
			nics = append(nics, i)
		}
	}
	if len(nics) == 0 || len(taps) == 0 {
		return nil
	}
	if len(nics) > 1 || len(taps) > 1 {
		return fmt.Errorf("%d times -net nic and %d times -net tap: write them as -netdev and -device, so that it is clear which belong together",
			len(nics), len(taps))
	}
	nic, _ := parseKeyval(r.options[nics[0]].value(), "type")
	tap, _ := parseKeyval(r.options[taps[0]].value(), "type")
	if len(r.config.Interfaces) > 0 && !r.selectedByMAC(nic.text("macaddr")) {
		return nil
	}
	id := tap.text("id")
	if id == "" {
		id = "net0"
		tap.set("id", id)
	}
	tap.remove(func(key string) bool { return key == "vlan" || key == "name" })
	device := deviceDriver(nic.text("model")) + ",netdev=" + doubleCommas(id)
	for _, k := range [][2]string{{"macaddr", "mac"}, {"addr", "addr"}, {"vectors", "vectors"}} {
		if v := nic.text(k[0]); v != "" {
			device += "," + k[1] + "=" + doubleCommas(v)
		}
	}
	r.options[taps[0]] = newOption("netdev", tap.String())
	r.options[nics[0]] = newOption("device", device)
	if nics[0] < taps[0] { // the device looks for its netdev
		r.options[nics[0]], r.options[taps[0]] = r.options[taps[0]], r.options[nics[0]]
	}
	r.because("-net: written as -netdev and -device, which vhost-user needs")
	return nil
}
