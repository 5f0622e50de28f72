package bundle

import (
	"regexp"
	"slices"
	"strings"
)

// listing is the outline of a file in esbuild's print: its top-level statements
// stand at the left margin, everything inside them is indented, and with template
// literals lowered no line of a literal does either.
type listing struct {
	names   []string          // classes in order
	bases   map[string]base   // local class → what it extends
	imports map[string]string // local name → module
	aliases map[string]string // var a = b
	exports map[string]string // exported name → local name
}

// base is the expression behind extends.
type base struct {
	root string // its first identifier; "" when the class extends nothing
	call bool   // the result of a call: mixin(Agent)
}

const identPattern = `[\p{L}\p{Nl}_$][\p{L}\p{Nl}\p{Mn}\p{Mc}\p{Nd}\p{Pc}$\x{200c}\x{200d}]*`

var (
	identRegexp     = regexp.MustCompile(identPattern)
	classRegexp     = regexp.MustCompile(`^(?:(?:var|let|const) (` + identPattern + `) = )?(?:@.*?)?\bclass\b(?: (` + identPattern + `))?(?: extends (.*))?$`)
	aliasRegexp     = regexp.MustCompile(`^(?:var|let|const) (` + identPattern + `) = (` + identPattern + `);$`)
	decoratedRegexp = regexp.MustCompile(`^(?:(?:var|let|const) (` + identPattern + `) = )?@`)
	renamedRegexp   = regexp.MustCompile(`^(` + identPattern + `)(?: as (` + identPattern + `))?$`)
	rootRegexp      = regexp.MustCompile(`^\(*(` + identPattern + `)(?:\.` + identPattern + `)*(\()?`)
	moduleRegexp    = regexp.MustCompile(`from "((?:[^"\\]|\\.)*)"`)
)

// readListing never fails: what it does not understand it leaves out, and a class
// left out is reported by whoever misses it.
func readListing(code string) *listing {
	l := &listing{bases: map[string]base{}, imports: map[string]string{}, aliases: map[string]string{}, exports: map[string]string{}}
	lines := strings.Split(code, "\n")
	decorated := "" // the name waiting for a class behind decorators of several lines
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if line == "" || line[0] == ' ' || line[0] == '\t' {
			continue
		}
		switch {
		case strings.HasPrefix(line, "import "):
			text, last := statement(lines, i)
			l.readImport(text)
			i = last
		case strings.HasPrefix(line, "export {"):
			text, last := statement(lines, i)
			l.readExports(text)
			i = last
		case l.readClass(blankStrings(line), decorated):
			decorated = ""
		default:
			if m := aliasRegexp.FindStringSubmatch(line); m != nil {
				l.aliases[m[1]] = m[2]
			}
			if m := decoratedRegexp.FindStringSubmatch(line); m != nil {
				decorated = m[1]
			} else if line[0] != '}' && line[0] != ')' && line[0] != ']' {
				decorated = ""
			}
		}
	}
	return l
}

// statement joins lines from first to the one that ends it.
func statement(lines []string, first int) (text string, last int) {
	last = first
	for last < len(lines)-1 && !strings.HasSuffix(lines[last], ";") {
		last++
	}
	return strings.Join(lines[first:last+1], " "), last
}

// readClass reads the first line of a class; behind decorators of several lines it
// begins with their closing bracket, and the name came before.
func (l *listing) readClass(line, decorated string) bool {
	line = strings.TrimSuffix(strings.TrimSuffix(line, "}"), "{")
	line = strings.TrimSpace(line)
	if line != "" && strings.ContainsRune("})]", rune(line[0])) {
		at := strings.LastIndex(line, " class ")
		if at < 0 {
			return false
		}
		line = line[at+1:]
		if decorated != "" {
			line = "var " + decorated + " = " + line
		}
	}
	m := classRegexp.FindStringSubmatch(line)
	if m == nil {
		return false
	}
	name := m[1]
	if name == "" {
		name = m[2]
	}
	if name == "" {
		return false
	}
	var b base
	if root := rootRegexp.FindStringSubmatch(m[3]); root != nil {
		b = base{root: root[1], call: root[2] != ""}
	}
	if _, known := l.bases[name]; !known {
		l.names = append(l.names, name)
	}
	l.bases[name] = b
	return true
}

// readImport reads import a, { b as c } from "m" and import * as d from "m".
func (l *listing) readImport(text string) {
	m := moduleRegexp.FindStringSubmatch(text)
	if m == nil {
		return
	}
	clause, _, _ := strings.Cut(strings.TrimPrefix(text, "import "), " from ")
	for _, part := range strings.FieldsFunc(clause, func(r rune) bool { return r == ',' || r == '{' || r == '}' }) {
		part = strings.TrimPrefix(strings.TrimSpace(part), "* as ")
		if r := renamedRegexp.FindStringSubmatch(part); r != nil {
			local := r[2]
			if local == "" {
				local = r[1]
			}
			l.imports[local] = m[1] + "#" + r[1]
		}
	}
}

// readExports reads export { a, b as c }.
func (l *listing) readExports(text string) {
	open, end := strings.IndexByte(text, '{'), strings.LastIndexByte(text, '}')
	if open < 0 || end < open {
		return
	}
	for part := range strings.SplitSeq(text[open+1:end], ",") {
		if r := renamedRegexp.FindStringSubmatch(strings.TrimSpace(part)); r != nil {
			name := r[2]
			if name == "" {
				name = r[1]
			}
			l.exports[name] = r[1]
		}
	}
}

// settle follows var a = b to what was declared first.
func (l *listing) settle(local string) string {
	for range len(l.aliases) {
		next, ok := l.aliases[local]
		if !ok {
			break
		}
		local = next
	}
	return local
}

func (l *listing) exported(local string) bool {
	for _, from := range l.exports {
		if l.settle(from) == local {
			return true
		}
	}
	return false
}

func (l *listing) agents(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !l.isAgent(name) })
}

// isAgent says whether a local name is a class that may be an agent: it extends
// something, and that is in the end neither a built-in constructor nor one of the
// platform's classes that are no agents. Whether it really is one shows when it
// runs.
func (l *listing) isAgent(local string) bool {
	local = l.settle(local)
	for range len(l.bases) + 1 {
		b, ok := l.bases[local]
		switch {
		case !ok:
			return false
		case b.root == "":
			return false
		case b.call:
			return true
		}
		if from, ok := l.imports[b.root]; ok {
			return !notAgents[from]
		}
		if _, ok := l.bases[l.settle(b.root)]; !ok {
			return !builtins[b.root]
		}
		local = l.settle(b.root)
	}
	return false // a class that extends itself
}

// blankStrings replaces the inside of string literals, so that words in them are
// not taken for code. A quote in a regular expression spoils the rest of its line
// only.
func blankStrings(line string) string {
	if !strings.ContainsAny(line, `"'`) {
		return line
	}
	out := []byte(line)
	var quote byte
	for i := 0; i < len(out); i++ {
		switch c := out[i]; {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0 && c == '\\' && i+1 < len(out):
			out[i], out[i+1] = '_', '_'
			i++
		case quote != 0:
			out[i] = '_'
		}
	}
	return string(out)
}

// identifiers are all words of a text that could be names, each once, in order.
func identifiers(text string) []string {
	var out []string
	seen := map[string]bool{}
	for _, name := range identRegexp.FindAllString(text, -1) {
		if !seen[name] {
			seen[name] = true
			out = append(out, name)
		}
	}
	return out
}
