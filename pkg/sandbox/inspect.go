package sandbox

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/dop251/goja"
	"github.com/dop251/goja/unistring"
)

// Bounds of what inspect shows.
const (
	inspectDepth = 4
	inspectItems = 100
	inspectBytes = 16 << 10
)

// inspect shows a value for people, like the REPL of Node: bounded in depth, items
// and bytes; getters are named and not called, proxies are not looked into.
func (i *Isolate) inspect(v goja.Value) string {
	in := inspector{i: i, open: make(map[*goja.Object]bool)}
	if ex := i.vm.Try(func() { in.value(v, 0) }); ex != nil {
		return "[object that cannot be shown]"
	}
	return in.b.String()
}

type inspector struct {
	i    *Isolate
	b    strings.Builder
	open map[*goja.Object]bool // on the path to here
}

func (in *inspector) value(v goja.Value, depth int) {
	o, ok := v.(*goja.Object)
	switch {
	case v == nil:
		in.b.WriteString("undefined")
	case !ok && goja.IsString(v):
		in.quote(v.String(), depth)
	case !ok && goja.IsBigInt(v):
		in.b.WriteString(v.String() + "n")
	case !ok:
		in.b.WriteString(primitiveText(v))
	case in.open[o]:
		in.b.WriteString("[Circular]")
	case in.b.Len() > inspectBytes:
		in.b.WriteString("…")
	default:
		in.open[o] = true
		in.object(o, depth)
		delete(in.open, o)
	}
}

func (in *inspector) quote(s string, depth int) {
	s = clip(s, inspectBytes)
	q := strconv.Quote(s)
	if !strings.Contains(s, "'") {
		q = "'" + strings.ReplaceAll(q[1:len(q)-1], `\"`, `"`) + "'"
	}
	in.b.WriteString(q)
}

func (in *inspector) object(o *goja.Object, depth int) {
	if kindOf(o) == "proxyObject" {
		in.b.WriteString("[Proxy]")
		return
	}
	if _, ok := goja.AssertFunction(o); ok {
		in.function(o)
		return
	}
	switch class := classOf(o); class {
	case "Error":
		in.fault(o, depth)
	case "Date":
		in.b.WriteString(in.text(o, "toISOString"))
	case "RegExp":
		in.b.WriteString(in.text(o, "toString"))
	case "Array":
		in.array(o, depth)
	case "Map", "Set":
		in.collection(o, class, depth)
	case "ArrayBuffer":
		fmt.Fprintf(&in.b, "ArrayBuffer { byteLength: %d }", o.Get("byteLength").ToInteger())
	case "Number", "String", "Boolean":
		in.b.WriteString("[" + class + ": ")
		in.value(in.i.vm.ToValue(o.Export()), depth)
		in.b.WriteByte(']')
	default:
		in.plain(o, depth)
	}
}

// text calls a built-in method that gives a string.
func (in *inspector) text(o *goja.Object, method string) string {
	fn, ok := goja.AssertFunction(o.Get(method))
	if !ok {
		return "[" + o.ClassName() + "]"
	}
	v, err := fn(o)
	if err != nil {
		return "Invalid " + o.ClassName()
	}
	return v.String()
}

func (in *inspector) function(o *goja.Object) {
	name := "(anonymous)"
	if v := ownValue(o, "name"); v != nil && goja.IsString(v) && v.String() != "" {
		name = v.String()
	}
	kind := "Function"
	if strings.HasPrefix(kindOf(o), "class") {
		kind = "class"
		in.b.WriteString("[class " + name + "]")
		return
	}
	in.b.WriteString("[" + kind + ": " + name + "]")
}

func (in *inspector) fault(o *goja.Object, depth int) {
	e := in.i.ReasonError(o)
	in.b.WriteString(e.Error())
	if e.Stack != "" {
		in.b.WriteString("\n    " + strings.ReplaceAll(e.Stack, "\n", "\n    "))
	}
	if cause := ownValue(o, "cause"); cause != nil && depth < inspectDepth {
		in.b.WriteString(" { [cause]: ")
		in.value(cause, depth+1)
		in.b.WriteString(" }")
	}
}

func (in *inspector) array(o *goja.Object, depth int) {
	n := int64(number(o.Get("length")))
	if depth >= inspectDepth && n > 0 {
		in.b.WriteString("[Array]")
		return
	}
	in.list("[ ", " ]", "[]", n, func(k int64) { in.value(o.Get(strconv.FormatInt(k, 10)), depth+1) })
}

// list writes n items between brackets, at most inspectItems.
func (in *inspector) list(open, end, empty string, n int64, item func(int64)) {
	if n == 0 {
		in.b.WriteString(empty)
		return
	}
	in.b.WriteString(open)
	for k := range min(n, inspectItems) {
		if k > 0 {
			in.b.WriteString(", ")
		}
		item(k)
	}
	if n > inspectItems {
		fmt.Fprintf(&in.b, ", … %d more items", n-inspectItems)
	}
	in.b.WriteString(end)
}

func (in *inspector) collection(o *goja.Object, class string, depth int) {
	size := int64(number(o.Get("size")))
	fmt.Fprintf(&in.b, "%s(%d) ", class, size)
	if depth >= inspectDepth {
		in.b.WriteString("{…}")
		return
	}
	var items []goja.Value
	in.i.vm.ForOf(o, func(v goja.Value) bool {
		items = append(items, v)
		return len(items) < inspectItems
	})
	in.list("{ ", " }", "{}", size, func(k int64) {
		if k >= int64(len(items)) {
			return
		}
		if pair, ok := items[k].(*goja.Object); ok && class == "Map" {
			in.value(pair.Get("0"), depth+1)
			in.b.WriteString(" => ")
			in.value(pair.Get("1"), depth+1)
			return
		}
		in.value(items[k], depth+1)
	})
}

func (in *inspector) plain(o *goja.Object, depth int) {
	prefix := ""
	switch proto := o.Prototype(); {
	case proto == nil:
		prefix = "[Object: null prototype] "
	case kindOf(proto) != "proxyObject":
		if c, ok := ownValue(proto, "constructor").(*goja.Object); ok {
			if name := ownValue(c, "name"); name != nil && goja.IsString(name) && name.String() != "Object" && name.String() != "" {
				prefix = name.String() + " "
			}
		}
	}
	if p, ok := asPromise(o); ok {
		in.b.WriteString("Promise { " + [...]string{"<pending>", "<fulfilled>", "<rejected>"}[p.State()] + " }")
		return
	}
	keys := o.Keys()
	if depth >= inspectDepth && len(keys) > 0 {
		in.b.WriteString("[" + strings.TrimSpace(prefix+"Object") + "]")
		return
	}
	in.b.WriteString(prefix)
	in.list("{ ", " }", "{}", int64(len(keys)), func(k int64) {
		in.b.WriteString(keyText(keys[k]) + ": ")
		if v := ownValue(o, keys[k]); v != nil {
			in.value(v, depth+1)
		} else {
			in.b.WriteString("[Getter]")
		}
	})
}

func keyText(key string) string {
	for k, c := range key {
		letter := c == '_' || c == '$' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
		if !letter && (k == 0 || c < '0' || c > '9') {
			return "'" + clip(key, 200) + "'"
		}
	}
	if key == "" {
		return "''"
	}
	return clip(key, 200)
}

// ownValue reads an own data property without calling a getter; nil for none and
// for accessors.
func ownValue(o *goja.Object, name string) goja.Value {
	values := fieldOf[map[unistring.String]goja.Value](o, "values")
	if values == nil {
		return nil
	}
	v := (*values)[unistring.NewFromString(name)]
	if slot := propertySlot(v); slot != nil {
		return *slot // nil for an accessor
	}
	return v
}
