package jsagent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/placement"
	"agentd/pkg/sandbox"
)

// Module is one bundle, compiled once and shared by all instances of its classes.
// Its methods may be called from any goroutine.
type Module struct {
	file    string
	program *sandbox.Program
	exports map[string]export // by class
}

// Load compiles a bundle and runs it once in a throw-away isolate, without database
// or network, to find its classes: the exports that extend Agent or DurableObject,
// in order of name. The error is an *agent.Error, of kind Compile when the bundle is
// at fault: its message has the author's file, line and column.
func Load(ctx context.Context, bundle placement.Bundle, opts LoadOptions) (*Module, []Class, error) {
	opts.setDefaults()
	if n := len(bundle.Code) + len(bundle.SourceMap); n > placement.MaxBundleBytes {
		return nil, nil, &agent.Error{Op: "load bundle", Kind: agent.TooLarge,
			Msg: fmt.Sprintf("code and source map have %d bytes; at most %d are allowed", n, placement.MaxBundleBytes)}
	}
	program, err := sandbox.Compile(opts.File, bundle.Code, bundle.SourceMap)
	if err != nil {
		return nil, nil, compileError(opts.File, err)
	}
	m := &Module{file: opts.File, program: program}
	found, err := m.trial(ctx, bundle, opts)
	if err != nil {
		return nil, nil, err
	}
	classes, err := m.accept(found)
	return m, classes, err
}

// accept keeps the classes that can be deployed and describes them, in order.
func (m *Module) accept(found []export) ([]Class, error) {
	if len(found) == 0 {
		return nil, &agent.Error{Op: "load bundle", Kind: agent.Compile, Msg: m.file +
			" exports no class that extends Agent or DurableObject: write `export class Counter extends Agent { … }`"}
	}
	if len(found) > placement.MaxClassesPerBundle {
		return nil, &agent.Error{Op: "load bundle", Kind: agent.TooLarge,
			Msg: fmt.Sprintf("%s exports %d classes; at most %d are allowed", m.file, len(found), placement.MaxClassesPerBundle)}
	}
	m.exports = make(map[string]export, len(found))
	var classes []Class
	for _, e := range found {
		if err := agent.ValidateClass(e.name); err != nil {
			return nil, &agent.Error{Op: "load bundle", Kind: agent.Compile, Msg: "an exported class cannot be deployed", Err: err}
		}
		m.exports[e.name] = e
		classes = append(classes, Class{Name: e.name, Methods: e.methods})
	}
	slices.SortFunc(classes, func(a, b Class) int { return strings.Compare(a.Name, b.Name) })
	return classes, nil
}

// Factory builds instances of one of the module's classes. A class that the module
// does not export fails with kind UnknownClass when the factory is used.
func (m *Module) Factory(class string, cfg Config) actor.Factory {
	return func(loop actor.Loop) (actor.Behavior, error) {
		if _, ok := m.exports[class]; !ok {
			return nil, &agent.Error{Op: "start agent", Agent: loop.ID(), Kind: agent.UnknownClass,
				Msg: fmt.Sprintf("%s exports no class %s; it has %s", m.file, class, strings.Join(slices.Sorted(maps.Keys(m.exports)), ", "))}
		}
		in := &instance{module: m, class: class, cfg: cfg, loop: loop}
		if err := in.construct(); err != nil {
			in.Close()
			return nil, err
		}
		return in, nil
	}
}

// trialLoop is the loop of the throw-away isolate: nothing happens later.
type trialLoop struct{ now func() time.Time }

func (trialLoop) Post(func()) bool { return false }
func (trialLoop) AfterFunc(time.Duration, func()) (stop func() bool) {
	return func() bool { return true }
}
func (l trialLoop) Now() time.Time { return l.now() }

// trial runs the module's top level and lists its classes.
func (m *Module) trial(ctx context.Context, bundle placement.Bundle, opts LoadOptions) ([]export, error) {
	in := &instance{module: m, cfg: Config{Env: opts.Env, Bindings: opts.Bindings, Limits: opts.Limits}}
	// Loading is an edge: the wall clock that the top level sees is the machine's.
	iso, err := sandbox.New(sandbox.Config{Scheduler: trialLoop{time.Now}, Limits: opts.Limits})
	if err != nil {
		return nil, err
	}
	in.iso, in.vm = iso, iso.VM()
	defer in.Close()
	limited, cancel := context.WithTimeoutCause(ctx, opts.TimeLimit, &agent.Error{Op: "load bundle", Kind: agent.Compile,
		Msg: fmt.Sprintf("the top level of %s ran longer than %v: move work into methods", m.file, opts.TimeLimit)})
	defer cancel()
	stop := context.AfterFunc(limited, func() { iso.Interrupt(agent.FromContext(limited, "load bundle", agent.ID{})) })
	defer stop()
	exports, err := in.evaluate()
	if err != nil {
		return nil, in.loadError(err, bundle)
	}
	found, err := in.exported(exports)
	if err != nil {
		return nil, in.loadError(err, bundle)
	}
	return found, nil
}

// evaluate runs the glue and the module and returns its exports.
func (in *instance) evaluate() (*goja.Object, error) {
	in.loadGlue()
	v, err := in.iso.Run(in.module.program)
	if err != nil {
		return nil, err
	}
	fn, ok := goja.AssertFunction(v)
	if !ok {
		return nil, &agent.Error{Op: "load bundle", Kind: agent.Compile,
			Msg: in.module.file + " does not evaluate to a function (exports, require, module): bundle it with `agentd deploy`"}
	}
	module, exports := in.vm.NewObject(), in.vm.NewObject()
	require := in.vm.ToValue(func(call goja.FunctionCall) goja.Value {
		v, err := in.require(call.Argument(0).String())
		if err != nil {
			in.throw(err)
		}
		return v
	})
	err = in.iso.Do(func(*goja.Runtime) error {
		if err := module.Set("exports", exports); err != nil {
			return err
		}
		_, err := fn(goja.Undefined(), exports, require, module)
		return err
	})
	if err != nil {
		return nil, err
	}
	// A script may put another object, or a class, in the place of its exports.
	return module.Get("exports").ToObject(in.vm), nil
}

// export is a class among a module's exports.
type export struct {
	name, key string // of the class, of the export
	isAgent   bool   // extends Agent, not only DurableObject
	methods   []string
}

// exported lists the classes among the exports. A default export goes by its own
// name unless a named export has it.
func (in *instance) exported(exports *goja.Object) (found []export, err error) {
	agentPart, err := in.part("agent")
	if err != nil {
		return nil, err
	}
	core, err := in.part("core")
	if err != nil {
		return nil, err
	}
	bases := []*goja.Object{agentPart.Get("Agent").ToObject(in.vm), core.Get("DurableObject").ToObject(in.vm)}
	err = in.iso.Do(func(vm *goja.Runtime) error {
		for _, key := range exports.Keys() {
			e, ok, err := in.describe(key, exports.Get(key), bases)
			if err != nil {
				return err
			}
			if ok && !slices.ContainsFunc(found, func(o export) bool { return o.name == e.name }) {
				found = append(found, e)
			}
		}
		return nil
	})
	return found, err
}

// describe says whether an export is a class below one of the bases (Agent,
// DurableObject).
func (in *instance) describe(key string, v goja.Value, bases []*goja.Object) (e export, ok bool, err error) {
	if slices.ContainsFunc(bases, func(base *goja.Object) bool { return base.SameAs(v) }) {
		return e, false, nil // handed on, not defined here
	}
	for k, base := range bases {
		methods, err := in.glueCall("core", "methodsOf", v, base)
		if err != nil {
			return e, false, err
		}
		if goja.IsUndefined(methods) {
			continue
		}
		e = export{name: key, key: key, isAgent: k == 0}
		if key == "default" {
			e.name = v.ToObject(in.vm).Get("name").String()
		}
		return e, true, in.vm.ExportTo(methods, &e.methods)
	}
	return e, false, nil
}

// compileError puts the place of a syntax error into words.
func compileError(file string, err error) error {
	out := &agent.Error{Op: "load bundle", Kind: agent.Compile}
	var source *sandbox.SourceError
	if !errors.As(err, &source) {
		out.Msg, out.Err = file+" does not compile", err
		return out
	}
	out.Name, out.Err = "SyntaxError", source
	return out
}

// loadError describes what the top level threw, with the author's stack and line.
func (in *instance) loadError(err error, bundle placement.Bundle) error {
	var known *agent.Error
	if errors.As(err, &known) && (known.Kind == agent.Compile || known.Kind == agent.Canceled || known.Kind == agent.Deadline) && known.Name == "" {
		return known
	}
	e := in.iso.Error(err)
	msg := fmt.Sprintf("%s does not load: %s", in.module.file, e.Error())
	if e.Stack != "" {
		msg += "\n    " + firstLine(e.Stack)
		if line := sandbox.LineAt(e.Stack, bundle.Code, bundle.SourceMap); line != "" {
			msg += "\n    " + strings.TrimSpace(line)
		}
	}
	return &agent.Error{Op: "load bundle", Kind: agent.Compile, Name: e.Name, Msg: msg, Stack: e.Stack}
}
