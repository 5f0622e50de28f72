package sandbox

import (
	"fmt"
	"math/big"
	"slices"

	"github.com/dop251/goja"
)

// structuredClone copies everything that has no behaviour. Transfer lists are
// refused.
func (i *Isolate) structuredClone(call goja.FunctionCall) goja.Value {
	if len(call.Arguments) == 0 {
		i.throw("TypeError", "structuredClone: an argument is required")
	}
	if o, ok := call.Argument(1).(*goja.Object); ok {
		if list := o.Get("transfer"); list != nil && lengthOf(list) > 0 {
			i.throwDOM("DataCloneError", "structuredClone: transferring is not supported; leave transfer out to copy")
		}
	}
	c := cloner{i: i, copies: make(map[*goja.Object]*goja.Object)}
	return c.value(call.Argument(0), 0)
}

// throwDOM raises a DOMException.
func (i *Isolate) throwDOM(name, message string) {
	o, err := i.vm.New(i.member(i.events(), "DOMException"), i.vm.ToValue(message), i.vm.ToValue(name))
	if err != nil {
		panic(err)
	}
	panic(o)
}

type cloner struct {
	i      *Isolate
	copies map[*goja.Object]*goja.Object
}

func (c *cloner) value(v goja.Value, depth int) goja.Value {
	if s, ok := v.(*goja.Symbol); ok {
		c.i.throwDOM("DataCloneError", primitiveText(s)+" could not be cloned")
	}
	o, ok := v.(*goja.Object)
	if !ok {
		return v
	}
	if copied, ok := c.copies[o]; ok {
		return copied
	}
	if depth > maxNesting {
		c.i.throw("RangeError", fmt.Sprintf("the value is nested deeper than %d levels", maxNesting))
	}
	c.i.allow(float64(len(c.copies)))
	return c.object(o, depth)
}

func (c *cloner) object(o *goja.Object, depth int) goja.Value {
	vm := c.i.vm
	if _, ok := goja.AssertFunction(o); ok || kindOf(o) == "proxyObject" {
		c.i.throwDOM("DataCloneError", c.i.inspect(o)+" could not be cloned")
	}
	switch class := classOf(o); class {
	case "Array":
		n := number(o.Get("length"))
		c.i.allow(n)
		out := vm.NewArray()
		c.i.must(out.Set("length", n))
		return c.members(o, out, depth)
	case "Date", "RegExp":
		return c.keep(o, c.construct(class, c.primitive(o, class)...))
	case "Number", "String", "Boolean":
		return c.keep(o, vm.ToValue(o.Export()).ToObject(vm))
	case "Error":
		return c.fault(o, depth)
	case "Map", "Set":
		return c.collection(o, class, depth)
	case "Object":
	case "ArrayBuffer":
		buffer, _ := o.Export().(goja.ArrayBuffer)
		return c.keep(o, vm.ToValue(vm.NewArrayBuffer(slices.Clone(buffer.Bytes()))).(*goja.Object))
	default:
		c.i.throwDOM("DataCloneError", "["+class+"] could not be cloned")
	}
	if view := c.view(o, depth); view != nil {
		return view
	}
	if _, ok := o.Export().(*big.Int); ok {
		return c.keep(o, o)
	}
	if _, ok := asPromise(o); ok || kindOf(o) == "generatorObject" {
		c.i.throwDOM("DataCloneError", c.i.inspect(o)+" could not be cloned")
	}
	return c.members(o, vm.NewObject(), depth)
}

func (c *cloner) keep(o, copied *goja.Object) *goja.Object {
	c.copies[o] = copied
	return copied
}

func (c *cloner) construct(class string, args ...goja.Value) *goja.Object {
	o, err := c.i.vm.New(c.i.vm.GlobalObject().Get(class), args...)
	if err != nil {
		panic(err)
	}
	return o
}

// primitive is what a Date or RegExp is made of.
func (c *cloner) primitive(o *goja.Object, class string) []goja.Value {
	if class == "RegExp" {
		return []goja.Value{o.Get("source"), o.Get("flags")}
	}
	return []goja.Value{o.ToNumber()}
}

func (c *cloner) members(o, out *goja.Object, depth int) *goja.Object {
	c.keep(o, out)
	for _, key := range o.Keys() {
		c.i.must(out.DefineDataProperty(key, c.value(o.Get(key), depth+1), goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_TRUE))
	}
	return out
}

func (c *cloner) fault(o *goja.Object, depth int) goja.Value {
	class := "Error"
	if name := o.Get("name"); name != nil {
		switch name.String() {
		case "EvalError", "RangeError", "ReferenceError", "SyntaxError", "TypeError", "URIError":
			class = name.String()
		}
	}
	out := c.keep(o, c.construct(class))
	for _, key := range []string{"message", "stack", "cause"} {
		if v := ownValue(o, key); v != nil {
			c.i.must(out.DefineDataProperty(key, c.value(v, depth+1), goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_FALSE))
		}
	}
	return out
}

func (c *cloner) collection(o *goja.Object, class string, depth int) goja.Value {
	out := c.keep(o, c.construct(class))
	var items []goja.Value
	c.i.vm.ForOf(o, func(v goja.Value) bool {
		items = append(items, v)
		return true
	})
	name := "add"
	if class == "Map" {
		name = "set"
	}
	add, _ := goja.AssertFunction(out.Get(name))
	for _, item := range items {
		args := []goja.Value{item}
		if class == "Map" {
			pair := item.ToObject(c.i.vm)
			args = []goja.Value{pair.Get("0"), pair.Get("1")}
		}
		for k := range args {
			args[k] = c.value(args[k], depth+1)
		}
		if _, err := add(out, args...); err != nil {
			panic(err)
		}
	}
	return out
}

// view copies a typed array or DataView with its buffer; nil if o is none.
func (c *cloner) view(o *goja.Object, depth int) goja.Value {
	kind := kindOf(o)
	if kind != "typedArrayObject" && kind != "dataViewObject" {
		return nil
	}
	class, length := "DataView", o.Get("byteLength")
	if kind == "typedArrayObject" {
		name, ok := o.Prototype().Get("constructor").(*goja.Object)
		if tag := o.GetSymbol(goja.SymToStringTag); tag != nil {
			class = tag.String()
		} else if ok {
			class = name.Get("name").String()
		}
		length = o.Get("length")
	}
	buffer := c.value(o.Get("buffer"), depth+1)
	return c.keep(o, c.construct(class, buffer, o.Get("byteOffset"), length))
}
