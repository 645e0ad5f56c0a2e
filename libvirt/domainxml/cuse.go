package domainxml

import (
	"fmt"
	"strings"
)

// useCUSE makes libvirt open the vhost-cuse device for the interface instead of /dev/vhost-net. The offloads go off: QEMU would do them for
// its tap, and behind this device nobody completes what the guest leaves out.
func (a *attachment) useCUSE(n *node, i Interface) error {
	if err := checkModel(i); err != nil {
		return err
	}
	if i.Type == "vhostuser" {
		return fmt.Errorf("interface %s is a vhost-user interface: vhostctl detach first, then attach with --mode cuse", i.name())
	}
	var lines []string
	switch backend := n.find("backend"); {
	case backend.attr("vhost") == a.options.CUSE:
	case backend != nil:
		a.changed("interface %s: libvirt opens %s for it, not %s", i.name(), a.options.CUSE, backend.attr("vhost"))
		a.setAttr(backend, "vhost", a.options.CUSE)
	default:
		a.changed("interface %s: libvirt opens %s for it", i.name(), a.options.CUSE)
		lines = append(lines, "<backend vhost='"+escapeAttr(a.options.CUSE, '\'')+"'/>")
	}
	driver := n.find("driver")
	if driver == nil {
		a.changed("interface %s: driver vhost, offloads off", i.name())
		queues := ""
		if a.wantsQueues(i) {
			queues = fmt.Sprintf(" queues='%d'", a.options.Queues)
		}
		lines = append(lines, "<driver name='vhost'"+queues+">")
		for _, o := range offloads {
			lines = append(lines, "  "+o.element())
		}
		lines = append(lines, "</driver>")
	} else {
		if driver.attr("name") != "vhost" {
			a.changed("interface %s: driver vhost", i.name())
			a.setAttr(driver, "name", "vhost")
		}
		a.queues(n, i)
		a.offloadsOff(driver, i)
	}
	if len(lines) > 0 {
		a.add(n, lines...)
	}
	return nil
}

// offloads are those that a vhost-cuse interface must not have.
var offloads = []offload{{"host", []string{"csum", "gso"}}, {"guest", []string{"csum", "tso4", "tso6", "ecn"}}}

type offload struct {
	side  string
	names []string
}

func (o offload) element() string {
	return "<" + o.side + " " + strings.Join(o.names, "='off' ") + "='off'/>"
}

// offloadsOff turns those off that are not.
func (a *attachment) offloadsOff(driver *node, i Interface) {
	var lines []string
	changed := false
	for _, o := range offloads {
		side := driver.find(o.side)
		if side == nil {
			lines, changed = append(lines, o.element()), true
			continue
		}
		for _, name := range o.names {
			if side.attr(name) != "off" {
				changed = true
				a.setAttr(side, name, "off")
			}
		}
	}
	if len(lines) > 0 {
		a.add(driver, lines...)
	}
	if changed {
		a.changed("interface %s: offloads off", i.name())
	}
}
