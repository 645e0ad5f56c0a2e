// Command switchd is the vhost switch.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
	"time"

	"vhostkit/switchd/config"
	"vhostkit/switchd/daemon"
	"vhostkit/switchd/logging"
)

// Exit codes.
const (
	exitFailure = 1
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	c, done, err := parse(args)
	if done && err == nil {
		return 0
	}
	if err == nil {
		err = c.KeepPresentCores()
	}
	if err == nil {
		err = daemon.Check(c)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "switchd: %v\nswitchd --help shows the options.\n", err)
		return exitUsage
	}
	if c.CheckOnly {
		if c.File == "" {
			fmt.Println("the configuration is valid (there is no file: defaults)")
		} else {
			fmt.Printf("the configuration is valid (%s)\n", c.File)
		}
		return 0
	}
	level := new(slog.LevelVar)
	_ = level.UnmarshalText([]byte(c.LogLevel)) // checked by Validate
	out, err := logging.Open(logging.Config{
		Stdout: os.Stdout, Stderr: os.Stderr, JSON: c.LogFormat == "json", Level: level, Addresses: c.MACLimit,
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "switchd: %v\n", err)
		return exitFailure
	}
	defer out.Close()
	if err := serve(c, args, out, level); err != nil {
		fmt.Fprintf(out.Stderr(), "switchd: %v\n", err)
		return exitFailure
	}
	return 0
}

// parse reads either kind of command line. done means that it asked for nothing but information.
func parse(args []string) (c config.Config, done bool, err error) {
	if config.IsLegacy(args) {
		defaults := config.LegacyDefaults()
		if err := loadDefaultFile(&defaults); err != nil {
			return c, false, err
		}
		c, err = config.ParseLegacy(args, defaults)
		return c, false, err
	}
	return parseOptions(args)
}

func loadDefaultFile(c *config.Config) error {
	if _, err := os.Stat(config.DefaultConfigFile); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return c.LoadFile(config.DefaultConfigFile)
}

// serve runs the daemon until SIGINT or SIGTERM; a second signal ends the process at once.
func serve(c config.Config, args []string, out *logging.Output, level *slog.LevelVar) error {
	log := out.Log()
	for _, notice := range c.Notices {
		log.Info(notice)
	}
	for _, warning := range c.Warnings {
		log.Warn(warning)
	}
	if c.CPUProfile != "" {
		f, err := os.Create(c.CPUProfile)
		if err != nil {
			return fmt.Errorf("--cpuprofile: %w", err)
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return fmt.Errorf("--cpuprofile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)    // from now on a signal has its default effect
	context.AfterFunc(ctx, func() { // whatever hangs, even the log
		time.Sleep(daemon.StopTimeout + time.Second)
		os.Exit(exitFailure)
	})
	d, err := daemon.New(c, out)
	if err != nil {
		return err
	}
	go reloadOnHangup(ctx, d, args, level, log)
	return d.Run(ctx)
}

// reloadOnHangup reads the configuration again at each SIGHUP.
func reloadOnHangup(ctx context.Context, d *daemon.Daemon, args []string, level *slog.LevelVar, log *slog.Logger) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		}
		next, _, err := parse(args)
		if err == nil {
			err = next.KeepPresentCores()
		}
		if err == nil {
			err = daemon.CheckSettings(next) // limits matter at the next start
		}
		if err != nil {
			log.Error("the configuration stays as it was", "error", err)
			continue
		}
		_ = level.UnmarshalText([]byte(next.LogLevel)) // checked by Validate
		d.Reload(next)
	}
}
