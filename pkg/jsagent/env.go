package jsagent

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"slices"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// environment is env and exports, made when they are first asked for.
type environment struct {
	env, exports *goja.Object
	namespaces   map[string]goja.Value // by class
}

// envObject answers with plain variables and namespaces of classes; code may add
// its own properties.
type envObject struct {
	in       *instance
	vars     map[string]json.RawMessage
	bindings map[string]string // property to class
	values   map[string]goja.Value
}

func (e *envObject) Get(name string) goja.Value {
	if v, ok := e.values[name]; ok {
		return v
	}
	var v goja.Value
	if raw, ok := e.vars[name]; ok {
		var err error
		if v, err = e.in.iso.FromJSON(raw); err != nil {
			e.in.throw(invalid("", "the variable %s is not JSON", name))
		}
	} else if class, ok := e.bindings[name]; ok {
		v = e.in.namespace(class)
	} else {
		return nil
	}
	e.values[name] = v
	return v
}

func (e *envObject) Set(name string, v goja.Value) bool {
	e.values[name] = v
	return true
}

func (e *envObject) Has(name string) bool {
	_, value := e.values[name]
	_, isVar := e.vars[name]
	_, binding := e.bindings[name]
	return value || isVar || binding
}

func (e *envObject) Delete(name string) bool { return !e.Has(name) }

func (e *envObject) Keys() []string {
	var keys []string
	for name := range e.vars {
		keys = append(keys, name)
	}
	for name := range e.bindings {
		if _, ok := e.vars[name]; !ok {
			keys = append(keys, name)
		}
	}
	for name := range e.values {
		if _, ok := e.vars[name]; !ok && e.bindings[name] == "" {
			keys = append(keys, name)
		}
	}
	slices.Sort(keys)
	return keys
}

// envValue is the env of this agent.
func (in *instance) envValue() *goja.Object {
	if in.env.env == nil {
		in.env.env = in.vm.NewDynamicObject(&envObject{in: in, vars: in.cfg.Env,
			bindings: bindingNames(in.cfg.Bindings), values: make(map[string]goja.Value)})
	}
	return in.env.env
}

// exportsValue is ctx.exports: the namespaces by class.
func (in *instance) exportsValue() *goja.Object {
	if in.env.exports == nil {
		classes := make(map[string]string, len(in.cfg.Bindings))
		for _, class := range in.cfg.Bindings {
			classes[class] = class
		}
		in.env.exports = in.vm.NewDynamicObject(&envObject{in: in, bindings: classes, values: make(map[string]goja.Value)})
	}
	return in.env.exports
}

// namespace is the one object for a class, whatever it is called in env.
func (in *instance) namespace(class string) goja.Value {
	if v, ok := in.env.namespaces[class]; ok {
		return v
	}
	v, err := in.glueCall("names", "newNamespace", in.vm.ToValue(class))
	if err != nil {
		in.throw(err)
	}
	if in.env.namespaces == nil {
		in.env.namespaces = make(map[string]goja.Value)
	}
	in.env.namespaces[class] = v
	return v
}

// hostCheckName returns a valid agent name as it is.
func (in *instance) hostCheckName(call goja.FunctionCall) goja.Value {
	v := call.Argument(0)
	if !goja.IsString(v) {
		in.throw(&agent.Error{Kind: agent.Invalid, Name: "TypeError", Msg: "an agent's name must be a string"})
	}
	id := agent.ID{Namespace: agent.DefaultNamespace, Class: "X", Name: v.String()}
	return in.must(v, id.Validate())
}

func (in *instance) hostHexOfName(call goja.FunctionCall) goja.Value {
	return in.vm.ToValue(hex.EncodeToString([]byte(call.Argument(0).String())))
}

func (in *instance) hostNameOfHex(call goja.FunctionCall) goja.Value {
	name, err := hex.DecodeString(call.Argument(0).String())
	if err != nil {
		in.throw(&agent.Error{Kind: agent.Invalid, Name: "TypeError", Msg: "this is not an id that toString() of an id gave"})
	}
	return in.hostCheckName(goja.FunctionCall{Arguments: []goja.Value{in.vm.ToValue(string(name))}})
}

func (in *instance) hostUniqueName(goja.FunctionCall) goja.Value {
	b, err := in.random(16)
	return in.must(in.vm.ToValue(hex.EncodeToString(b)), err)
}

// random reads n bytes of the injected source.
func (in *instance) random(n int) ([]byte, error) {
	src := in.cfg.Rand
	if src == nil {
		src = rand.Reader
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(src, b); err != nil {
		return nil, &agent.Error{Op: "read random bytes", Kind: agent.Internal, Err: err}
	}
	return b, nil
}

// nanoAlphabet has 64 letters that are safe in a URL.
const nanoAlphabet = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz-"

// nanoid is a random ID of n letters.
func (in *instance) nanoid(n int) (string, error) {
	b, err := in.random(n)
	for i := range b {
		b[i] = nanoAlphabet[b[i]&63]
	}
	return string(b), err
}
