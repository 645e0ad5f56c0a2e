package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vhostkit/test/guest"
	"vhostkit/test/guest/hostvlan"
)

const (
	guestMemoryMiB = 256
	tapName        = "vhk0"
	bulkPort       = 5001
)

// scene is everything that is on stage.
type scene struct {
	o      options
	out    *report
	dir    string
	huge   string // hugetlbfs mount, or empty
	sw     *daemon
	guests [2]*guest.Guest
}

// The guests' addresses in the network that they share.
func address(i int) string { return fmt.Sprintf("10.77.0.%d", i+1) }
func mac(i int) string     { return fmt.Sprintf("52:54:00:77:00:%02x", i+1) }

// inside plays the demo.
func inside(ctx context.Context, o options, out *report) (err error) {
	s := &scene{o: o, out: out, dir: os.Getenv(insideVariable)}
	if err := ownMounts(); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, s.end())
		if err == nil {
			out.worked(fmt.Sprintf("two guests talked through switchd, %d MB arrived unchanged, and both reached the host (%.0f s)",
				o.bytes>>20, out.elapsed().Seconds()))
		}
	}()
	for _, act := range []func(context.Context) error{s.memory, s.startSwitch, s.boot, s.ping, s.bulk, s.uplink, s.tables} {
		if err := act(ctx); err != nil {
			if s.sw != nil && !stopped(ctx) {
				out.block("the last lines of switchd", s.sw.tail(20))
			}
			return err
		}
	}
	return nil
}

// ownMounts separates this mount namespace from the machine's and shows the new process and network namespaces.
func ownMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

func (s *scene) memory(context.Context) error {
	return s.out.step("memory for the guests", func() (string, error) {
		pages := os.Getenv(hugepagesVariable)
		if _, err := strconv.Atoi(pages); err != nil {
			return "shared memory (huge pages: " + pages + ")", nil
		}
		dir := filepath.Join(s.dir, "huge")
		if err := os.Mkdir(dir, 0o700); err != nil {
			return "", err
		}
		if err := unix.Mount("none", dir, "hugetlbfs", 0, "pagesize=2M"); err != nil {
			return fmt.Sprintf("shared memory (no hugetlbfs: %v)", err), nil
		}
		s.huge = dir
		return pages + " huge pages of 2 MiB", nil
	})
}

func (s *scene) startSwitch(ctx context.Context) error {
	return s.out.step("switchd", func() (string, error) {
		var err error
		s.sw, err = startDaemon(ctx, s.dir, filepath.Join(s.o.bin, "switchd"))
		return "serves guests, uplink is the tap interface " + tapName, err
	})
}

func (s *scene) boot(ctx context.Context) error {
	return s.out.step("two guests", func() (string, error) {
		failed := make([]error, len(s.guests))
		done := make(chan struct{})
		for i := range s.guests {
			go func() {
				s.guests[i], failed[i] = s.bootOne(ctx, i)
				done <- struct{}{}
			}()
		}
		for range s.guests {
			<-done
		}
		if err := errors.Join(failed...); err != nil {
			return "", err
		}
		how := "KVM"
		if s.guests[0].Accel() == "tcg" {
			how = "QEMU's emulation, KVM does not run guests here"
		}
		return fmt.Sprintf("Linux is up after %.1f s and %.1f s (%s)",
			s.guests[0].BootTime().Seconds(), s.guests[1].BootTime().Seconds(), how), nil
	})
}

func (s *scene) bootOne(ctx context.Context, i int) (*guest.Guest, error) {
	g, err := guest.Start(ctx, guest.Config{
		Name: fmt.Sprintf("guest%d", i+1), Dir: filepath.Join(s.dir, fmt.Sprintf("guest%d", i+1)),
		MemoryMiB: guestMemoryMiB, HugepageDir: s.huge,
		NICs: []guest.NIC{{Socket: s.sw.socket, MAC: mac(i)}},
	})
	if err != nil {
		return nil, err
	}
	_, err = g.Shell(ctx, "ip link set eth0 up; ip addr add "+address(i)+"/24 dev eth0")
	return g, err
}

func (s *scene) ping(ctx context.Context) error {
	for i := range s.guests {
		err := s.out.step(fmt.Sprintf("guest %d pings guest %d", i+1, 2-i), func() (string, error) {
			return pingFrom(ctx, s.guests[i], address(1-i))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// pingFrom returns the summary of a ping that lost nothing.
func pingFrom(ctx context.Context, g *guest.Guest, to string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	text, err := g.Output(ctx, "ping", "-c", "5", "-i", "0.2", "-W", "2", to)
	if err != nil {
		return "", err
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if !strings.Contains(text, " 0% packet loss") {
		return "", fmt.Errorf("frames were lost:\n%s", text)
	}
	return "5 of 5 answered, " + strings.TrimPrefix(lines[len(lines)-1], "round-trip "), nil
}

func (s *scene) bulk(ctx context.Context) error {
	var sum string
	err := s.out.step(fmt.Sprintf("%d MB over TCP", s.o.bytes>>20), func() (string, error) {
		sent, received, err := guest.Exchange(ctx, s.guests[0], s.guests[1], address(1), bulkPort, s.o.bytes, uint64(time.Now().UnixNano()))
		sum = sent.SHA256
		return fmt.Sprintf("%.0f MB/s, the checksums match", float64(received.Bytes)/received.Seconds/1e6), err
	})
	if err == nil {
		s.out.note("SHA-256 %s on both sides", sum)
	}
	return err
}

// uplink puts a host-side interface behind each guest's VLAN of the tap interface. Which VLAN is whose, switchd tells
// in its DATA lines.
func (s *scene) uplink(ctx context.Context) error {
	for i, g := range s.guests {
		vlan, err := s.sw.vlanOf(ctx, mac(i))
		if err != nil {
			return err
		}
		name := fmt.Sprintf("guest %d pings the host through %s, VLAN %d", i+1, tapName, vlan)
		err = s.out.step(name, func() (string, error) {
			host := fmt.Sprintf("10.78.%d.254", i)
			if _, err := hostvlan.Add(ctx, tapName, vlan, host+"/24"); err != nil {
				return "", err
			}
			if _, err := g.Output(ctx, "ip", "addr", "add", fmt.Sprintf("10.78.%d.1/24", i), "dev", "eth0"); err != nil {
				return "", err
			}
			return pingFrom(ctx, g, host)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) tables(ctx context.Context) error {
	s.out.block("what switchd said", s.sw.dataLines())
	for _, command := range []string{"ports", "stats"} {
		text, err := s.sw.vhostctl(ctx, filepath.Join(s.o.bin, "vhostctl"), command)
		if err != nil {
			return err
		}
		s.out.block("vhostctl "+command, text)
	}
	fmt.Fprintln(s.out.w)
	return nil
}

// end stops everything in the opposite order. The namespaces take with them what else there is.
func (s *scene) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var errs []error
	for _, g := range s.guests {
		if g != nil {
			errs = append(errs, g.Stop(ctx))
		}
	}
	if s.sw != nil {
		errs = append(errs, s.sw.stop(ctx))
	}
	if s.huge != "" {
		errs = append(errs, unix.Unmount(s.huge, unix.MNT_DETACH))
	}
	return errors.Join(errs...)
}
