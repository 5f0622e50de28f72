package cli

import (
	"strings"

	"github.com/alecthomas/kong"
)

// rearrange lets people type arguments in ways that kong alone would refuse:
// flags of a command in front of it (agentd --addr X call …), and negative numbers
// as values. What it does not understand it leaves alone, for kong to complain.
func rearrange(app *kong.Application, args []string) []string {
	leading, rest := splitLeadingFlags(app, args)
	depth := commandDepth(app.Node, rest)
	if depth == 0 {
		return protectNumbers(args)
	}
	out := append(append([]string{}, rest[:depth]...), leading...)
	return protectNumbers(append(out, rest[depth:]...))
}

// splitLeadingFlags cuts args where the first word that is neither a flag nor a
// flag's value stands.
func splitLeadingFlags(app *kong.Application, args []string) (leading, rest []string) {
	n := 0
	for n < len(args) && len(args[n]) > 1 && args[n][0] == '-' && args[n] != "--" {
		flag := args[n]
		n++
		if !strings.Contains(flag, "=") && takesValue(app.Node, flag) && n < len(args) {
			n++
		}
	}
	return args[:n], args[n:]
}

// takesValue says whether any command has a flag of this spelling that is followed
// by a value.
func takesValue(node *kong.Node, spelling string) bool {
	for _, flag := range node.Flags {
		if spelling == "--"+flag.Name || (flag.Short != 0 && spelling == "-"+string(flag.Short)) {
			return !flag.IsBool()
		}
	}
	for _, child := range node.Children {
		if takesValue(child, spelling) {
			return true
		}
	}
	return false
}

// commandDepth counts the words of args that name a command, so that
// [fiber ls Counter/a] is 2.
func commandDepth(node *kong.Node, args []string) int {
	if len(args) == 0 {
		return 0
	}
	for _, child := range node.Children {
		if child.Type == kong.CommandNode && child.Name == args[0] {
			return 1 + commandDepth(child, args[1:])
		}
	}
	return 0
}

// protectNumbers puts a space in front of negative numbers, which no flag begins
// with: JSON ignores it, and kong no longer takes them for flags.
func protectNumbers(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		if len(arg) > 1 && arg[0] == '-' && arg[1] >= '0' && arg[1] <= '9' {
			arg = " " + arg
		}
		out[i] = arg
	}
	return out
}
