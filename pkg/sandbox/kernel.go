package sandbox

import (
	_ "embed"
	"errors"
	"sync"

	"github.com/dop251/goja"
)

//go:embed js/kernel.js
var kernelSource string

// internalPrefix names our own scripts; frames of such files never show in stacks.
const internalPrefix = "agentd:"

var kernelProgram = sync.OnceValues(func() (*goja.Program, error) {
	return goja.Compile(internalPrefix+"kernel", kernelSource, true)
})

// kernel holds functions taken before any other code ran. Calling Go through enter
// keeps a JavaScript frame on the stack, so that goja drains microtasks once, when
// the turn ends, and not after every call that Go makes.
type kernel struct {
	enter, await goja.Callable
	entry        goja.Value // what enter is given: it calls run
	run          func()
	generators   goja.Callable // gives the prototype of all generators
	hidden       *goja.Symbol  // marks values of ours on objects
}

func (i *Isolate) loadKernel() error {
	p, err := kernelProgram()
	if err != nil {
		return err
	}
	v, err := i.vm.RunProgram(p)
	if err != nil {
		return err
	}
	o := v.ToObject(i.vm)
	var ok1, ok2, ok3 bool
	i.kernel.enter, ok1 = goja.AssertFunction(o.Get("enter"))
	i.kernel.await, ok2 = goja.AssertFunction(o.Get("await"))
	i.kernel.generators, ok3 = goja.AssertFunction(o.Get("generators"))
	if !ok1 || !ok2 || !ok3 {
		return errors.New("kernel script lacks its functions")
	}
	i.kernel.entry = i.vm.ToValue(func(goja.FunctionCall) goja.Value {
		i.kernel.run()
		return goja.Undefined()
	})
	i.kernel.hidden = goja.NewSymbol("agentd")
	return nil
}

// native makes a function that looks like a built-in.
func (i *Isolate) native(name string, length int, fn func(goja.FunctionCall) goja.Value) *goja.Object {
	f := i.vm.ToValue(fn).(*goja.Object)
	f.DefineDataProperty("name", i.vm.ToValue(name), goja.FLAG_FALSE, goja.FLAG_TRUE, goja.FLAG_FALSE)
	if length != 0 {
		f.DefineDataProperty("length", i.vm.ToValue(length), goja.FLAG_FALSE, goja.FLAG_TRUE, goja.FLAG_FALSE)
	}
	return f
}

// throw raises an error of a global class, such as RangeError, in the code that
// called.
func (i *Isolate) throw(class, message string) {
	panic(i.newError(class, message))
}

// newError makes an error of a global class; code that took the class away gets a
// TypeError of the same text.
func (i *Isolate) newError(class, message string) *goja.Object {
	var o *goja.Object
	var err error
	ex := i.vm.Try(func() { o, err = i.vm.New(i.vm.GlobalObject().Get(class), i.vm.ToValue(message)) })
	if ex != nil || err != nil {
		return i.vm.NewTypeError("%s", message)
	}
	return o
}

// classOf is the built-in class of an object, told by goja's type where its class
// name says only "Object".
func classOf(o *goja.Object) string {
	switch kindOf(o) {
	case "mapObject":
		return "Map"
	case "setObject":
		return "Set"
	case "arrayBufferObject":
		return "ArrayBuffer"
	case "weakMapObject":
		return "WeakMap"
	case "weakSetObject":
		return "WeakSet"
	}
	return o.ClassName()
}
