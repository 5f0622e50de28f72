package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/evanw/esbuild/pkg/api"

	"agentd/pkg/agent"
	"agentd/pkg/placement"
)

// entryName is the module in front of everything, in comments and source maps.
const entryName = "agentd:entry"

// platformModules are provided when the code runs; require() stays in the bundle.
var platformModules = []string{"agents", "agents/*", "cloudflare:*", "node:*"}

var loaders = map[string]api.Loader{
	".ts": api.LoaderTS, ".mts": api.LoaderTS, ".cts": api.LoaderTS, ".tsx": api.LoaderTSX,
	".js": api.LoaderJSX, ".jsx": api.LoaderJSX, ".mjs": api.LoaderJS, ".cjs": api.LoaderJS,
}

var dataLoaders = map[string]api.Loader{
	".json": api.LoaderJSON, ".txt": api.LoaderText, ".md": api.LoaderText, ".sql": api.LoaderText, ".html": api.LoaderText,
}

// scriptLoader says how a file of code is read; false for anything else.
func scriptLoader(path string) (api.Loader, bool) {
	l, ok := loaders[strings.ToLower(filepath.Ext(path))]
	return l, ok
}

// baseOptions are common to every bundling build. cleanup must be called after it.
func (p *project) baseOptions() (opts api.BuildOptions, cleanup func(), err error) {
	tsconfig, cleanup, err := p.tsconfig()
	if err != nil {
		return opts, nil, err
	}
	all := map[string]api.Loader{}
	for ext, l := range loaders {
		all[ext] = l
	}
	for ext, l := range dataLoaders {
		all[ext] = l
	}
	return api.BuildOptions{
		Bundle: true, Metafile: true, AbsWorkingDir: p.dir, Outfile: filepath.Join(p.dir, "agentd-bundle.js"),
		Charset: api.CharsetUTF8, LegalComments: api.LegalCommentsNone, LogLevel: api.LogLevelSilent,
		Platform: api.PlatformNeutral, Tsconfig: tsconfig,
		MainFields: []string{"browser", "module", "main"},
		Conditions: []string{"workerd", "worker", "browser", "module"},
		External:   platformModules,
		Loader:     all,
		Define:     map[string]string{"process.env.NODE_ENV": `"production"`, "global": "globalThis"},
	}, cleanup, nil
}

// compile runs the final build.
func compile(p *project, pl *plan, minify bool) (*Output, error) {
	opts, cleanup, err := p.baseOptions()
	if err != nil {
		return nil, err
	}
	defer cleanup()
	src := newSources(p, pl)
	opts.Stdin = &api.StdinOptions{Contents: pl.entry, ResolveDir: p.dir, Sourcefile: entryName, Loader: api.LoaderJS}
	opts.Format, opts.Target = api.FormatCommonJS, api.ES2017
	// The runtime has BigInt literals; import() must become a promise of require().
	opts.Supported = map[string]bool{"bigint": true, "dynamic-import": false}
	opts.KeepNames = true
	opts.Sourcemap, opts.SourcesContent = api.SourceMapExternal, api.SourcesContentInclude
	opts.MinifyWhitespace, opts.MinifySyntax, opts.MinifyIdentifiers = minify, minify, minify
	opts.Banner, opts.Footer = map[string]string{"js": wrapperHead}, map[string]string{"js": wrapperTail}
	opts.Plugins = []api.Plugin{src.plugin()}
	r := api.Build(opts)
	if len(r.Errors) > 0 {
		return nil, broken(p.messages(r.Errors))
	}
	meta, err := readMetafile(r.Metafile)
	if err != nil {
		return nil, err
	}
	out := &Output{Warnings: append(p.messages(r.Warnings), meta.missingModules()...)}
	for _, f := range r.OutputFiles {
		if strings.HasSuffix(f.Path, ".map") {
			out.SourceMap = f.Contents
		} else {
			out.Code = f.Contents
		}
	}
	if out.SourceMap, err = src.restore(p, out.SourceMap); err != nil {
		return nil, err
	}
	if n := len(out.Code) + len(out.SourceMap); n > placement.MaxBundleBytes {
		return nil, tooLarge(n, meta)
	}
	return out, nil
}

// metafile is what esbuild says about a build.
type metafile struct {
	Inputs map[string]struct {
		Bytes   int
		Imports []struct {
			Path, Kind string
			External   bool
		}
	}
	Outputs map[string]struct {
		EntryPoint string
		Exports    []string
		Imports    []struct{ Path string }
	}
}

func readMetafile(text string) (*metafile, error) {
	var m metafile
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return nil, broken([]Message{{Text: fmt.Sprintf("esbuild's description of the bundle cannot be read: %v", err)}})
	}
	return &m, nil
}

// missingModules warns of imports that fail when the bundle is loaded. A require()
// may be guarded by try, so it is left alone; an import that is unused, or of types
// only, is not in the output.
func (m *metafile) missingModules() []Message {
	missing := map[string]bool{}
	for _, out := range m.Outputs {
		for _, imp := range out.Imports {
			missing[imp.Path] = !provided[imp.Path]
		}
	}
	var out []Message
	for name, in := range m.Inputs {
		for _, imp := range in.Imports {
			if imp.External && imp.Kind == "import-statement" && missing[imp.Path] {
				out = append(out, Message{File: name, Text: fmt.Sprintf("agentd has no module %q: loading the bundle will fail", imp.Path),
					Hint: "import what you need from elsewhere; a package that needs it cannot be used"})
			}
		}
	}
	slices.SortFunc(out, func(a, b Message) int { return strings.Compare(a.String(), b.String()) })
	return slices.Compact(out)
}

// tooLarge names the files that weigh most.
func tooLarge(size int, meta *metafile) *Error {
	text := fmt.Sprintf("the bundle has %.1f MiB with its source map; at most %d MiB are allowed",
		float64(size)/(1<<20), placement.MaxBundleBytes>>20)
	hint := "import less of the largest files"
	var names []string
	for name := range meta.Inputs {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := meta.Inputs[b].Bytes - meta.Inputs[a].Bytes; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	for _, name := range names[:min(3, len(names))] {
		hint += fmt.Sprintf("\n%s: %.1f MiB", name, float64(meta.Inputs[name].Bytes)/(1<<20))
	}
	return &Error{Kind: agent.TooLarge, Messages: []Message{{Text: text, Hint: hint}}}
}

// tsconfigPath is the tsconfig.json nearest to the first file, "" if there is none.
func (p *project) tsconfigPath() string {
	return nearest(filepath.Dir(p.files[0].path), "tsconfig.json")
}

// tsconfig wraps the author's tsconfig.json: everything in it holds, but decorators
// are always those of the language (stage 3), because @callable() is one. esbuild
// takes such a wrapper only as a file.
func (p *project) tsconfig() (path string, cleanup func(), err error) {
	base := p.tsconfigPath()
	if base == "" {
		return "", func() {}, nil
	}
	text := fmt.Sprintf(`{"extends": %s, "compilerOptions": {"experimentalDecorators": false}}`, literal(base))
	f, err := os.CreateTemp("", "agentd-tsconfig-*.json")
	if err != nil {
		return "", nil, invalid("no temporary file can be made: " + err.Error())
	}
	cleanup = func() { _ = os.Remove(f.Name()) } // a leftover of 100 bytes is harmless
	_, err = f.WriteString(text)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		cleanup()
		return "", nil, invalid("no temporary file can be written: " + err.Error())
	}
	return f.Name(), cleanup, nil
}

// nearest looks for a file in dir and the folders above it.
func nearest(dir, name string) string {
	for {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			return path
		}
		up := filepath.Dir(dir)
		if up == dir {
			return ""
		}
		dir = up
	}
}

// plainMessages converts messages about one file, outside a project.
func plainMessages(list []api.Message) []Message {
	out := make([]Message, 0, len(list))
	for _, m := range list {
		out = append(out, plainMessage(m))
	}
	return out
}

func plainMessage(m api.Message) Message {
	msg := Message{Text: m.Text}
	if loc := m.Location; loc != nil {
		msg.File = filepath.ToSlash(loc.File)
		msg.place(loc.Line, loc.Column, loc.LineText)
	}
	var hints []string
	for _, n := range m.Notes { // those without a place explain esbuild's own options
		if n.Location != nil {
			hints = append(hints, fmt.Sprintf("%s:%d: %s", filepath.ToSlash(n.Location.File), n.Location.Line, n.Text))
		}
	}
	msg.Hint = strings.Join(hints, "\n")
	return msg
}

// messages converts and adds what to do about packages that are missing.
func (p *project) messages(list []api.Message) []Message {
	out := make([]Message, 0, len(list))
	for _, m := range list {
		msg := plainMessage(m)
		if hint := p.packageHint(m.Location); hint != "" {
			msg.Hint = hint
		}
		out = append(out, msg)
	}
	return out
}

// packageHint says how to get the package when the place of a message is an import
// of one that is not installed.
func (p *project) packageHint(loc *api.Location) string {
	if loc == nil || loc.Column < 0 || loc.Column+loc.Length > len(loc.LineText) {
		return ""
	}
	spec := strings.Trim(loc.LineText[loc.Column:loc.Column+loc.Length], "\"'`")
	if len(spec)+2 != loc.Length || spec == "" || spec[0] == '.' || filepath.IsAbs(spec) || strings.Contains(spec, ":") {
		return ""
	}
	name, rest, _ := strings.Cut(spec, "/")
	if strings.HasPrefix(name, "@") {
		second, _, _ := strings.Cut(rest, "/")
		name += "/" + second
	}
	if nodeModules[name] {
		return fmt.Sprintf("agentd does not provide Node's %s module; use a package that runs without Node", name)
	}
	file := loc.File
	if !filepath.IsAbs(file) {
		file = filepath.Join(p.dir, file)
	}
	dir := filepath.Dir(file)
	if nearest(dir, filepath.Join("node_modules", name, "package.json")) != "" {
		return ""
	}
	home := p.dir
	if manifest := nearest(dir, "package.json"); manifest != "" {
		home = filepath.Dir(manifest)
	}
	return fmt.Sprintf("the package is not installed: run `npm install %s` in %s", name, home)
}
