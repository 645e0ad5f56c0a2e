package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"vhostkit/internal/term"
	"vhostkit/internal/version"
	"vhostkit/switchd/control"
)

// show prints a value as JSON or by its table function.
func show[T any](c *cli.Context, v T, table func(io.Writer, T)) error {
	if c.String("output") == "json" {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(v)
	}
	table(os.Stdout, v)
	return nil
}

func listPorts(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	ports, err := client(c).Ports(c.Context)
	if err != nil {
		return err
	}
	return show(c, ports, portsTable)
}

func showPort(c *cli.Context) error {
	args, err := arguments(c, "NUMBER|NAME")
	if err != nil {
		return err
	}
	port, err := client(c).Port(c.Context, args[0])
	if err != nil {
		return err
	}
	return show(c, port, portDetails)
}

func addPort(c *cli.Context) error {
	args, err := arguments(c, "NAME")
	if err != nil {
		return err
	}
	port, err := client(c).AddPort(c.Context, args[0])
	if err != nil {
		return err
	}
	return show(c, port, func(w io.Writer, p control.Port) {
		fmt.Fprintf(w, "port %s added; its socket is %s\n", p.Name, p.Socket)
	})
}

func removePort(c *cli.Context) error {
	args, err := arguments(c, "NAME")
	if err != nil {
		return err
	}
	if err := client(c).RemovePort(c.Context, args[0]); err != nil {
		return err
	}
	return show(c, map[string]string{"removed": args[0]}, func(w io.Writer, _ map[string]string) {
		fmt.Fprintf(w, "port %s removed\n", args[0])
	})
}

func showFDB(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	entries, err := client(c).FDB(c.Context)
	if err != nil {
		return err
	}
	return show(c, entries, fdbTable)
}

// versions is what `vhostctl version` prints.
type versions struct {
	Vhostctl string               `json:"vhostctl"`
	Switchd  *control.VersionInfo `json:"switchd"`
}

// showVersion works without a switchd, too, and then says so.
func showVersion(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	v := versions{Vhostctl: version.Version}
	info, err := client(c).Version(c.Context)
	if err == nil {
		v.Switchd = &info
	} else if !errors.Is(err, control.ErrUnreachable) {
		return err
	}
	return show(c, v, func(w io.Writer, v versions) {
		fmt.Fprintf(w, "vhostctl %s\n", v.Vhostctl)
		if v.Switchd == nil {
			fmt.Fprintf(w, "switchd  not reachable on %s\n", controlPath(c))
			return
		}
		fmt.Fprintf(w, "switchd  %s (%s, pid %d, started %s)\n", v.Switchd.Version, v.Switchd.Go, v.Switchd.PID,
			v.Switchd.Started.Local().Format(time.DateTime))
	})
}

func showStats(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	interval := c.Duration("watch")
	if interval < 0 || interval > 0 && interval < 100*time.Millisecond {
		return usagef("--watch must be 100ms or more, not %v", interval)
	}
	var before *control.Stats
	daemon := client(c)
	for {
		stats, err := daemon.Stats(c.Context)
		if c.Context.Err() != nil && before != nil {
			return nil // watching ends by Ctrl-C
		}
		if err != nil {
			return err
		}
		if before != nil && c.String("output") != "json" && term.IsTerminal(os.Stdout) {
			fmt.Print("\x1b[H\x1b[2J")
		}
		if err := show(c, stats, func(w io.Writer, s control.Stats) { statsTable(w, s, before) }); err != nil || interval == 0 {
			return err
		}
		before = &stats
		select {
		case <-c.Context.Done():
			return nil
		case <-time.After(interval):
		}
	}
}

func completion(c *cli.Context) error {
	args, err := arguments(c, "bash|zsh|fish")
	if err != nil {
		return err
	}
	switch args[0] {
	case "bash":
		fmt.Print(bashCompletion)
	case "zsh":
		fmt.Print("autoload -U bashcompinit && bashcompinit\n" + bashCompletion)
	case "fish":
		script, err := c.App.ToFishCompletion()
		if err != nil {
			return err
		}
		fmt.Print(script)
	default:
		return usagef("the shell must be bash, zsh or fish, not %q", args[0])
	}
	return nil
}

const bashCompletion = `_vhostctl() {
  local words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  COMPREPLY=($(compgen -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _vhostctl vhostctl
`
