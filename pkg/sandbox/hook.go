package sandbox

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"sync"
	"unsafe"
	"weak"

	"github.com/dop251/goja"
	"github.com/dop251/goja/unistring"
)

// This file is the only one that reaches into goja's private structures. goja keeps
// most built-ins in templates, one per process, from which a runtime makes a
// function when it is first touched. Hooking the template costs an isolate nothing
// until then, and keeps names, lengths, descriptors and identities as they are; a
// wrapper per isolate and function would cost about 1 KB each. Every field is
// looked up by name and checked by type, so another version of goja that moved
// them makes New fail instead of misbehaving.

type (
	nativeFunc    = func(goja.FunctionCall) goja.Value
	constructFunc = func(args []goja.Value, newTarget *goja.Object) *goja.Object
	factoryFunc   = func(*goja.Runtime) goja.Value
)

var errLayout = errors.New("this version of goja has another layout; pkg/sandbox must be adapted to it")

// isolates finds the isolate of a runtime. Both ends are weak: an isolate that is
// no longer used goes away by itself.
var isolates sync.Map // weak.Pointer[goja.Runtime] → weak.Pointer[Isolate]

func register(i *Isolate) {
	key := weak.Make(i.vm)
	isolates.Store(key, weak.Make(i))
	runtime.AddCleanup(i.vm, func(key weak.Pointer[goja.Runtime]) { isolates.Delete(key) }, key)
}

// isolateOf is nil for a runtime that this package did not make.
func isolateOf(vm *goja.Runtime) *Isolate {
	v, ok := isolates.Load(weak.Make(vm))
	if !ok {
		return nil
	}
	return v.(weak.Pointer[Isolate]).Value()
}

// field finds a possibly private field of the value behind an object.
func field(o *goja.Object, name string) (reflect.Value, bool) {
	self := reflect.ValueOf(o).Elem().FieldByName("self")
	if !self.IsValid() || self.Kind() != reflect.Interface || self.Elem().Kind() != reflect.Pointer {
		return reflect.Value{}, false
	}
	f := self.Elem().Elem()
	if f.Kind() != reflect.Struct {
		return reflect.Value{}, false
	}
	f = f.FieldByName(name)
	return f, f.IsValid()
}

// fieldOf is a pointer to a field of type T, or nil.
func fieldOf[T any](o *goja.Object, name string) *T {
	f, ok := field(o, name)
	if !ok || !f.CanAddr() || f.Type() != reflect.TypeFor[T]() {
		return nil
	}
	return (*T)(unsafe.Pointer(f.UnsafeAddr()))
}

// kindOf names goja's type behind an object, such as "proxyObject".
func kindOf(o *goja.Object) string {
	self := reflect.ValueOf(o).Elem().FieldByName("self").Elem()
	if self.Kind() != reflect.Pointer {
		return ""
	}
	return self.Type().Elem().Name()
}

// template is the process-wide description of one built-in object.
type template struct {
	props reflect.Value // map of factories
	names *[]unistring.String
}

func templateOf(o *goja.Object) (template, error) {
	f, ok := field(o, "tmpl")
	if !ok || f.Kind() != reflect.Pointer || f.IsNil() {
		return template{}, errLayout
	}
	props, names := f.Elem().FieldByName("props"), f.Elem().FieldByName("propNames")
	if !props.IsValid() || props.Kind() != reflect.Map || !props.Type().Elem().ConvertibleTo(reflect.TypeFor[factoryFunc]()) ||
		!names.IsValid() || names.Type() != reflect.TypeFor[[]unistring.String]() {
		return template{}, errLayout
	}
	return template{
		props: reflect.NewAt(props.Type(), unsafe.Pointer(props.UnsafeAddr())).Elem(),
		names: (*[]unistring.String)(unsafe.Pointer(names.UnsafeAddr())),
	}, nil
}

func (t template) factory(key reflect.Value) (factoryFunc, error) {
	v := t.props.MapIndex(key)
	if !v.IsValid() || !v.CanConvert(reflect.TypeFor[factoryFunc]()) {
		return nil, fmt.Errorf("built-in %v: %w", key, errLayout)
	}
	return v.Convert(reflect.TypeFor[factoryFunc]()).Interface().(factoryFunc), nil
}

func (t template) setFactory(key reflect.Value, f factoryFunc) {
	t.props.SetMapIndex(key, reflect.ValueOf(f).Convert(t.props.Type().Elem()))
}

func nameKey(name string) reflect.Value { return reflect.ValueOf(unistring.NewFromString(name)) }

// hook runs fn on the function object behind a property when an isolate first
// touches it.
func (t template) hook(name string, fn func(i *Isolate, o *goja.Object)) error {
	return t.hookKey(nameKey(name), fn)
}

func (t template) hookKey(key reflect.Value, fn func(i *Isolate, o *goja.Object)) error {
	old, err := t.factory(key)
	if err != nil {
		return err
	}
	t.setFactory(key, func(vm *goja.Runtime) goja.Value {
		v := old(vm)
		if i := isolateOf(vm); i != nil {
			if o := propertyValue(v); o != nil {
				fn(i, *o)
			}
		}
		return v
	})
	return nil
}

// hookSymbol is hook for a property named by a symbol.
func hookSymbol(of *goja.Object, symbol *goja.Symbol, fn func(i *Isolate, o *goja.Object)) error {
	f, ok := field(of, "tmpl")
	if !ok || f.Kind() != reflect.Pointer || f.IsNil() {
		return errLayout
	}
	props := f.Elem().FieldByName("symProps")
	if !props.IsValid() || props.Kind() != reflect.Map {
		return errLayout
	}
	t := template{props: reflect.NewAt(props.Type(), unsafe.Pointer(props.UnsafeAddr())).Elem()}
	return t.hookKey(reflect.ValueOf(symbol), fn)
}

// add puts a new property, made when an isolate first touches it: writable,
// configurable and, like the platform's own, not enumerable. pattern is a property
// to copy the form from.
func (t template) add(name, pattern string, fn func(i *Isolate) *goja.Object) error {
	old, err := t.factory(nameKey(pattern))
	if err != nil {
		return err
	}
	t.setFactory(nameKey(name), func(vm *goja.Runtime) goja.Value {
		i := isolateOf(vm)
		if i == nil {
			return nil
		}
		made := fn(i)
		v := reflect.ValueOf(old(vm)).Elem()
		clone := reflect.New(v.Type())
		clone.Elem().Set(v)
		prop := clone.Interface().(goja.Value)
		*propertySlot(prop) = made
		return prop
	})
	if key := unistring.NewFromString(name); !slices.Contains(*t.names, key) {
		*t.names = append(*t.names, key)
	}
	return nil
}

// propertySlot is where goja's property record keeps its value.
func propertySlot(v goja.Value) *goja.Value {
	if v == nil {
		return nil
	}
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.Elem().Kind() != reflect.Struct {
		return nil
	}
	f := p.Elem().FieldByName("value")
	if !f.IsValid() || f.Type() != reflect.TypeFor[goja.Value]() {
		return nil
	}
	return (*goja.Value)(unsafe.Pointer(f.UnsafeAddr()))
}

// propertyValue is the object in a property record; nil if there is none.
func propertyValue(v goja.Value) **goja.Object {
	slot := propertySlot(v)
	if slot == nil {
		return nil
	}
	if o, ok := (*slot).(*goja.Object); ok {
		return &o
	}
	return nil
}

// wrapNative replaces what a built-in function does when called.
func wrapNative(o *goja.Object, wrap func(nativeFunc) nativeFunc) bool {
	f := fieldOf[nativeFunc](o, "f")
	if f == nil || *f == nil {
		return false
	}
	*f = wrap(*f)
	return true
}

// wrapConstruct replaces what a built-in function does after new.
func wrapConstruct(o *goja.Object, wrap func(constructFunc) constructFunc) bool {
	f := fieldOf[constructFunc](o, "construct")
	if f == nil || *f == nil {
		return false
	}
	*f = wrap(*f)
	return true
}

// vmStack points at the heights of goja's stacks. goja leaves them too high when an
// overflow passes through an async function or a generator, and would go on with
// the frames of code that has ended.
type vmStack struct{ call, try, iter, ref, sp *int }

type vmHeight struct{ call, try, iter, ref, sp int }

func stackOf(r *goja.Runtime) (vmStack, error) {
	f := reflect.ValueOf(r).Elem().FieldByName("vm")
	if !f.IsValid() || f.Kind() != reflect.Pointer {
		return vmStack{}, errLayout
	}
	vm := f.Elem()
	var s vmStack
	for _, e := range []struct {
		name string
		at   **int
	}{{"callStack", &s.call}, {"tryStack", &s.try}, {"iterStack", &s.iter}, {"refStack", &s.ref}} {
		f := vm.FieldByName(e.name)
		if !f.IsValid() || f.Kind() != reflect.Slice {
			return vmStack{}, errLayout
		}
		// The length is the second word of a slice.
		*e.at = (*int)(unsafe.Add(unsafe.Pointer(f.UnsafeAddr()), unsafe.Sizeof(uintptr(0))))
	}
	sp := vm.FieldByName("sp")
	if !sp.IsValid() || sp.Kind() != reflect.Int {
		return vmStack{}, errLayout
	}
	s.sp = (*int)(unsafe.Pointer(sp.UnsafeAddr()))
	return s, nil
}

func (s vmStack) height() vmHeight { return vmHeight{*s.call, *s.try, *s.iter, *s.ref, *s.sp} }

// unwind goes back to a height taken earlier in a function that is still running.
func (s vmStack) unwind(to vmHeight) {
	*s.call, *s.try, *s.iter, *s.ref, *s.sp = to.call, to.try, to.iter, to.ref, to.sp
}
