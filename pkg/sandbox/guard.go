package sandbox

import (
	"fmt"
	"math/big"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/dlclark/regexp2/v2"
	"github.com/dop251/goja"
	"github.com/dop251/goja/parser"
)

// A guard looks at the arguments of a built-in before it runs and throws RangeError
// if it would touch or create more than Limits.NativeLength, because an interrupt
// cannot stop native code. It may replace arguments by what they convert to, so that
// code cannot answer differently the second time.
type guard func(i *Isolate, call *goja.FunctionCall)

// guardState is what guards remember. Owned by the loop.
type guardState struct {
	nesting           int                   // built-ins under way on the Go stack
	hooked            map[*goja.Object]bool // classes that hookOnce has done
	regex, generators bool                  // their prototypes are guarded
	outside           time.Duration         // spent in functions that replace called back
}

// arrayGuards are methods of Array.prototype; all of them loop over length.
var arrayGuards = map[string]guard{
	"concat": guardConcat, "join": guardJoin, "toLocaleString": guardJoin, "toString": guardJoin, "flat": guardFlat,
	"copyWithin": guardLength, "every": guardLength, "fill": guardLength, "filter": guardLength, "find": guardLength,
	"findIndex": guardLength, "findLast": guardLength, "findLastIndex": guardLength, "flatMap": guardLength,
	"forEach": guardLength, "includes": guardLength, "indexOf": guardLength, "lastIndexOf": guardLength,
	"map": guardLength, "reduce": guardLength, "reduceRight": guardLength, "reverse": guardLength,
	"shift": guardLength, "slice": guardLength, "some": guardLength, "sort": guardSort, "splice": guardLength,
	"unshift": guardLength, "keys": guardLength, "entries": guardLength, "values": guardLength, "with": guardLength, "toReversed": guardLength, "toSorted": guardSort, "toSpliced": guardLength,
}

var stringGuards = map[string]guard{
	"repeat": func(i *Isolate, c *goja.FunctionCall) { i.allow(i.receiver(c) * i.numeric(c.Arguments, 0)) },
	"padEnd": guardPad, "padStart": guardPad,
	"concat": func(i *Isolate, c *goja.FunctionCall) {
		n := i.receiver(c)
		for k, a := range c.Arguments {
			if o, ok := a.(*goja.Object); ok {
				c.Arguments[k] = o.ToString()
			}
			n += textLength(c.Arguments[k])
		}
		i.allow(n)
	},
	"includes": guardSearch, "indexOf": guardSearch, "lastIndexOf": guardSearch, "split": guardSearch,
	"match": guardPattern, "matchAll": guardPattern, "search": guardPattern,
}

// maxSearch bounds text length times needle length: goja compares naively.
const maxSearch = 1e10

func guardPad(i *Isolate, c *goja.FunctionCall) { i.allow(i.numeric(c.Arguments, 0)) }

// guardSearch bounds looking for one string in another.
func guardSearch(i *Isolate, c *goja.FunctionCall) {
	n := i.receiver(c)
	i.allow(n)
	if n*textLength(c.Argument(0)) > maxSearch {
		i.throw("RangeError", "both strings are too long to look for one in the other")
	}
}

// receiver makes this a string, as every string method does, and gives its length.
func (i *Isolate) receiver(c *goja.FunctionCall) float64 {
	if o, ok := c.This.(*goja.Object); ok {
		c.This = o.ToString()
	}
	return textLength(c.This)
}

// numeric makes an argument that is an object a number, once, and reads it.
func (i *Isolate) numeric(args []goja.Value, k int) float64 {
	if k >= len(args) {
		return 0
	}
	if o, ok := args[k].(*goja.Object); ok {
		args[k] = o.ToNumber()
	}
	return number(args[k])
}

// textLength is the length of a string value; other values count as short.
func textLength(v goja.Value) float64 {
	if s, ok := v.(goja.String); ok {
		return float64(s.Length())
	}
	return 0
}

// number reads an argument without running code; what is no number is left to the
// built-in.
func number(v goja.Value) float64 {
	if _, ok := v.(*goja.Object); ok || v == nil {
		return 0
	}
	if goja.IsBigInt(v) {
		return 0
	}
	if _, ok := v.(*goja.Symbol); ok {
		return 0
	}
	if f := v.ToFloat(); f == f {
		return f
	}
	return 0
}

// allow throws when n elements or characters are too many for one call.
func (i *Isolate) allow(n float64) {
	if n > float64(i.cfg.Limits.NativeLength) {
		i.throw("RangeError", fmt.Sprintf("Invalid length: %.0f is over the limit of %d for one call", n, i.cfg.Limits.NativeLength))
	}
}

// lengthOf is the length of an array or array-like object.
func lengthOf(v goja.Value) float64 {
	o, ok := v.(*goja.Object)
	if !ok {
		return textLength(v)
	}
	length := o.Get("length")
	if inner, ok := length.(*goja.Object); ok {
		length = inner.ToNumber()
	}
	return number(length)
}

func guardLength(i *Isolate, c *goja.FunctionCall) { i.allow(lengthOf(c.This)) }

func guardFirst(i *Isolate, c *goja.FunctionCall) { i.allow(lengthOf(c.Argument(0))) }

func guardText(i *Isolate, c *goja.FunctionCall) { i.allow(i.receiver(c)) }

// guardSort lets code that compares by itself sort as much as others loop over; the
// comparison of strings in one native call is bounded to a tenth.
func guardSort(i *Isolate, c *goja.FunctionCall) {
	n := lengthOf(c.This)
	if _, ok := goja.AssertFunction(c.Argument(0)); !ok {
		n *= 10
	}
	i.allow(n)
}

func guardConcat(i *Isolate, c *goja.FunctionCall) {
	n := lengthOf(c.This)
	for _, a := range c.Arguments {
		if o, ok := a.(*goja.Object); ok && o.ClassName() == "Array" {
			n += lengthOf(o)
		}
	}
	i.allow(n)
}

// guardJoin adds up what join will write, as far as it is strings.
func guardJoin(i *Isolate, c *goja.FunctionCall) {
	n := lengthOf(c.This)
	i.allow(n)
	separator := 1.0
	if s, ok := c.Argument(0).(goja.String); ok {
		separator = textLength(s)
	}
	i.allow(n * separator)
	o, ok := c.This.(*goja.Object)
	if !ok || n <= 16 || o.ClassName() != "Array" {
		return
	}
	var values []goja.Value
	if slots := fieldOf[[]goja.Value](o, "values"); slots != nil {
		values = *slots
	}
	total := n * separator
	for _, v := range values {
		total += textLength(v)
	}
	i.allow(total)
}

// guardFlat bounds how deep flat looks, which it does on the Go stack.
func guardFlat(i *Isolate, c *goja.FunctionCall) {
	guardLength(i, c)
	if depth := number(c.Argument(0)); depth > maxNesting {
		if o, ok := c.This.(*goja.Object); ok && i.depthOf(o, maxNesting) >= maxNesting {
			i.throw("RangeError", overflowMessage)
		}
	}
}

// depthOf is how deep plain arrays nest, following first elements that are arrays;
// the walk ends at most.
func (i *Isolate) depthOf(o *goja.Object, most int) int {
	level := []*goja.Object{o}
	for depth := 0; depth < most; depth++ {
		var next []*goja.Object
		seen := make(map[*goja.Object]bool)
		for _, a := range level {
			slots := fieldOf[[]goja.Value](a, "values")
			if slots == nil {
				continue
			}
			for _, v := range *slots {
				if e, ok := v.(*goja.Object); ok && e.ClassName() == "Array" && !seen[e] {
					seen[e] = true
					next = append(next, e)
				}
			}
		}
		if len(next) == 0 {
			return depth
		}
		level = next
	}
	return most
}

// guardArguments bounds an argument list given as an array; it goes onto the stack.
func guardArguments(at int) guard {
	return func(i *Isolate, c *goja.FunctionCall) {
		if n := lengthOf(c.Argument(at)); n > min(1_000_000, float64(i.cfg.Limits.NativeLength)) {
			i.throw("RangeError", fmt.Sprintf("too many arguments: %.0f", n))
		}
	}
}

func guardPrototype(i *Isolate, proto goja.Value) {
	o, _ := proto.(*goja.Object)
	for n := 0; o != nil && kindOf(o) != "proxyObject"; n++ {
		if n >= maxNesting {
			i.throw("RangeError", "the prototype chain is too long")
		}
		o = o.Prototype()
	}
}

// guardBind bounds functions bound to bound functions.
func guardBind(i *Isolate, c *goja.FunctionCall) {
	o, _ := c.This.(*goja.Object)
	for n := 0; o != nil; n++ {
		if n >= maxNesting {
			i.throw("RangeError", "the function is bound too many times over")
		}
		wrapped := fieldOf[*goja.Object](o, "wrapped")
		if wrapped == nil {
			return
		}
		o = *wrapped
	}
}

// guardProxy bounds proxies of proxies, whose traps nest on the Go stack.
func (i *Isolate) guardProxy(args []goja.Value) {
	var open []goja.Value
	open = append(open, args[:min(2, len(args))]...)
	for seen := 0; len(open) > 0; {
		o, ok := open[len(open)-1].(*goja.Object)
		open = open[:len(open)-1]
		if !ok || kindOf(o) != "proxyObject" {
			continue
		}
		if seen++; seen > 100 {
			i.throw("RangeError", "too many proxies inside each other")
		}
		p, _ := o.Export().(goja.Proxy)
		if t := p.Target(); t != nil {
			open = append(open, t)
		}
		if h := p.Handler(); h != nil {
			open = append(open, h)
		}
	}
}

// maxDigits bounds a BigInt in decimal: reading it takes quadratic time.
const maxDigits = 1_000_000

func guardDigits(i *Isolate, c *goja.FunctionCall) {
	if o, ok := c.Argument(0).(*goja.Object); ok {
		c.Arguments[0] = o.ToString()
	}
	if textLength(c.Argument(0)) > maxDigits {
		i.throw("RangeError", fmt.Sprintf("a BigInt of more than %d digits cannot be read", maxDigits))
	}
}

func guardBigInt(i *Isolate, c *goja.FunctionCall) {
	if goja.IsBigInt(c.This) {
		if n, ok := c.This.Export().(*big.Int); ok {
			i.allow(float64(n.BitLen()) / 3)
		}
	}
}

// guarded puts a check before a built-in and counts how deep built-ins nest on the
// Go stack.
func (i *Isolate) guarded(check guard) func(nativeFunc) nativeFunc {
	return func(old nativeFunc) nativeFunc {
		return func(call goja.FunctionCall) goja.Value {
			if i.guards.nesting >= maxNesting {
				i.throw("RangeError", overflowMessage)
			}
			i.guards.nesting++
			defer func() { i.guards.nesting-- }()
			check(i, &call)
			return old(call)
		}
	}
}

// allocating puts a check before a constructor.
func (i *Isolate) allocating(check func(args []goja.Value)) func(constructFunc) constructFunc {
	return func(old constructFunc) constructFunc {
		return func(args []goja.Value, newTarget *goja.Object) *goja.Object {
			check(args)
			return old(args, newTarget)
		}
	}
}

// guardSize is for buffers and typed arrays: a length, or something with one.
func (i *Isolate) guardSize(args []goja.Value) {
	if len(args) == 0 {
		return
	}
	if o, ok := args[0].(*goja.Object); ok {
		if classOf(o) != "ArrayBuffer" {
			i.allow(lengthOf(o))
		}
		return
	}
	i.allow(number(args[0]))
}

// installTemplates hooks goja's templates, once per process.
var installTemplates = sync.OnceValue(func() error {
	regexp2.DefaultMatchTimeout = maxRegexTime
	vm := goja.New()
	global := vm.GlobalObject()
	get := func(path ...string) *goja.Object {
		o := global
		for _, name := range path {
			o = o.Get(name).ToObject(vm)
		}
		return o
	}
	sets := []struct {
		of     *goja.Object
		guards map[string]guard
	}{
		{get("Array", "prototype"), arrayGuards},
		{get("String", "prototype"), stringGuards},
		{get("Uint8Array", "prototype").Prototype(), map[string]guard{
			"join": guardLength, "toLocaleString": guardLength, "sort": guardLength, "toSorted": guardLength, "toString": guardLength}},
		{get("Function", "prototype"), map[string]guard{"apply": guardArguments(1), "bind": guardBind}},
		{get("Object"), map[string]guard{
			"create":         func(i *Isolate, c *goja.FunctionCall) { guardPrototype(i, c.Argument(0)) },
			"setPrototypeOf": func(i *Isolate, c *goja.FunctionCall) { guardPrototype(i, c.Argument(1)) }}},
		{get("BigInt", "prototype"), map[string]guard{"toString": guardBigInt, "toLocaleString": guardBigInt}},
	}
	for _, set := range sets {
		t, err := templateOf(set.of)
		if err != nil {
			return err
		}
		for name, check := range set.guards {
			err := t.hook(name, func(i *Isolate, o *goja.Object) { wrapNative(o, i.guarded(check)) })
			if err != nil {
				return err
			}
		}
	}
	err := hookSymbol(get("Array", "prototype"), goja.SymIterator, func(i *Isolate, o *goja.Object) { wrapNative(o, i.guarded(guardLength)) })
	if err != nil {
		return err
	}
	if err := hookReplace(get("String", "prototype")); err != nil {
		return err
	}
	t, err := templateOf(global)
	if err != nil {
		return err
	}
	prototypes := make(map[string]template)
	for _, name := range []string{"Array", "String", "Object", "BigInt"} {
		if prototypes[name], err = templateOf(get(name, "prototype")); err != nil {
			return err
		}
	}
	if err := hookGlobals(t, prototypes); err != nil {
		return err
	}
	return addGlobals(t)
})

// hookGlobals guards built-ins that hang off a name of the global object.
func hookGlobals(t template, prototypes map[string]template) error {
	hooks := map[string]func(i *Isolate, o *goja.Object){
		"Array":   func(i *Isolate, o *goja.Object) { i.hookMethods(o, map[string]guard{"from": guardFirst}) },
		"Reflect": hookReflect,
		"String": func(i *Isolate, o *goja.Object) {
			i.hookMethods(o, map[string]guard{"raw": func(i *Isolate, c *goja.FunctionCall) {
				if o, ok := c.Argument(0).(*goja.Object); ok {
					i.allow(lengthOf(o.Get("raw")))
				}
			}})
		},
		"RegExp": func(i *Isolate, o *goja.Object) { i.guardRegExp(o) },
		"BigInt": func(i *Isolate, o *goja.Object) { wrapNative(o, i.guarded(guardDigits)) },
		"Proxy": func(i *Isolate, o *goja.Object) {
			wrapConstruct(o, i.allocating(i.guardProxy))
			i.hookMethods(o, map[string]guard{"revocable": func(i *Isolate, c *goja.FunctionCall) { i.guardProxy(c.Arguments) }})
		},
		"JSON": (*Isolate).replaceJSON,
	}
	hooks["ArrayBuffer"] = func(i *Isolate, o *goja.Object) {
		wrapConstruct(o, i.allocating(func(args []goja.Value) { i.allow(i.numeric(args, 0)) }))
	}
	for _, name := range []string{"Uint8Array", "Uint8ClampedArray", "Int8Array", "Uint16Array", "Int16Array",
		"Uint32Array", "Int32Array", "Float32Array", "Float64Array", "BigInt64Array", "BigUint64Array"} {
		hooks[name] = func(i *Isolate, o *goja.Object) {
			wrapConstruct(o, i.allocating(i.guardSize))
			i.vm.GlobalObject().Get("ArrayBuffer") // its constructor can be reached from here
		}
	}
	for name, fn := range newerEditions {
		guards := hooks[name]
		hooks[name] = func(i *Isolate, o *goja.Object) {
			fn(i, o)
			if guards != nil {
				guards(i, o)
			}
		}
	}
	for name, fn := range hooks {
		once := func(i *Isolate, o *goja.Object) { i.hookOnce(o, fn) }
		if err := t.hook(name, once); err != nil {
			return err
		}
		// A literal leads to these without their names.
		if proto, ok := prototypes[name]; ok {
			if err := proto.hook("constructor", once); err != nil {
				return err
			}
		}
	}
	return nil
}

// hookOnce runs fn for a class that can be reached in two ways.
func (i *Isolate) hookOnce(o *goja.Object, fn func(i *Isolate, o *goja.Object)) {
	if i.guards.hooked[o] {
		return
	}
	if i.guards.hooked == nil {
		i.guards.hooked = make(map[*goja.Object]bool)
	}
	i.guards.hooked[o] = true
	fn(i, o)
}

func hookReflect(i *Isolate, o *goja.Object) {
	i.hookMethods(o, map[string]guard{
		"apply":          guardArguments(2),
		"construct":      guardArguments(1),
		"setPrototypeOf": func(i *Isolate, c *goja.FunctionCall) { guardPrototype(i, c.Argument(1)) },
	})
}

// hookMethods guards own methods of an object that has no template.
func (i *Isolate) hookMethods(o *goja.Object, guards map[string]guard) {
	for name, check := range guards {
		if m, ok := o.Get(name).(*goja.Object); ok {
			wrapNative(m, i.guarded(check))
		}
	}
}

// installGuards are the per-isolate ones: no code from strings, as on the platform
// that programs come from. The option runs whenever goja parses, also for eval and
// the Function constructors, and lets Go's own calls pass.
func (i *Isolate) installGuards() error {
	refuse := reflect.MakeFunc(reflect.TypeFor[parser.Option](), func([]reflect.Value) []reflect.Value {
		if i.parsesForScript() {
			i.throw("EvalError", "Code generation from strings disallowed for this context")
		}
		return nil
	}).Interface().(parser.Option)
	i.vm.SetParserOptions(parser.WithDisableSourceMaps, refuse)
	return nil
}

func (i *Isolate) parsesForScript() bool {
	var frames [1]goja.StackFrame
	top := i.vm.CaptureCallStack(0, frames[:0])
	if len(top) == 0 {
		return false
	}
	if top[0].SrcName() != "<native>" {
		return true // direct eval has no frame of its own
	}
	name := top[0].FuncName()
	return name == "eval" || strings.HasSuffix(name, "Function")
}

// guardGenerators bounds yield*, whose delegation nests on the Go stack and not on
// goja's.
func (i *Isolate) guardGenerators() error {
	v, err := i.kernel.generators(nil)
	if err != nil {
		return err
	}
	i.hookMethods(v.ToObject(i.vm), map[string]guard{"next": guardNothing, "return": guardNothing, "throw": guardNothing})
	return nil
}

// guardNothing leaves only the count of nesting.
func guardNothing(*Isolate, *goja.FunctionCall) {}
