package bundle

import (
	"fmt"
	"slices"
	"strings"

	"github.com/evanw/esbuild/pkg/api"
)

// survey is what one of the user's files declares. esbuild is the authority for
// all of it; nothing is guessed from the text.
type survey struct {
	commonJS bool     // uses module or exports: what it exports is known only when it runs
	exports  []string // exported values, sorted, "default" among them
	agents   []string // exported classes that may be agents, by exported name
	private  []string // top-level classes that may be agents and are not exported
	// byDefault is the name of the class behind export default; anonymous when that
	// class has no name to be called by.
	byDefault string
	anonymous bool
}

func (p *project) survey(s *source) (*survey, error) {
	own, err := list(s, api.FormatESModule)
	if err != nil {
		return nil, err
	}
	cjs, err := freeNames(s.text, s.path, []string{"module", "exports"})
	if err != nil {
		return nil, err
	}
	if len(cjs) > 0 {
		// In the wrapper that esbuild puts around such a file nothing is top level.
		if own, err = list(s, api.FormatDefault); err != nil {
			return nil, err
		}
		return &survey{commonJS: true, private: own.agents(own.names)}, nil
	}
	sv := &survey{}
	whole, exports, err := p.flatten(s)
	if err != nil {
		return nil, err
	}
	sv.exports = exports
	for _, name := range exports {
		if name != "default" && whole.isAgent(whole.exports[name]) {
			sv.agents = append(sv.agents, name)
		}
	}
	sv.surveyDefault(s, own, whole)
	var hidden []string
	for _, name := range own.names {
		if !own.exported(name) {
			hidden = append(hidden, name)
		}
	}
	sv.private = own.agents(hidden)
	return sv, nil
}

// surveyDefault looks for a class behind export default.
func (sv *survey) surveyDefault(s *source, own, whole *listing) {
	if !slices.Contains(sv.exports, "default") || !whole.isAgent(whole.exports["default"]) {
		return
	}
	local := own.settle(own.exports["default"])
	if slices.Contains(identifiers(s.text), local) {
		sv.byDefault = local
	} else {
		sv.anonymous = true
	}
}

// list prints one file in esbuild's own style, without types, and reads its
// outline.
func list(s *source, format api.Format) (*listing, error) {
	loader, _ := scriptLoader(s.path)
	r := api.Transform(s.text, api.TransformOptions{
		Loader: loader, Sourcefile: s.name, Target: api.ESNext, Format: format, Charset: api.CharsetUTF8,
		LegalComments: api.LegalCommentsNone, Supported: outlineFeatures(),
	})
	if len(r.Errors) > 0 {
		return nil, broken(plainMessages(r.Errors))
	}
	return readListing(string(r.Code)), nil
}

// outlineFeatures lowers template literals: without them no line of a literal can
// be taken for a statement.
func outlineFeatures() map[string]bool { return map[string]bool{"template-literal": false} }

// flatten bundles the file with everything relative that it imports, so that
// classes that it re-exports are seen.
func (p *project) flatten(s *source) (*listing, []string, error) {
	return p.outline(func(opts *api.BuildOptions) { opts.EntryPoints = []string{s.path} })
}

// sharedExports are the names that export * from all entries together gives:
// those of one entry only, and those that stand for the same thing in several.
//
// esbuild's list of exports holds ambiguous names too; its print does not.
func (p *project) sharedExports(entries []*entry) (map[string]string, error) {
	var text strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&text, "export * from %s;\n", e.specifier())
	}
	whole, _, err := p.outline(func(opts *api.BuildOptions) {
		opts.Stdin = &api.StdinOptions{Contents: text.String(), ResolveDir: p.dir, Sourcefile: entryName, Loader: api.LoaderJS}
	})
	if err != nil {
		return nil, err
	}
	return whole.exports, nil
}

// outline bundles with packages left outside; what is to be bundled is set by the
// caller. It gives esbuild's print and the sorted names of the exports.
func (p *project) outline(set func(*api.BuildOptions)) (*listing, []string, error) {
	opts, cleanup, err := p.baseOptions()
	if err != nil {
		return nil, nil, err
	}
	defer cleanup()
	opts.Packages = api.PackagesExternal
	opts.Format, opts.Target = api.FormatESModule, api.ESNext
	opts.Supported = outlineFeatures()
	opts.Plugins = []api.Plugin{p.reads.plugin()}
	set(&opts)
	r := api.Build(opts)
	if len(r.Errors) > 0 {
		return nil, nil, broken(p.messages(r.Errors))
	}
	meta, err := readMetafile(r.Metafile)
	if err != nil {
		return nil, nil, err
	}
	for _, out := range meta.Outputs {
		if out.EntryPoint != "" && len(r.OutputFiles) > 0 {
			slices.Sort(out.Exports)
			return readListing(string(r.OutputFiles[0].Contents)), out.Exports, nil
		}
	}
	return nil, nil, broken([]Message{{Text: "esbuild gave no output"}})
}

// freeNames returns those of names that the file uses without declaring them:
// esbuild replaces exactly these by a mark that no source can hold by accident.
func freeNames(text, path string, names []string) ([]string, error) {
	define, mark := map[string]string{}, "__agentd_free_"
	for strings.Contains(text, mark) {
		mark += "_"
	}
	var asked []string
	for _, name := range names {
		if strings.Contains(text, name) {
			define[name] = fmt.Sprintf("%s%d$", mark, len(asked))
			asked = append(asked, name)
		}
	}
	if len(asked) == 0 {
		return nil, nil
	}
	loader, _ := scriptLoader(path)
	r := api.Transform(text, api.TransformOptions{
		Loader: loader, Sourcefile: path, Target: api.ESNext, Charset: api.CharsetUTF8, Define: define,
	})
	if len(r.Errors) > 0 {
		return nil, broken(plainMessages(r.Errors))
	}
	code := string(r.Code)
	return slices.DeleteFunc(asked, func(name string) bool { return !strings.Contains(code, define[name]) }), nil
}

// topNames returns what a file without exports declares at top level, imports
// apart. Every identifier of the file is exported on a line of its own; esbuild
// objects to those that are not declared there.
func topNames(s *source) ([]string, error) {
	loader, _ := scriptLoader(s.path)
	plain := api.Transform(s.text, api.TransformOptions{
		Loader: loader, Sourcefile: s.name, Target: api.ESNext, Charset: api.CharsetUTF8, LegalComments: api.LegalCommentsNone,
	})
	if len(plain.Errors) > 0 {
		return nil, broken(plainMessages(plain.Errors))
	}
	code := strings.TrimRight(string(plain.Code), "\n")
	asked := slices.DeleteFunc(identifiers(code), func(name string) bool { return reserved[name] })
	first := strings.Count(code, "\n") + 3 // of the lines with a name
	r := api.Transform(code+"\nexport {\n"+strings.Join(asked, ",\n")+"\n}", api.TransformOptions{
		Loader: api.LoaderJSX, Sourcefile: s.name, Target: api.ESNext, Charset: api.CharsetUTF8,
	})
	refused := map[string]bool{}
	for _, e := range r.Errors {
		if e.Location == nil || e.Location.Line < first || e.Location.Line >= first+len(asked) {
			return nil, broken([]Message{{File: s.name, Text: "its top-level names cannot be made visible: " + e.Text,
				Hint: "export what the other files use"}})
		}
		refused[asked[e.Location.Line-first]] = true
	}
	outline, err := list(s, api.FormatESModule)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(asked, func(name string) bool {
		_, imported := outline.imports[name]
		return refused[name] || imported
	}), nil
}
