// Command lint checks what the compiler, go vet and staticcheck do not know of this project: which package may import which, where unsafe
// may stand, how long a file may be, how things are spelled, and that go.mod and CONTRIBUTING.md say what the sources do.
//
//	go run ./test/lint                  all checks of the tree
//	go run ./test/lint -commits BASE    the commits since BASE instead
//
// It prints one line a finding and exits with 1 if there is one.
package main

import (
	"flag"
	"fmt"
	"os"
)

// check looks at all sources and returns its findings, each as "path: what is wrong and what to do".
type check struct {
	name string
	run  func(tree) []string
}

// checks are those that need the sources only.
func checks() []check {
	return []check{
		{"format", unformatted},
		{"imports", wrongImports},
		{"drawing", wrongDrawing},
		{"unsafe", misplacedUnsafe},
		{"length", longFiles},
		{"spelling", misspelled},
		{"variables", undocumentedVariables},
	}
}

func main() {
	root := flag.String("root", ".", "the module's `DIRECTORY`")
	base := flag.String("commits", "", "look at the commits since `BASE`, and at nothing else")
	flag.Parse()
	findings, err := lint(*root, *base)
	if err != nil {
		fmt.Fprintln(os.Stderr, "lint:", err)
		os.Exit(2)
	}
	for _, f := range findings {
		fmt.Println(f)
	}
	if len(findings) > 0 {
		os.Exit(1)
	}
}

func lint(root, base string) (findings []string, err error) {
	if base != "" {
		return badCommits(root, base)
	}
	t, err := load(os.DirFS(root))
	if err != nil {
		return nil, err
	}
	for _, c := range checks() {
		for _, f := range c.run(t) {
			findings = append(findings, fmt.Sprintf("%s (%s)", f, c.name))
		}
	}
	untidy, err := untidyModule(root)
	return append(findings, untidy...), err
}
