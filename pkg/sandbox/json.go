package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// ToJSON is JSON.stringify for values that leave the isolate. Undefined gives nil.
// A cycle, a BigInt, a function or symbol as the value itself, and a text over
// agent.MaxResultBytes are refused with a *ScriptError named TypeError (RangeError
// for size and depth) that says where.
func (i *Isolate) ToJSON(v goja.Value) (json.RawMessage, error) {
	if v == nil || goja.IsUndefined(v) {
		return nil, nil
	}
	w := jsonWriter{i: i, most: agent.MaxResultBytes, paths: true}
	if _, ok := v.(*goja.Symbol); ok {
		return nil, jsonError("TypeError", "a symbol has no JSON form")
	}
	if _, ok := goja.AssertFunction(v); ok {
		return nil, jsonError("TypeError", "a function has no JSON form")
	}
	written := false
	err := i.Do(func(*goja.Runtime) error {
		written = w.value(v, "", nil)
		return nil
	})
	switch {
	case err != nil:
		return nil, i.Error(err)
	case !written:
		return nil, nil
	}
	return w.out, nil
}

func jsonError(name, message string) *ScriptError { return &ScriptError{Name: name, Message: message} }

// FromJSON is JSON.parse; nil gives undefined. The error is a *ScriptError named
// SyntaxError.
func (i *Isolate) FromJSON(raw json.RawMessage) (goja.Value, error) {
	if raw == nil {
		return goja.Undefined(), nil
	}
	var v goja.Value
	err := i.Do(func(*goja.Runtime) (err error) {
		v, err = parseJSON(i.vm, string(raw))
		return err
	})
	if err != nil {
		var script *goja.Exception
		if errors.As(err, &script) {
			return nil, i.Error(err)
		}
		return nil, jsonError("SyntaxError", err.Error())
	}
	return v, nil
}

// replaceJSON puts bounded functions behind JSON.parse and JSON.stringify: goja's
// recurse on the Go stack without an end and lose lone surrogates.
func (i *Isolate) replaceJSON(o *goja.Object) {
	if m, ok := o.Get("stringify").(*goja.Object); ok {
		wrapNative(m, func(nativeFunc) nativeFunc { return i.stringify })
	}
	if m, ok := o.Get("parse").(*goja.Object); ok {
		wrapNative(m, func(old nativeFunc) nativeFunc {
			return func(call goja.FunctionCall) goja.Value { return i.parse(call) }
		})
	}
}

func (i *Isolate) parse(call goja.FunctionCall) goja.Value {
	if _, ok := call.Argument(0).(*goja.Symbol); ok {
		i.throw("TypeError", "Cannot convert a Symbol value to a string")
	}
	text := call.Argument(0).ToString().String()
	i.allow(float64(len(text)) / 4)
	v, err := parseJSON(i.vm, text)
	if err != nil {
		i.throw("SyntaxError", err.Error())
	}
	reviver, ok := goja.AssertFunction(call.Argument(1))
	if !ok {
		return v
	}
	holder := i.vm.NewObject()
	i.must(holder.Set("", v))
	return i.revive(reviver, holder, "")
}

// revive walks as deep as parseJSON lets values nest.
func (i *Isolate) revive(reviver goja.Callable, holder *goja.Object, key string) goja.Value {
	v := holder.Get(key)
	if o, ok := v.(*goja.Object); ok {
		keys := o.Keys()
		for _, k := range keys {
			if e := i.revive(reviver, o, k); goja.IsUndefined(e) {
				i.must(o.Delete(k))
			} else {
				i.must(o.DefineDataProperty(k, e, goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_TRUE))
			}
		}
	}
	if v == nil {
		v = goja.Undefined()
	}
	r, err := reviver(holder, i.vm.ToValue(key), v)
	if err != nil {
		panic(err)
	}
	return r
}

func (i *Isolate) stringify(call goja.FunctionCall) goja.Value {
	w := jsonWriter{i: i, most: 4 * i.cfg.Limits.NativeLength, gap: jsonGap(call.Argument(2))}
	if r, ok := call.Argument(1).(*goja.Object); ok {
		if fn, ok := goja.AssertFunction(r); ok {
			w.replacer = fn
		} else if r.ClassName() == "Array" {
			i.allow(lengthOf(r))
			w.filter = make([]string, 0)
			seen := make(map[string]bool)
			for k := range int64(lengthOf(r)) {
				e := r.Get(strconv.FormatInt(k, 10))
				o, boxed := e.(*goja.Object)
				if e == nil || boxed && o.ClassName() != "String" && o.ClassName() != "Number" || !boxed && !goja.IsString(e) && !goja.IsNumber(e) {
					continue
				}
				if name := e.String(); !seen[name] {
					seen[name] = true
					w.filter = append(w.filter, name)
				}
			}
		}
	}
	var holder *goja.Object
	if w.replacer != nil {
		holder = i.vm.NewObject()
		i.must(holder.Set("", call.Argument(0)))
	}
	if !w.value(call.Argument(0), "", holder) {
		return goja.Undefined()
	}
	return i.vm.ToValue(string(w.out))
}

func jsonGap(v goja.Value) string {
	if o, ok := v.(*goja.Object); ok {
		switch o.ClassName() {
		case "Number":
			v = o.ToNumber()
		case "String":
			v = o.ToString()
		default:
			return ""
		}
	}
	if s, ok := v.(goja.String); ok {
		return s.Substring(0, min(s.Length(), 10)).String()
	}
	if n := number(v); n >= 1 && goja.IsNumber(v) {
		return strings.Repeat(" ", int(min(n, 10)))
	}
	return ""
}

// jsonWriter writes one value. Exceptions of the author's code pass through as
// panics.
type jsonWriter struct {
	i        *Isolate
	out      []byte
	most     int // bytes of out
	paths    bool
	gap      string
	filter   []string // names to write; nil for all
	replacer goja.Callable
	open     []*goja.Object // containers on the way here
	keys     []string       // their keys, for messages
}

func (w *jsonWriter) path() string {
	var b strings.Builder
	for _, k := range w.keys {
		if _, err := strconv.Atoi(k); err == nil {
			b.WriteString("[" + k + "]")
		} else {
			b.WriteString("." + k)
		}
	}
	return clip(b.String(), 500)
}

// refuse throws TypeError: what, where, and what to do about it.
func (w *jsonWriter) refuse(what, advice string) {
	if path := w.path(); path != "" {
		what += " at " + path
	}
	w.i.throw("TypeError", what+advice)
}

// value writes v, the member key of holder; false if it has no JSON form. holder is
// needed for replacers only.
func (w *jsonWriter) value(v goja.Value, key string, holder *goja.Object) bool {
	v = w.prepare(v, key, holder)
	switch {
	case v == nil || goja.IsUndefined(v):
		return false
	case goja.IsNull(v):
		w.out = append(w.out, "null"...)
		return true
	}
	switch t := v.(type) {
	case goja.String:
		w.out = appendJSONString(w.out, t)
	case *goja.Symbol:
		return false
	case *goja.Object:
		return w.object(t)
	default:
		switch {
		case goja.IsBigInt(v):
			w.refuse("a BigInt has no JSON form", "; convert it with String() or Number()")
		case goja.IsNaN(v) || goja.IsInfinity(v):
			w.out = append(w.out, "null"...)
		default:
			w.out = append(w.out, v.String()...)
		}
	}
	w.bound()
	return true
}

// bound checks the size, and whether the isolate was stopped, since native code is
// not interrupted otherwise.
func (w *jsonWriter) bound() {
	if len(w.out) > w.most {
		w.i.throw("RangeError", fmt.Sprintf("the JSON text is longer than %d bytes", w.most))
	}
	if cause := w.i.stop.Load(); cause != nil {
		w.i.throw("Error", cause.err.Error())
	}
}

// prepare applies toJSON, the replacer, and unboxing.
func (w *jsonWriter) prepare(v goja.Value, key string, holder *goja.Object) goja.Value {
	o, ok := v.(*goja.Object)
	if ok || v != nil && goja.IsBigInt(v) {
		target := o
		if target == nil {
			target = v.ToObject(w.i.vm)
		}
		if fn, ok := goja.AssertFunction(target.Get("toJSON")); ok {
			r, err := fn(v, w.i.vm.ToValue(key))
			if err != nil {
				panic(err)
			}
			v = r
		}
	}
	if w.replacer != nil {
		if v == nil {
			v = goja.Undefined()
		}
		r, err := w.replacer(holder, w.i.vm.ToValue(key), v)
		if err != nil {
			panic(err)
		}
		v = r
	}
	if o, ok := v.(*goja.Object); ok {
		switch o.ClassName() {
		case "Number":
			return o.ToNumber()
		case "String":
			return o.ToString()
		case "Boolean":
			return w.i.vm.ToValue(o.Export())
		}
	}
	return v
}

func (w *jsonWriter) object(o *goja.Object) bool {
	if _, ok := goja.AssertFunction(o); ok {
		return false
	}
	if o.ClassName() == "RawJSON" {
		w.out = append(w.out, o.Get("rawJSON").String()...)
		return true
	}
	for _, outer := range w.open {
		if outer == o {
			if w.paths {
				w.refuse("a value that contains itself has no JSON form: cycle", "")
			}
			w.refuse("Converting circular structure to JSON: cycle", "")
		}
	}
	if len(w.open) >= maxNesting {
		w.i.throw("RangeError", fmt.Sprintf("the value is nested deeper than %d levels", maxNesting))
	}
	w.open = append(w.open, o)
	if isArray(o) {
		w.array(o)
	} else {
		w.members(o)
	}
	w.open = w.open[:len(w.open)-1]
	return true
}

// isArray looks through proxies, as Array.isArray does.
func isArray(o *goja.Object) bool {
	for range 100 {
		if kindOf(o) != "proxyObject" {
			break
		}
		p, ok := o.Export().(goja.Proxy)
		if !ok || p.Target() == nil {
			return false
		}
		o = p.Target()
	}
	return o.ClassName() == "Array"
}

func (w *jsonWriter) line() {
	if w.gap != "" {
		w.out = append(w.out, '\n')
		for range w.open {
			w.out = append(w.out, w.gap...)
		}
	}
}

func (w *jsonWriter) close(c byte, empty bool) {
	if !empty && w.gap != "" {
		w.out = append(w.out, '\n')
		for range len(w.open) - 1 {
			w.out = append(w.out, w.gap...)
		}
	}
	w.out = append(w.out, c)
}

func (w *jsonWriter) array(o *goja.Object) {
	n := number(o.Get("length"))
	w.i.allow(n)
	var dense []goja.Value
	if slots := fieldOf[[]goja.Value](o, "values"); slots != nil && kindOf(o) == "arrayObject" {
		dense = *slots
	}
	w.out = append(w.out, '[')
	for k := range int(n) {
		if k > 0 {
			w.out = append(w.out, ',')
		}
		w.line()
		key := strconv.Itoa(k)
		var v goja.Value
		if k < len(dense) && dense[k] != nil && propertySlot(dense[k]) == nil {
			v = dense[k]
		} else {
			v = o.Get(key)
		}
		w.keys = append(w.keys, key)
		if !w.value(v, key, o) {
			w.out = append(w.out, "null"...)
			w.bound()
		}
		w.keys = w.keys[:len(w.keys)-1]
	}
	w.close(']', n == 0)
}

func (w *jsonWriter) members(o *goja.Object) {
	keys := w.filter
	if keys == nil {
		keys = o.Keys()
	}
	w.out = append(w.out, '{')
	empty := true
	for _, key := range keys {
		mark := len(w.out)
		if !empty {
			w.out = append(w.out, ',')
		}
		w.line()
		w.out = appendJSONText(w.out, key)
		w.out = append(w.out, ':')
		if w.gap != "" {
			w.out = append(w.out, ' ')
		}
		w.keys = append(w.keys, key)
		if w.value(o.Get(key), key, o) {
			empty = false
		} else {
			w.out = w.out[:mark]
		}
		w.keys = w.keys[:len(w.keys)-1]
	}
	w.close('}', empty)
}

const hexDigits = "0123456789abcdef"

// appendJSONString writes a JavaScript string; a lone surrogate becomes an escape.
func appendJSONString(out []byte, s goja.String) []byte {
	text := s.String()
	if len(text) == s.Length() || !strings.ContainsRune(text, utf8.RuneError) {
		return appendJSONText(out, text)
	}
	out = append(out, '"')
	for k := 0; k < s.Length(); k++ {
		c := s.CharAt(k)
		if c >= 0xDC00 && c < 0xE000 || c >= 0xD800 && c < 0xDC00 && (k+1 == s.Length() || s.CharAt(k+1)&0xFC00 != 0xDC00) {
			out = append(out, '\\', 'u', 'd', hexDigits[c>>8&15], hexDigits[c>>4&15], hexDigits[c&15])
			continue
		}
		end := k + 1
		if c >= 0xD800 && c < 0xDC00 {
			end = k + 2
		}
		quoted := appendJSONText(nil, s.Substring(k, end).String())
		out = append(out, quoted[1:len(quoted)-1]...)
		k = end - 1
	}
	return append(out, '"')
}

// appendJSONText quotes as JSON.stringify does: only what must be escaped is.
func appendJSONText(out []byte, s string) []byte {
	out = append(out, '"')
	start := 0
	for k := 0; k < len(s); k++ {
		c := s[k]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		out = append(out, s[start:k]...)
		start = k + 1
		switch c {
		case '"', '\\':
			out = append(out, '\\', c)
		case '\b':
			out = append(out, '\\', 'b')
		case '\f':
			out = append(out, '\\', 'f')
		case '\n':
			out = append(out, '\\', 'n')
		case '\r':
			out = append(out, '\\', 'r')
		case '\t':
			out = append(out, '\\', 't')
		default:
			out = append(out, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(out, s[start:]...), '"')
}
