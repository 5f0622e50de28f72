package bundle

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/evanw/esbuild/pkg/api"
)

// sources feeds the author's files to esbuild. To some it appends a line: an export
// of classes that the author did not export, an import of what a prelude provides.
// Imports are hoisted, so that the end of the file serves as well as its beginning
// and no line moves.
type sources struct {
	plan  *plan
	reads *reads
	names []string // plan.visible's keys, sorted

	mu        sync.Mutex        // guards originals: esbuild loads files in parallel
	originals map[string]string // text of the files that got a line
}

func newSources(p *project, pl *plan) *sources {
	s := &sources{plan: pl, reads: &p.reads, originals: map[string]string{}}
	for name := range pl.visible {
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	return s
}

// reads collects the author's files that builds have read. Safe for concurrent use.
type reads struct {
	mu    sync.Mutex
	paths map[string]bool // guarded by mu; absolute
}

func (r *reads) add(path string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.paths == nil {
		r.paths = map[string]bool{}
	}
	r.paths[path] = true
}

func (r *reads) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.paths))
}

// plugin only listens.
func (r *reads) plugin() api.Plugin {
	return api.Plugin{Name: "agentd", Setup: func(b api.PluginBuild) {
		b.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: "file"}, func(args api.OnLoadArgs) (api.OnLoadResult, error) {
			if !inPackage(args.Path) {
				r.add(args.Path)
			}
			return api.OnLoadResult{}, nil
		})
	}}
}

// inPackage says whether a path belongs to an installed package.
func inPackage(path string) bool {
	return slices.Contains(strings.Split(filepath.ToSlash(path), "/"), "node_modules")
}

func (s *sources) plugin() api.Plugin {
	return api.Plugin{Name: "agentd", Setup: func(b api.PluginBuild) {
		b.OnLoad(api.OnLoadOptions{Filter: ".*", Namespace: "file"}, s.load)
		b.OnResolve(api.OnResolveOptions{Filter: bareModules}, func(args api.OnResolveArgs) (api.OnResolveResult, error) {
			return resolveBare(b, args), nil
		})
		b.OnResolve(api.OnResolveOptions{Filter: `^(\.|/|[A-Za-z]:[/\\])`}, s.resolveGiven)
	}}
}

// resolveGiven keeps the files that the user named although a package.json says
// that modules of this folder have no side effects: a prelude may consist of them.
func (s *sources) resolveGiven(args api.OnResolveArgs) (api.OnResolveResult, error) {
	path := args.Path
	if !filepath.IsAbs(path) {
		path = filepath.Join(args.ResolveDir, path)
	}
	if !s.plan.given[path] {
		return api.OnResolveResult{}, nil
	}
	return api.OnResolveResult{Path: path, SideEffects: api.SideEffectsTrue}, nil
}

// bareModules are Node's modules that the sandbox provides and that packages import
// without "node:".
const bareModules = `^(async_hooks|crypto|events)$`

type resolving struct{} // marks our own question, so that it is not answered by us again

// resolveBare prefers an installed package of that name.
func resolveBare(b api.PluginBuild, args api.OnResolveArgs) api.OnResolveResult {
	if _, own := args.PluginData.(resolving); own {
		return api.OnResolveResult{}
	}
	r := b.Resolve(args.Path, api.ResolveOptions{Importer: args.Importer, Namespace: args.Namespace,
		ResolveDir: args.ResolveDir, Kind: args.Kind, PluginData: resolving{}, With: args.With})
	if len(r.Errors) > 0 {
		return api.OnResolveResult{Path: "node:" + args.Path, External: true}
	}
	return api.OnResolveResult{Path: r.Path, External: r.External, Namespace: r.Namespace, Suffix: r.Suffix}
}

// load is called by esbuild from several goroutines.
func (s *sources) load(args api.OnLoadArgs) (api.OnLoadResult, error) {
	if inPackage(args.Path) && !s.plan.given[args.Path] {
		return api.OnLoadResult{}, nil
	}
	s.reads.add(args.Path)
	loader, ok := scriptLoader(args.Path)
	if !ok || (len(s.names) == 0 && s.plan.exports[args.Path] == "") {
		return api.OnLoadResult{}, nil
	}
	raw, err := os.ReadFile(args.Path)
	if err != nil {
		return api.OnLoadResult{}, fmt.Errorf("read source: %w", err)
	}
	text := string(raw)
	extra, err := s.extra(args.Path, text)
	if err != nil || extra == "" {
		return api.OnLoadResult{}, nil // a syntax error: esbuild reports it better
	}
	s.mu.Lock()
	s.originals[args.Path] = text
	s.mu.Unlock()
	text += "\n" + extra
	return api.OnLoadResult{Contents: &text, Loader: loader}, nil
}

// extra is what is appended to a file.
func (s *sources) extra(path, text string) (string, error) {
	var b strings.Builder
	if names := s.plan.exports[path]; names != "" {
		fmt.Fprintf(&b, "export { %s };\n", names)
	}
	free, err := freeNames(text, path, s.names)
	if err != nil {
		return "", err
	}
	for _, name := range free {
		if from := s.plan.visible[name]; from.path != path {
			fmt.Fprintf(&b, "import { %s } from %s;\n", name, literal(filepath.ToSlash(from.path)))
		}
	}
	return b.String(), nil
}

// sourceMap is version 3 of the format, without sections.
type sourceMap struct {
	Version        int      `json:"version"`
	Sources        []string `json:"sources"`
	SourcesContent []string `json:"sourcesContent"`
	Mappings       string   `json:"mappings"`
	Names          []string `json:"names"`
}

// restore puts the author's text back into the source map where a line was
// appended, and takes out the module in front of everything: it names absolute
// paths, and equal sources must give equal bundles.
func (s *sources) restore(p *project, raw []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var m sourceMap
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, broken([]Message{{Text: fmt.Sprintf("esbuild's source map cannot be read: %v", err)}})
	}
	texts := map[string]string{entryName: ""}
	for path, text := range s.originals {
		texts[p.relative(path)] = text
	}
	for i, name := range m.Sources {
		if text, ok := texts[name]; ok && i < len(m.SourcesContent) {
			m.SourcesContent[i] = text
		}
	}
	out, err := json.Marshal(m)
	if err != nil {
		return nil, broken([]Message{{Text: fmt.Sprintf("the source map cannot be written: %v", err)}})
	}
	return out, nil
}
