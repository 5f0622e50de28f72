package bundle

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"agentd/pkg/agent"
)

// plan is what the final build is told.
type plan struct {
	entry    string             // text of the module that stands in front of everything
	exports  map[string]string  // path → names to export although the author did not
	visible  map[string]*source // free identifier → the prelude that provides it
	given    map[string]bool    // paths named by the user
	warnings []Message
}

// entry is a file whose classes are deployed.
type entry struct {
	*source
	*survey
}

// specifier imports the file from the project's folder. It is relative: positions
// in the source map must not depend on where the folder lies.
func (e *entry) specifier() string {
	if filepath.IsAbs(e.name) { // on another drive
		return literal(e.name)
	}
	return literal("./" + e.name)
}

// classes are the exported names under which the entry's agents are deployed, and
// the names that they have inside it.
func (e *entry) classes() map[string]string {
	out := map[string]string{}
	for _, name := range e.agents {
		out[name] = name
	}
	if e.byDefault != "" {
		out[e.byDefault] = "default"
	}
	if len(out) == 0 && !e.commonJS {
		for _, name := range e.private {
			out[name] = name
		}
	}
	return out
}

// makePlan decides which files are entries and what the preludes provide.
func makePlan(p *project) (*plan, error) {
	entries, preludes, err := p.sort()
	if err != nil {
		return nil, err
	}
	pl := &plan{exports: map[string]string{}, visible: map[string]*source{}, given: map[string]bool{}}
	for _, s := range p.named() {
		pl.given[s.path] = true
	}
	for _, e := range preludes {
		if err := pl.addPrelude(e); err != nil {
			return nil, err
		}
	}
	var text strings.Builder
	for _, e := range preludes {
		fmt.Fprintf(&text, "import %s;\n", e.specifier())
	}
	owners, err := pl.checkNames(p, entries)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if err := pl.addEntry(e, owners, &text); err != nil {
			return nil, err
		}
	}
	pl.entry = text.String()
	return pl, nil
}

// sort tells entries from preludes. A single file is always an entry.
func (p *project) sort() (entries, preludes []*entry, err error) {
	for _, s := range p.preludes {
		sv, err := p.survey(s)
		if err != nil {
			return nil, nil, err
		}
		preludes = append(preludes, &entry{s, sv})
	}
	for _, s := range p.files {
		sv, err := p.survey(s)
		if err != nil {
			return nil, nil, err
		}
		e := &entry{s, sv}
		if sv.anonymous {
			return nil, nil, broken([]Message{{File: s.name, Text: "the class that is exported by default has no name",
				Hint: "write export class NAME extends Agent: the name is part of every agent's address"}})
		}
		if len(p.files) == 1 || len(e.agents)+len(e.private) > 0 || e.byDefault != "" {
			entries = append(entries, e)
		} else {
			preludes = append(preludes, e)
		}
	}
	if len(entries) == 0 {
		var messages []Message
		for _, s := range p.files {
			messages = append(messages, noClass(s))
		}
		return nil, nil, broken(messages)
	}
	return entries, preludes, nil
}

func noClass(s *source) Message {
	return Message{File: s.name, Text: "declares no agent class",
		Hint: `a class to deploy looks like: export class Counter extends Agent { … }, with import { Agent } from "agents"`}
}

// addEntry exports the entry's classes from the bundle. export * passes on what
// only running the file can tell to be a class.
func (pl *plan) addEntry(e *entry, owners map[string]*entry, text *strings.Builder) error {
	classes := e.classes()
	if len(classes) == 0 && len(e.exports) == 0 && !e.commonJS {
		return broken([]Message{noClass(e.source)})
	}
	from := e.specifier()
	fmt.Fprintf(text, "export * from %s;\n", from)
	for _, name := range sortedKeys(classes) {
		if owners[name] != e {
			continue
		}
		if inside := classes[name]; inside == name {
			fmt.Fprintf(text, "export { %s } from %s;\n", name, from)
		} else {
			fmt.Fprintf(text, "export { %s as %s } from %s;\n", inside, name, from)
		}
		if !slices.Contains(e.exports, classes[name]) {
			pl.exports[e.path] = joinNames(pl.exports[e.path], name)
		}
	}
	return nil
}

// addPrelude makes the prelude's names visible.
func (pl *plan) addPrelude(e *entry) error {
	if e.commonJS {
		return broken([]Message{{File: e.name, Text: "a prelude cannot use module.exports",
			Hint: "write export function …, or export nothing: then everything at top level is visible to the other files"}})
	}
	names := slices.DeleteFunc(slices.Clone(e.exports), func(n string) bool { return n == "default" || !isIdentifier(n) })
	if len(e.exports) == 0 {
		own, err := topNames(e.source)
		if err != nil {
			return err
		}
		names = own
		if len(own) > 0 {
			pl.exports[e.path] = strings.Join(own, ", ")
		}
	}
	for _, name := range names {
		if other := pl.visible[name]; other != nil {
			return &Error{Kind: agent.Compile, Messages: []Message{{File: e.name,
				Text: fmt.Sprintf("%s is provided by %s as well", name, other.name),
				Hint: "rename one of the two, or export from each prelude only what the other files use"}}}
		}
		pl.visible[name] = e.source
	}
	return nil
}

// checkNames says which entry each class is taken from. It refuses two classes of
// the same name; the same class exported by two entries is none of its business. It
// warns of other exports that get lost because two entries have them.
func (pl *plan) checkNames(p *project, entries []*entry) (owners map[string]*entry, err error) {
	var shared map[string]string
	if len(entries) > 1 {
		if shared, err = p.sharedExports(entries); err != nil {
			return nil, err
		}
	}
	owners = map[string]*entry{}
	for _, e := range entries {
		classes := e.classes()
		for _, name := range sortedKeys(classes) {
			other := owners[name]
			if other == nil {
				owners[name] = e
			} else if !slices.Contains(e.agents, name) || !slices.Contains(other.agents, name) || shared[name] == "" {
				return nil, broken([]Message{{File: e.name, Text: fmt.Sprintf("class %s is exported by %s as well", name, other.name),
					Hint: "class names are addresses: rename one of the two, or deploy only one of the files"}})
			}
		}
	}
	first := map[string]*entry{}
	for _, e := range entries {
		for _, name := range e.exports {
			if other := first[name]; other != nil && name != "default" && shared[name] == "" && owners[name] == nil {
				pl.warnings = append(pl.warnings, Message{File: e.name,
					Text: fmt.Sprintf("%s is exported by %s as well: neither is exported from the bundle", name, other.name),
					Hint: "this matters only if it is a class to deploy"})
			}
			first[name] = e
		}
	}
	return owners, nil
}

func isIdentifier(name string) bool {
	return !reserved[name] && identRegexp.FindString(name) == name
}

// literal is a string in JavaScript.
func literal(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return string(text)
}

func joinNames(list, name string) string {
	if list == "" {
		return name
	}
	return list + ", " + name
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
