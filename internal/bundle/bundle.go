// Package bundle turns the files that a user deploys into one script: TypeScript
// and modern JavaScript lowered to what the runtime speaks, npm packages included,
// with a source map. It is the only door to esbuild.
//
// It does not run the result and does not know what an agent is: whoever loads the
// script decides which of its exported classes are agents.
package bundle

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"agentd/pkg/agent"
	"agentd/pkg/placement"
)

// MaxFiles bounds the files and preludes of one bundle.
const MaxFiles = placement.MaxClassesPerBundle

// Options say what to bundle. Paths are relative to WorkDir.
type Options struct {
	// Files are what the user deploys, at least one. With several, those that declare
	// an agent class are entries and the others count as preludes, in any order.
	Files []string
	// Prelude files run before the entries. What they export, or, if they export
	// nothing, what they declare at top level, is visible in the user's own files as
	// free identifiers; packages do not see it.
	Prelude []string
	// WorkDir is the folder that source names are relative to; "" is the current one.
	WorkDir string
	// Minify shortens the code. Names of classes and functions are kept.
	Minify bool
}

// Output is a finished bundle. Equal input gives equal bytes.
type Output struct {
	// Code evaluates to a function expression (exports, require, module); the exports
	// are in module.exports afterwards. SourceMap maps it to files relative to WorkDir
	// and holds their text. Together at most placement.MaxBundleBytes.
	Code, SourceMap []byte
	// Inputs are the absolute paths of all files read, apart from packages: what
	// Watch should look at.
	Inputs []string
	// Warnings are what the user should see although the bundle is good.
	Warnings []Message
}

// The script is one function expression; the source map knows of the first line.
const (
	wrapperHead = "(function (exports, require, module) {"
	wrapperTail = "})"
)

// Build bundles. Every failure is an *Error, of kind Compile for mistakes in the
// source, Invalid for mistakes in opts, TooLarge over a limit; agent.KindOf tells
// them apart. It reads files and may be called from any goroutine.
func Build(opts Options) (*Output, error) {
	p, err := openProject(opts)
	if err != nil {
		return nil, err
	}
	plan, err := makePlan(p)
	if err != nil {
		return nil, withInputs(err, p.inputs())
	}
	out, err := compile(p, plan, opts.Minify)
	if err != nil {
		return nil, withInputs(err, p.inputs())
	}
	out.Inputs = p.inputs()
	out.Warnings = append(plan.warnings, out.Warnings...)
	return out, nil
}

// project is what the user gave, with paths settled.
type project struct {
	dir      string // absolute, without symbolic links
	files    []*source
	preludes []*source
	reads    reads
}

// source is one file named by the user.
type source struct {
	path string // absolute, without symbolic links: as esbuild names it
	name string // for messages: relative to the project's folder
	text string
}

func openProject(opts Options) (*project, error) {
	if len(opts.Files) == 0 {
		return nil, invalid("no file to deploy: name at least one .ts or .js file")
	}
	if n := len(opts.Files) + len(opts.Prelude); n > MaxFiles {
		return nil, invalid(fmt.Sprintf("%d files are given; at most %d are allowed", n, MaxFiles))
	}
	dir, err := filepath.Abs(opts.WorkDir)
	if err == nil {
		dir, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return nil, invalid(fmt.Sprintf("folder %s cannot be used: %v", opts.WorkDir, err))
	}
	p := &project{dir: dir}
	if p.files, err = p.open(opts.Files); err != nil {
		return nil, err
	}
	if p.preludes, err = p.open(opts.Prelude); err != nil {
		return nil, err
	}
	for _, f := range p.files {
		if slices.ContainsFunc(p.preludes, func(o *source) bool { return o.path == f.path }) {
			return nil, invalid(f.name + " is given as a file to deploy and as a prelude: choose one")
		}
	}
	return p, nil
}

// open reads the files named, each once.
func (p *project) open(names []string) ([]*source, error) {
	var out []*source
	for _, name := range names {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.dir, path)
		}
		path, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, &Error{Kind: agent.Invalid, Messages: []Message{{File: name, Text: "cannot be read: " + reason(err)}}}
		}
		if slices.ContainsFunc(out, func(o *source) bool { return o.path == path }) {
			continue
		}
		if _, ok := scriptLoader(path); !ok {
			return nil, &Error{Kind: agent.Invalid, Messages: []Message{{File: name,
				Text: "is not TypeScript or JavaScript", Hint: "deploy files that end in .ts, .tsx, .mts, .cts, .js, .jsx, .mjs or .cjs"}}}
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, &Error{Kind: agent.Invalid, Messages: []Message{{File: name, Text: "cannot be read: " + reason(err)}}}
		}
		out = append(out, &source{path: path, name: p.relative(path), text: string(text)})
	}
	return out, nil
}

// relative is how a path is shown: as the source map has it.
func (p *project) relative(path string) string {
	rel, err := filepath.Rel(p.dir, path)
	if err != nil {
		return filepath.ToSlash(path)
	}
	return filepath.ToSlash(rel)
}

// named are the files that the user named.
func (p *project) named() []*source { return slices.Concat(p.files, p.preludes) }

// inputs are the files to watch, as far as builds have come.
func (p *project) inputs() []string {
	paths := p.reads.list()
	for _, s := range p.named() {
		paths = append(paths, s.path)
	}
	if path := p.tsconfigPath(); path != "" {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}
