// Package man makes manual pages of command-line programs.
package man

import (
	"regexp"
	"strings"

	"github.com/urfave/cli/v2"
)

// Section is that of the system administrator's programs.
const Section = 8

var heading = regexp.MustCompile(`^[A-Z][A-Z ()a-z]*$`)

// Page is the manual page of a program, in roff.
func Page(app *cli.App) (string, error) {
	page := *app
	page.Description = layout(app.Description)
	page.Commands = nil
	for _, c := range app.Commands {
		page.Commands = append(page.Commands, command(c))
	}
	return page.ToManWithSection(Section)
}

func command(c *cli.Command) *cli.Command {
	copied := *c
	copied.Description = ""
	copied.UsageText = plain(c.Description)
	copied.Subcommands = nil
	for _, s := range c.Subcommands {
		copied.Subcommands = append(copied.Subcommands, command(s))
	}
	return &copied
}

// plain is a command's description as it stands, for a block of text whose lines stay lines.
func plain(text string) string {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		lines[i] = strings.TrimPrefix(line, "   ")
	}
	return strings.Join(lines, "\n")
}

// layout makes Markdown of a description as programs print it: indented lines stay lines, headings stand out.
func layout(text string) string {
	var b strings.Builder
	for _, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case trimmed == "":
			b.WriteString("\n")
		case heading.MatchString(trimmed) && strings.ToUpper(trimmed[:min(4, len(trimmed))]) == trimmed[:min(4, len(trimmed))]:
			b.WriteString("\n**" + trimmed + "**\n\n")
		case strings.HasPrefix(line, "   ") && strings.Contains(trimmed, "  ") || strings.HasPrefix(line, "      "):
			b.WriteString("    " + trimmed + "\n")
		default:
			b.WriteString(trimmed + "\n")
		}
	}
	return b.String()
}
