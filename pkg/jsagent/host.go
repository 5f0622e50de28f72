package jsagent

import (
	"embed"
	"fmt"
	"sync"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
	"agentd/pkg/sandbox"
)

//go:embed js/*.js
var scripts embed.FS

// partNames are the scripts of js/. A function object costs a goja runtime about a
// kilobyte, so an agent runs a part when it first uses something of it.
var partNames = []string{"core", "agent", "entry", "fibers", "members", "names", "schedules", "sdk", "sql", "storage"}

// programs compiles the parts once per process. Files named agentd:… never show in
// stacks.
var programs = sync.OnceValues(func() (map[string]*sandbox.Program, error) {
	compiled := make(map[string]*sandbox.Program, len(partNames))
	for _, name := range partNames {
		source, err := scripts.ReadFile("js/" + name + ".js")
		if err != nil {
			return nil, err
		}
		if compiled[name], err = sandbox.Compile("agentd:"+name, source, nil); err != nil {
			return nil, fmt.Errorf("compile %s.js: %w", name, err)
		}
	}
	return compiled, nil
})

// glue is the JavaScript side: host answers with Go functions, parts are what the
// scripts that ran gave back, noop is the default of hooks.
type glue struct {
	host  *goja.Object
	parts map[string]*goja.Object
	noop  goja.Value
}

// hostFunc is a Go function that the glue calls.
type hostFunc func(in *instance, call goja.FunctionCall) goja.Value

// anytime are the functions that need no agent: they work also while a bundle's
// top level runs; inAgent are the others. Filled by init because the functions
// themselves lead back here.
var anytime, inAgent map[string]hostFunc

func init() {
	anytime = map[string]hostFunc{
		"part":         (*instance).hostPart,
		"members":      (*instance).hostMembers,
		"stub":         (*instance).hostStub,
		"checkName":    (*instance).hostCheckName,
		"hexOfName":    (*instance).hostHexOfName,
		"nameOfHex":    (*instance).hostNameOfHex,
		"uniqueName":   (*instance).hostUniqueName,
		"currentAgent": (*instance).hostCurrentAgent,
	}
	inAgent = make(map[string]hostFunc)
	for _, group := range []map[string]hostFunc{stateFuncs, sqlFuncs, kvFuncs, alarmFuncs, contextFuncs, fiberFuncs, recoveryFuncs, scheduleFuncs} {
		for name, fn := range group {
			inAgent[name] = fn
		}
	}
}

// hostObject makes the functions of host when they are first asked for.
type hostObject struct {
	in   *instance
	made map[string]goja.Value
}

func (h *hostObject) Get(name string) goja.Value {
	if v, ok := h.made[name]; ok {
		return v
	}
	fn, ok := anytime[name]
	if !ok {
		if fn, ok = inAgent[name]; !ok {
			return nil
		}
		if h.in.loop == nil {
			panic(h.in.errorValue(errLoading))
		}
	}
	v := h.in.vm.ToValue(func(call goja.FunctionCall) goja.Value { return fn(h.in, call) })
	h.made[name] = v
	return v
}

func (h *hostObject) Has(name string) bool        { return anytime[name] != nil || inAgent[name] != nil }
func (h *hostObject) Set(string, goja.Value) bool { return false }
func (h *hostObject) Delete(string) bool          { return false }
func (h *hostObject) Keys() []string              { return nil }

var errLoading = &agent.Error{Kind: agent.Invalid, Msg: "this is not possible while the module is loaded: do it in a method or in onStart"}

// loadGlue makes host; parts come when they are used.
func (in *instance) loadGlue() {
	in.glue = glue{parts: make(map[string]*goja.Object, 4)}
	in.glue.host = in.vm.NewDynamicObject(&hostObject{in: in, made: make(map[string]goja.Value)})
}

// part is what a script gave back; it runs when it is first asked for. Scripts get
// (host, core, agent), as far as those are loaded.
func (in *instance) part(name string) (*goja.Object, error) {
	if o := in.glue.parts[name]; o != nil {
		return o, nil
	}
	compiled, err := programs()
	if err != nil {
		return nil, err
	}
	args := []goja.Value{in.glue.host}
	for _, first := range []string{"core", "agent"} {
		if name == first || (first == "agent" && name != "fibers" && name != "schedules" && name != "sdk") {
			break
		}
		o, err := in.part(first)
		if err != nil {
			return nil, err
		}
		args = append(args, o)
	}
	v, err := in.iso.Run(compiled[name])
	if err != nil {
		return nil, err
	}
	fn, ok := goja.AssertFunction(v)
	if !ok {
		return nil, &agent.Error{Op: "load glue", Kind: agent.Internal, Msg: name + ".js is not a function"}
	}
	err = in.iso.Do(func(*goja.Runtime) error {
		var err error
		v, err = fn(nil, args...)
		return err
	})
	if err != nil {
		return nil, err
	}
	in.glue.parts[name] = v.ToObject(in.vm)
	return in.glue.parts[name], nil
}

// partNow is part inside JavaScript: errors are thrown.
func (in *instance) partNow(name string) *goja.Object {
	o, err := in.part(name)
	if err != nil {
		in.throw(err)
	}
	return o
}

func (in *instance) hostPart(call goja.FunctionCall) goja.Value {
	return in.partNow(call.Argument(0).String())
}

// glueCall calls a function of a part, inside a turn.
func (in *instance) glueCall(part, name string, args ...goja.Value) (goja.Value, error) {
	o, err := in.part(part)
	if err != nil {
		return nil, err
	}
	fn, ok := goja.AssertFunction(o.Get(name))
	if !ok {
		return nil, &agent.Error{Op: "call glue", Kind: agent.Internal, Msg: part + "." + name + " is missing"}
	}
	return fn(nil, args...)
}
