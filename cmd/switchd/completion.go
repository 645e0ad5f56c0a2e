package main

import (
	"fmt"
	"strings"

	"vhostkit/switchd/config"
)

// completion prints the completion script of a shell.
func completion(shell string) error {
	switch shell {
	case "bash":
		fmt.Print(bashCompletion())
	case "zsh":
		fmt.Print("autoload -U bashcompinit && bashcompinit\n" + bashCompletion())
	case "fish":
		for _, o := range config.Options() {
			line := fmt.Sprintf("complete -c switchd -l %s -d '%s'", o.Name, strings.ReplaceAll(o.Help, "'", `\'`))
			if o.Short != "" {
				line += " -s " + o.Short
			}
			if values := choices(o); values != "" {
				line += " -x -a '" + values + "'"
			} else if o.Kind != config.Switch {
				line += " -r"
			}
			fmt.Println(line)
		}
	default:
		return fmt.Errorf("%w: --completion must be bash, zsh or fish, not %q", config.ErrUsage, shell)
	}
	return nil
}

// bashCompletion completes the options' names, and the values of those that have a few.
func bashCompletion() string {
	var names []string
	var cases strings.Builder
	for _, o := range config.Options() {
		names = append(names, "--"+o.Name)
		if values := choices(o); values != "" {
			fmt.Fprintf(&cases, "    --%s) words='%s' ;;\n", o.Name, values)
		}
	}
	return `_switchd() {
  local words='` + strings.Join(names, " ") + `'
  case "${COMP_WORDS[COMP_CWORD-1]}" in
` + cases.String() + `  esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _switchd switchd
`
}

// choices are the values of an option that has a few, separated by blanks.
func choices(o config.Option) string {
	switch o.Kind {
	case config.Boolean:
		return "0 1"
	case config.Choice:
		return strings.Join(o.Choices, " ")
	}
	return ""
}
