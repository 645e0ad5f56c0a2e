package libvirtd

import (
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"vhostkit/test/guest"
)

// Domain is a domain to define: it boots the guests' kernel with the agent inside.
type Domain struct {
	Name       string
	Emulator   string // empty: QEMU itself
	Interfaces string // <interface> elements
	Memory     string // <memoryBacking> element, or empty
}

var domainXML = template.Must(template.New("domain").Funcs(template.FuncMap{"text": escape}).Parse(
	`<domain type='{{.Type}}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <!-- a comment of the operator's -->
  <name>{{text .Name}}</name>
  <memory unit='MiB'>256</memory>
  {{.Memory}}
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{{text .Kernel}}</kernel>
    <initrd>{{text .Initramfs}}</initrd>
    <cmdline>{{text .CommandLine}}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <cpu mode='maximum'/>
  <on_reboot>destroy</on_reboot>
  <devices>
    <emulator>{{text .Emulator}}</emulator>
    <controller type='usb' model='none'/>
    <controller type='pci' model='pcie-root'/>
    {{range .Spare}}<controller type='pci' model='pcie-root-port'/>
    {{end}}{{.Interfaces}}
    <serial type='file'><source path='{{text .Console}}'/></serial>
    <channel type='unix'>
      <source mode='connect' path='{{text .Agent}}'/>
      <target type='virtio' name='{{text .Port}}'/>
    </channel>
    <memballoon model='none'/>
  </devices>
  {{if .NoMSIX}}<qemu:commandline>
    <qemu:arg value='-global'/>
    <qemu:arg value='virtio-net-pci.vectors=0'/>
  </qemu:commandline>{{end}}
</domain>
`))

func escape(s string) (string, error) {
	var b bytes.Buffer
	err := xml.EscapeText(&b, []byte(s))
	return b.String(), err
}

// prepareGuests puts what domains boot where QEMU's user can read it. libvirt changes the owners of these files, so they are copies.
func (r *Rig) prepareGuests(ctx context.Context) error {
	var err error
	if r.qemu, err = guest.FindQEMU(); err != nil {
		return err
	}
	if r.version, err = guest.QEMUVersion(ctx, r.qemu); err != nil {
		return err
	}
	kernel, err := guest.FindKernel()
	if err != nil {
		return err
	}
	r.accel = guest.Accelerator(ctx, r.qemu, "max", kernel)
	r.files, err = guest.WriteBootFiles(ctx, r.Dir, []string{"virtio_net"})
	return err
}

// XML is a domain's description.
func (r *Rig) XML(d Domain) (string, error) {
	if d.Emulator == "" {
		d.Emulator = r.qemu
	}
	kind := "qemu"
	if r.accel == "kvm" {
		kind = "kvm"
	}
	var out strings.Builder
	err := domainXML.Execute(&out, struct {
		Domain
		guest.BootFiles
		Type, Console, Agent, Port string
		Spare                      []int
		NoMSIX                     bool
	}{
		Domain: d, BootFiles: r.files, Type: kind, Console: filepath.Join(r.Dir, d.Name+".console.log"), Agent: r.agent(d.Name), Port: guest.AgentPort,
		Spare: make([]int, 8), NoMSIX: r.accel == "tcg" && guest.NeedsNoMSIX(r.version),
	})
	return out.String(), err
}

func (r *Rig) agent(name string) string { return filepath.Join(r.Dir, name+".agent") }

// Define defines a domain and returns the description that libvirt has made of it.
func (r *Rig) Define(ctx context.Context, d Domain) (string, error) {
	text, err := r.XML(d)
	if err != nil {
		return "", err
	}
	file := filepath.Join(r.Dir, d.Name+".xml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", err
	}
	if _, err := r.Virsh(ctx, "define", "--validate", file); err != nil {
		return "", err
	}
	if r.listeners[d.Name] == nil {
		// The guest's end of the agent's channel: QEMU connects to it when it starts.
		l, err := net.Listen("unix", r.agent(d.Name))
		if err != nil {
			return "", err
		}
		r.listeners[d.Name] = l
		if err := os.Chmod(r.agent(d.Name), 0o666); err != nil {
			return "", err
		}
	}
	return r.Inactive(ctx, d.Name)
}

// Inactive is a domain's persistent description.
func (r *Rig) Inactive(ctx context.Context, name string) (string, error) {
	return r.Virsh(ctx, "dumpxml", "--inactive", "--security-info", name)
}

// Boot starts a domain by virsh, or by start where it is given, and waits until the guest's agent answers.
func (r *Rig) Boot(ctx context.Context, name string, start func(context.Context) error) (*guest.Guest, error) {
	if start == nil {
		start = func(ctx context.Context) error {
			_, err := r.Virsh(ctx, "start", name)
			return err
		}
	}
	l, ok := r.listeners[name].(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("domain %s was not defined by this rig", name)
	}
	if err := start(ctx); err != nil {
		return nil, err
	}
	// QEMU has connected while it started.
	if err := l.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, err
	}
	conn, err := l.Accept()
	if err != nil {
		return nil, fmt.Errorf("domain %s: no connection to its agent: %w", name, err)
	}
	return guest.Connect(ctx, name, conn, filepath.Join(r.Dir, name+".console.log"))
}

// QEMU is a domain's process as seen from outside; 0 if there is none.
func (r *Rig) QEMU(name string) (int, error) {
	text, err := os.ReadFile(r.Path("/run/libvirt/qemu/" + name + ".pid"))
	if os.IsNotExist(err) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	inside, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, err
	}
	return r.outside(inside)
}

// outside finds the process that has this number in the rig's process namespace (NSpid in proc(5)).
func (r *Rig) outside(pid int) (int, error) {
	ours, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", r.init))
	if err != nil {
		return 0, err
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range all {
		if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns != ours {
			continue
		}
		status, err := os.ReadFile(dir + "/status")
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "NSpid:" && f[len(f)-1] == strconv.Itoa(pid) {
				return strconv.Atoi(filepath.Base(dir))
			}
		}
	}
	return 0, nil
}
