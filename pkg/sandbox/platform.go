package sandbox

import (
	"embed"
	"fmt"
	"sync"

	"github.com/dop251/goja"
	nodeurl "github.com/dop251/goja_nodejs/url"
)

//go:embed js/language.js js/events.js js/text.js js/storage.js js/node_events.js js/http.js
var scripts embed.FS

// compiled holds our scripts, compiled once per process: name → func() (*goja.Program, error).
var compiled sync.Map

func script(name string) (*goja.Program, error) {
	load, _ := compiled.LoadOrStore(name, sync.OnceValues(func() (*goja.Program, error) {
		source, err := scripts.ReadFile("js/" + name + ".js")
		if err != nil {
			return nil, err
		}
		return goja.Compile(internalPrefix+name, string(source), true)
	}))
	return load.(func() (*goja.Program, error))()
}

// part evaluates one of our scripts, the first time that something of it is used,
// and gives what it exports. It runs inside code that touched a name of it.
func (i *Isolate) part(name string, host map[string]nativeFunc) *goja.Object {
	if o, ok := i.parts[name]; ok {
		return o
	}
	p, err := script(name)
	if err != nil {
		panic(i.vm.NewGoError(fmt.Errorf("platform script %s: %w", name, err)))
	}
	v, err := i.vm.RunProgram(p)
	if err != nil {
		panic(err)
	}
	main, _ := goja.AssertFunction(v)
	natives := i.vm.NewObject()
	for k, fn := range host {
		i.must(natives.Set(k, i.native(k, 0, fn)))
	}
	if name == "http" {
		i.must(natives.Set("maxBody", maxBody))
	}
	v, err = main(nil, natives)
	if err != nil {
		panic(err)
	}
	o := v.ToObject(i.vm)
	i.keep(name, o)
	return o
}

func (i *Isolate) keep(name string, o *goja.Object) {
	if i.parts == nil {
		i.parts = make(map[string]*goja.Object)
	}
	i.parts[name] = o
}

// must throws an error that setting up an object of our own cannot have.
func (i *Isolate) must(err error) {
	if err != nil {
		panic(err)
	}
}

func (i *Isolate) member(part *goja.Object, name string) *goja.Object {
	o, ok := part.Get(name).(*goja.Object)
	if !ok {
		i.throw("TypeError", name+" is not part of the platform")
	}
	return o
}

func (i *Isolate) language() *goja.Object { return i.part("language", nil) }

func (i *Isolate) events() *goja.Object {
	return i.part("events", map[string]nativeFunc{
		"now": func(goja.FunctionCall) goja.Value { return i.vm.ToValue(i.elapsed()) },
		"report": func(c goja.FunctionCall) goja.Value {
			i.unhandled(i.ReasonError(c.Argument(0)))
			return goja.Undefined()
		},
	})
}

func (i *Isolate) urls() *goja.Object {
	if o, ok := i.parts["url"]; ok {
		return o
	}
	module, exports := i.vm.NewObject(), i.vm.NewObject()
	i.must(module.Set("exports", exports))
	nodeurl.Require(i.vm, module)
	class := i.member(exports, "URL")
	parse := func(c goja.FunctionCall) (*goja.Object, error) { return i.vm.New(class, c.Arguments...) }
	i.must(class.Set("canParse", i.native("canParse", 1, func(c goja.FunctionCall) goja.Value {
		_, err := parse(c)
		return i.vm.ToValue(err == nil)
	})))
	i.must(class.Set("parse", i.native("parse", 1, func(c goja.FunctionCall) goja.Value {
		o, err := parse(c)
		if err != nil {
			return goja.Null()
		}
		return o
	})))
	i.keep("url", exports)
	return exports
}

// addGlobals puts the web platform's names into the global object's template; each
// is made when an isolate first touches it.
func addGlobals(t template) error {
	functions := map[string]struct {
		length int
		fn     func(i *Isolate) nativeFunc
	}{
		"setTimeout":      {2, func(i *Isolate) nativeFunc { return i.setTimer(false) }},
		"setInterval":     {2, func(i *Isolate) nativeFunc { return i.setTimer(true) }},
		"setImmediate":    {1, func(i *Isolate) nativeFunc { return i.setImmediate }},
		"clearTimeout":    {1, func(i *Isolate) nativeFunc { return i.clearTimer }},
		"clearInterval":   {1, func(i *Isolate) nativeFunc { return i.clearTimer }},
		"clearImmediate":  {1, func(i *Isolate) nativeFunc { return i.clearTimer }},
		"queueMicrotask":  {1, func(i *Isolate) nativeFunc { return i.queueMicrotask }},
		"structuredClone": {1, func(i *Isolate) nativeFunc { return i.structuredClone }},
		"atob":            {1, func(i *Isolate) nativeFunc { return i.atob }},
		"btoa":            {1, func(i *Isolate) nativeFunc { return i.btoa }},
	}
	for name, f := range functions {
		err := t.add(name, "Object", func(i *Isolate) *goja.Object { return i.native(name, f.length, f.fn(i)) })
		if err != nil {
			return err
		}
	}
	parts := []struct {
		load  func(*Isolate) *goja.Object
		names []string
	}{
		{(*Isolate).language, []string{"WeakRef", "FinalizationRegistry"}},
		{(*Isolate).events, []string{"DOMException", "Event", "CustomEvent", "EventTarget", "AbortSignal", "AbortController"}},
		{(*Isolate).text, []string{"TextEncoder", "TextDecoder"}},
		{(*Isolate).http, []string{"Headers", "ReadableStream", "Request", "Response", "fetch"}},
		{(*Isolate).urls, []string{"URL", "URLSearchParams"}},
	}
	for _, p := range parts {
		for _, name := range p.names {
			err := t.add(name, "Object", func(i *Isolate) *goja.Object { return i.member(p.load(i), name) })
			if err != nil {
				return err
			}
		}
	}
	objects := map[string]func(i *Isolate) *goja.Object{
		"console":     (*Isolate).newConsole,
		"crypto":      (*Isolate).newCrypto,
		"performance": (*Isolate).newPerformance,
		"navigator": func(i *Isolate) *goja.Object {
			o := i.vm.NewObject()
			i.must(o.Set("userAgent", "Cloudflare-Workers"))
			return o
		},
		"self": func(i *Isolate) *goja.Object { return i.vm.GlobalObject() },
	}
	for name, fn := range objects {
		if err := t.add(name, "Object", fn); err != nil {
			return err
		}
	}
	return nil
}

// newerEditions adds to a global class what goja lacks, when it is first touched.
var newerEditions = map[string]func(i *Isolate, o *goja.Object){
	"Promise": func(i *Isolate, o *goja.Object) {
		i.addMethod(o, "withResolvers", "withResolvers", 0)
		i.addMethod(o, "try", "try", 1)
	},
	"Object": func(i *Isolate, o *goja.Object) { i.addMethod(o, "groupBy", "groupBy", 2) },
	"Map":    func(i *Isolate, o *goja.Object) { i.addMethod(o, "groupBy", "mapGroupBy", 2) },
	"Array":  func(i *Isolate, o *goja.Object) { i.addMethod(o, "fromAsync", "fromAsync", 1) },
	"Symbol": func(i *Isolate, o *goja.Object) {
		for _, name := range []string{"asyncIterator", "dispose", "asyncDispose"} {
			if o.Get(name) == nil {
				i.must(o.DefineDataProperty(name, goja.NewSymbol("Symbol."+name), goja.FLAG_FALSE, goja.FLAG_FALSE, goja.FLAG_FALSE))
			}
		}
	},
}

// addMethod puts a static method of the language part on a class; the script behind
// it is loaded when it is first called.
func (i *Isolate) addMethod(class *goja.Object, name, member string, length int) {
	if class.Get(name) != nil {
		return
	}
	fn := i.native(name, length, func(c goja.FunctionCall) goja.Value {
		inner, _ := goja.AssertFunction(i.member(i.language(), member))
		v, err := inner(c.This, c.Arguments...)
		if err != nil {
			panic(err)
		}
		return v
	})
	i.must(class.DefineDataProperty(name, fn, goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_FALSE))
}

// elapsed is milliseconds since the isolate was made.
func (i *Isolate) elapsed() float64 {
	return float64(i.cfg.Scheduler.Now().Sub(i.created).Microseconds()) / 1_000
}

func (i *Isolate) newPerformance() *goja.Object {
	o := i.vm.NewObject()
	i.must(o.Set("now", i.native("now", 0, func(goja.FunctionCall) goja.Value { return i.vm.ToValue(i.elapsed()) })))
	i.must(o.Set("timeOrigin", float64(i.created.UnixMicro())/1_000))
	return o
}

func (i *Isolate) queueMicrotask(call goja.FunctionCall) goja.Value {
	fn, ok := goja.AssertFunction(call.Argument(0))
	if !ok {
		i.throw("TypeError", "queueMicrotask: the argument must be a function")
	}
	p, resolve, _ := i.vm.NewPromise()
	i.must(resolve(goja.Undefined()))
	_, err := i.kernel.await(nil, i.vm.ToValue(p), i.vm.ToValue(func(goja.FunctionCall) goja.Value {
		if _, err := fn(goja.Undefined()); err != nil {
			panic(err)
		}
		return goja.Undefined()
	}), i.vm.ToValue(func(goja.FunctionCall) goja.Value { return goja.Undefined() }))
	i.must(err)
	return goja.Undefined()
}

// Module gives the exports of a module that the platform has: node:async_hooks,
// node:events and node:crypto, also without "node:". It must be called inside Do.
func (i *Isolate) Module(name string) (goja.Value, bool) {
	switch name {
	case "node:async_hooks", "async_hooks":
		return i.storage(), true
	case "node:events", "events":
		return i.part("node_events", nil), true
	case "node:crypto", "crypto":
		return i.nodeCrypto(), true
	}
	return nil, false
}

// storage is AsyncLocalStorage over the isolate's async context.
func (i *Isolate) storage() *goja.Object {
	run := func(next *asyncFrame, fn goja.Value) goja.Value {
		old := i.frame
		i.frame = next
		defer func() { i.frame = old }()
		callback, _ := goja.AssertFunction(fn)
		v, err := callback(goja.Undefined())
		if err != nil {
			panic(err)
		}
		return v
	}
	return i.part("storage", map[string]nativeFunc{
		"get": func(c goja.FunctionCall) goja.Value {
			if i.frame != nil {
				for s := i.frame.stores; s != nil; s = s.next {
					if s.owner == c.Argument(0) {
						return s.value
					}
				}
			}
			return goja.Undefined()
		},
		"run": func(c goja.FunctionCall) goja.Value {
			return run(i.frame.with(asObject(c.Argument(0)), c.Argument(1)), c.Argument(2))
		},
		"enter": func(c goja.FunctionCall) goja.Value {
			i.frame = i.frame.with(asObject(c.Argument(0)), c.Argument(1))
			return goja.Undefined()
		},
		"capture": func(goja.FunctionCall) goja.Value { return i.vm.ToValue(&capturedFrame{i.frame}) },
		"restore": func(c goja.FunctionCall) goja.Value {
			captured, ok := c.Argument(0).Export().(*capturedFrame)
			if !ok {
				i.throw("TypeError", "not a snapshot")
			}
			return run(captured.frame, c.Argument(1))
		},
	})
}

// capturedFrame carries a frame through JavaScript.
type capturedFrame struct{ frame *asyncFrame }

// with is the frame in which owner's store is value. Entries of the same owner are
// dropped, so that the list is as long as there are owners.
func (f *asyncFrame) with(owner *goja.Object, value goja.Value) *asyncFrame {
	next := &asyncFrame{stores: &asyncStore{owner: owner, value: value}}
	if f == nil {
		return next
	}
	next.host = f.host
	tail := next.stores
	for s := f.stores; s != nil; s = s.next {
		if s.owner != owner {
			tail.next = &asyncStore{owner: s.owner, value: s.value}
			tail = tail.next
		}
	}
	return next
}
