package jsagent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// Limits of one stored value.
const (
	maxValueBytes = 2_000_000
	maxCloneDepth = 500
)

// cloneVersion is the first byte of every stored value.
const cloneVersion = 1

// Tags of stored values; never changed or reused.
const (
	tagUndefined byte = iota
	tagNull
	tagFalse
	tagTrue
	tagInt    // zigzag varint
	tagFloat  // 8 bytes
	tagText   // length, UTF-8
	tagUTF16  // number of units, 2 bytes each: text with lone surrogates
	tagBigInt // length, decimal text
	tagDate   // 8 bytes, NaN for an invalid one
	tagArray  // length, values
	tagObject // number of pairs, keys as text and values
	tagMap    // number of pairs
	tagSet    // number of values
	tagBuffer // length, bytes
	tagView   // index into viewNames, then the bytes it shows
	tagError  // name, message, stack as values
	tagRegExp // source, flags as values
	tagRef    // index of an object that came before
)

var errDamaged = errors.New("the stored value is damaged")

// encoder writes a JavaScript value in the form that keeps what structured clone
// keeps: dates, maps, sets, bytes, bigints, undefined, shared and cyclic objects.
type encoder struct {
	vm    *goja.Runtime
	out   []byte
	seen  map[*goja.Object]uint64
	depth int
}

// encode returns the stored form; errors are of kind Unserializable or TooLarge.
func encode(vm *goja.Runtime, v goja.Value) ([]byte, error) {
	e := &encoder{vm: vm, out: []byte{cloneVersion}}
	if err := e.value(v); err != nil {
		return nil, err
	}
	return e.out, nil
}

func refuse(format string, args ...any) error {
	return &agent.Error{Kind: agent.Unserializable, Name: "DataCloneError", Msg: fmt.Sprintf(format, args...)}
}

func (e *encoder) value(v goja.Value) error {
	if len(e.out) > maxValueBytes {
		return &agent.Error{Kind: agent.TooLarge, Msg: fmt.Sprintf("the value has more than %d bytes: split it or keep it in a file", maxValueBytes)}
	}
	switch {
	case v == nil || goja.IsUndefined(v):
		e.out = append(e.out, tagUndefined)
		return nil
	case goja.IsNull(v):
		e.out = append(e.out, tagNull)
		return nil
	}
	if o, ok := v.(*goja.Object); ok {
		return e.object(o)
	}
	if _, ok := v.(*goja.Symbol); ok {
		return refuse("a symbol cannot be stored")
	}
	if s, ok := v.(goja.String); ok {
		e.text(s)
		return nil
	}
	switch x := v.Export().(type) {
	case bool:
		e.out = append(e.out, tagFalse)
		if x {
			e.out[len(e.out)-1] = tagTrue
		}
	case int64:
		e.out = binary.AppendVarint(append(e.out, tagInt), x)
	case float64:
		e.float(tagFloat, x)
	case *big.Int:
		e.bytes(tagBigInt, []byte(x.String()))
	default:
		return refuse("a value of type %T cannot be stored", x)
	}
	return nil
}

func (e *encoder) float(tag byte, x float64) {
	e.out = binary.LittleEndian.AppendUint64(append(e.out, tag), math.Float64bits(x))
}

func (e *encoder) bytes(tag byte, b []byte) {
	e.out = binary.AppendUvarint(append(e.out, tag), uint64(len(b)))
	e.out = append(e.out, b...)
}

func (e *encoder) text(s goja.String) {
	lone := false
	units := make([]uint16, 0, 16)
	for i, n := 0, s.Length(); i < n; i++ {
		u := s.CharAt(i)
		if u >= 0x80 {
			lone = lone || (u >= 0xD800 && u <= 0xDFFF)
		}
		if lone {
			units = units[:0]
			for k := range n {
				units = append(units, s.CharAt(k))
			}
			break
		}
	}
	if text := s.String(); !lone || string(utf16.Decode(units)) == text && validPairs(units) {
		e.bytes(tagText, []byte(text))
		return
	}
	e.out = binary.AppendUvarint(append(e.out, tagUTF16), uint64(len(units)))
	for _, u := range units {
		e.out = binary.LittleEndian.AppendUint16(e.out, u)
	}
}

// validPairs says whether every surrogate has its other half.
func validPairs(units []uint16) bool {
	for i := 0; i < len(units); i++ {
		u := units[i]
		if u < 0xD800 || u > 0xDFFF {
			continue
		}
		if u > 0xDBFF || i+1 == len(units) || units[i+1] < 0xDC00 || units[i+1] > 0xDFFF {
			return false
		}
		i++
	}
	return true
}

func (e *encoder) object(o *goja.Object) error {
	if index, ok := e.seen[o]; ok {
		e.out = binary.AppendUvarint(append(e.out, tagRef), index)
		return nil
	}
	if _, ok := goja.AssertFunction(o); ok {
		return refuse("a function cannot be stored")
	}
	if e.seen == nil {
		e.seen = make(map[*goja.Object]uint64)
	}
	e.seen[o] = uint64(len(e.seen))
	if e.depth++; e.depth > maxCloneDepth {
		return refuse("the value is nested more than %d deep", maxCloneDepth)
	}
	defer func() { e.depth-- }()
	if b, ok := bytesOf(o); ok {
		if k := viewIndex(viewName(o)); k >= 0 {
			e.out = append(e.out, tagView, byte(k))
			e.out = append(binary.AppendUvarint(e.out, uint64(len(b))), b...)
		} else {
			e.bytes(tagBuffer, b)
		}
		return nil
	}
	switch o.ExportType() {
	case mapType:
		return e.pairs(tagMap, o)
	case listType:
		if o.ClassName() != "Array" {
			return e.pairs(tagSet, o)
		}
	}
	switch o.ClassName() {
	case "Array":
		return e.array(o)
	case "Date":
		e.float(tagDate, o.ToNumber().ToFloat())
		return nil
	case "Error":
		return e.fields(tagError, o, "name", "message", "stack")
	case "RegExp":
		return e.fields(tagRegExp, o, "source", "flags")
	}
	if tag := o.GetSymbol(goja.SymToStringTag); tag != nil {
		switch name := tag.String(); name {
		case "Promise", "WeakMap", "WeakSet":
			return refuse("a %s cannot be stored", name)
		}
	}
	return e.plain(o)
}

// What goja's Map, Set and Array export as; their class names do not tell.
var (
	mapType  = reflect.TypeFor[[][2]any]()
	listType = reflect.TypeFor[[]any]()
)

func viewIndex(name string) int {
	for k, n := range viewNames {
		if n == name {
			return k
		}
	}
	return -1
}

func (e *encoder) array(o *goja.Object) error {
	n := o.Get("length").ToInteger()
	if n > maxValueBytes {
		return &agent.Error{Kind: agent.TooLarge, Msg: fmt.Sprintf("the array has %d elements; at most %d bytes can be stored", n, maxValueBytes)}
	}
	e.out = binary.AppendUvarint(append(e.out, tagArray), uint64(n))
	for i := range n {
		if err := e.value(o.Get(fmt.Sprint(i))); err != nil {
			return err
		}
	}
	return nil
}

// pairs writes a Map (entries) or a Set (values) in order.
func (e *encoder) pairs(tag byte, o *goja.Object) error {
	e.out = binary.AppendUvarint(append(e.out, tag), uint64(o.Get("size").ToInteger()))
	var err error
	e.vm.ForOf(o, func(item goja.Value) bool {
		if tag == tagSet {
			err = e.value(item)
			return err == nil
		}
		pair := item.ToObject(e.vm)
		if err = e.value(pair.Get("0")); err == nil {
			err = e.value(pair.Get("1"))
		}
		return err == nil
	})
	return err
}

func (e *encoder) fields(tag byte, o *goja.Object, keys ...string) error {
	e.out = append(e.out, tag)
	for _, key := range keys {
		if err := e.value(o.Get(key).ToString()); err != nil {
			return err
		}
	}
	return nil
}

// plain writes an object's own enumerable properties; its class is lost.
func (e *encoder) plain(o *goja.Object) error {
	keys := o.Keys()
	e.out = binary.AppendUvarint(append(e.out, tagObject), uint64(len(keys)))
	for _, key := range keys {
		e.text(e.vm.ToValue(key).(goja.String))
		if err := e.value(o.Get(key)); err != nil {
			return fmt.Errorf("property %.100q: %w", key, err)
		}
	}
	return nil
}

// decoder reads what encoder wrote. Damaged input gives errDamaged.
type decoder struct {
	vm    *goja.Runtime
	in    []byte
	seen  []goja.Value
	depth int
}

// decode builds the value, inside a turn.
func decode(vm *goja.Runtime, stored []byte) (goja.Value, error) {
	if len(stored) == 0 || stored[0] != cloneVersion {
		return nil, errDamaged
	}
	d := &decoder{vm: vm, in: stored[1:]}
	v, err := d.value()
	if err == nil && len(d.in) > 0 {
		err = errDamaged
	}
	return v, err
}

func (d *decoder) take(n uint64) ([]byte, error) {
	if n > uint64(len(d.in)) {
		return nil, errDamaged
	}
	b := d.in[:n]
	d.in = d.in[n:]
	return b, nil
}

// count reads a number of things that take at least size bytes each.
func (d *decoder) count(size uint64) (uint64, error) {
	n, k := binary.Uvarint(d.in)
	if k <= 0 || n > uint64(len(d.in)-k)/size {
		return 0, errDamaged
	}
	d.in = d.in[k:]
	return n, nil
}

func (d *decoder) counted() ([]byte, error) {
	n, err := d.count(1)
	if err != nil {
		return nil, err
	}
	return d.take(n)
}

func (d *decoder) float() (float64, error) {
	b, err := d.take(8)
	if err != nil {
		return 0, err
	}
	return math.Float64frombits(binary.LittleEndian.Uint64(b)), nil
}

func (d *decoder) value() (goja.Value, error) {
	tag, err := d.take(1)
	if err != nil {
		return nil, err
	}
	switch tag[0] {
	case tagUndefined:
		return goja.Undefined(), nil
	case tagNull:
		return goja.Null(), nil
	case tagFalse, tagTrue:
		return d.vm.ToValue(tag[0] == tagTrue), nil
	case tagInt:
		n, k := binary.Varint(d.in)
		if k <= 0 {
			return nil, errDamaged
		}
		d.in = d.in[k:]
		return d.vm.ToValue(n), nil
	case tagFloat:
		f, err := d.float()
		return d.vm.ToValue(f), err
	case tagText:
		b, err := d.counted()
		if err != nil || !utf8.Valid(b) {
			return nil, errDamaged
		}
		return d.vm.ToValue(string(b)), nil
	case tagUTF16:
		return d.utf16()
	case tagBigInt:
		return d.bigInt()
	case tagRef:
		n, k := binary.Uvarint(d.in)
		if k <= 0 || n >= uint64(len(d.seen)) || d.seen[n] == nil {
			return nil, errDamaged
		}
		d.in = d.in[k:]
		return d.seen[n], nil
	}
	if d.depth++; d.depth > maxCloneDepth {
		return nil, errDamaged
	}
	defer func() { d.depth-- }()
	return d.object(tag[0])
}

func (d *decoder) utf16() (goja.Value, error) {
	n, err := d.count(2)
	if err != nil {
		return nil, err
	}
	b, err := d.take(2 * n)
	if err != nil {
		return nil, err
	}
	units := make([]uint16, n)
	for i := range units {
		units[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return goja.StringFromUTF16(units), nil
}

func (d *decoder) bigInt() (goja.Value, error) {
	b, err := d.counted()
	if err != nil {
		return nil, err
	}
	n, ok := new(big.Int).SetString(string(b), 10)
	if !ok {
		return nil, errDamaged
	}
	return d.vm.ToValue(n), nil
}

// object reads what can be referred to again.
func (d *decoder) object(tag byte) (goja.Value, error) {
	at := len(d.seen)
	d.seen = append(d.seen, nil)
	switch tag {
	case tagDate:
		ms, err := d.float()
		if err != nil {
			return nil, err
		}
		return d.construct(at, "Date", d.vm.ToValue(ms))
	case tagArray:
		return d.array(at)
	case tagObject:
		return d.plain(at)
	case tagMap, tagSet:
		return d.collection(at, tag)
	case tagBuffer:
		b, err := d.counted()
		if err != nil {
			return nil, err
		}
		d.seen[at] = d.vm.ToValue(d.vm.NewArrayBuffer(append([]byte{}, b...)))
		return d.seen[at], nil
	case tagView:
		return d.view(at)
	case tagError:
		return d.fault(at)
	case tagRegExp:
		source, err := d.value()
		if err != nil {
			return nil, err
		}
		flags, err := d.value()
		if err != nil {
			return nil, err
		}
		return d.construct(at, "RegExp", source, flags)
	}
	return nil, errDamaged
}

func (d *decoder) construct(at int, class string, args ...goja.Value) (goja.Value, error) {
	o, err := d.vm.New(d.vm.Get(class), args...)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", errDamaged, class)
	}
	d.seen[at] = o
	return o, nil
}

func (d *decoder) array(at int) (goja.Value, error) {
	n, err := d.count(1)
	if err != nil {
		return nil, err
	}
	items := make([]any, n)
	o := d.vm.NewArray()
	d.seen[at] = o
	for i := range items {
		v, err := d.value()
		if err != nil {
			return nil, err
		}
		if err := o.Set(fmt.Sprint(i), v); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (d *decoder) plain(at int) (goja.Value, error) {
	n, err := d.count(2)
	if err != nil {
		return nil, err
	}
	o := d.vm.NewObject()
	d.seen[at] = o
	for range n {
		key, err := d.value()
		if err != nil {
			return nil, err
		}
		v, err := d.value()
		if err != nil {
			return nil, err
		}
		if _, ok := key.(goja.String); !ok {
			return nil, errDamaged
		}
		if err := o.DefineDataProperty(key.String(), v, goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_TRUE); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (d *decoder) collection(at int, tag byte) (goja.Value, error) {
	class, method, width := "Map", "set", 2
	if tag == tagSet {
		class, method, width = "Set", "add", 1
	}
	n, err := d.count(uint64(width))
	if err != nil {
		return nil, err
	}
	v, err := d.construct(at, class)
	if err != nil {
		return nil, err
	}
	o := v.ToObject(d.vm)
	add, ok := goja.AssertFunction(o.Get(method))
	if !ok {
		return nil, errDamaged
	}
	args := make([]goja.Value, width)
	for range n {
		for k := range args {
			if args[k], err = d.value(); err != nil {
				return nil, err
			}
		}
		if _, err := add(o, args...); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (d *decoder) view(at int) (goja.Value, error) {
	k, err := d.take(1)
	if err != nil || int(k[0]) >= len(viewNames) {
		return nil, errDamaged
	}
	b, err := d.counted()
	if err != nil {
		return nil, err
	}
	buffer := d.vm.ToValue(d.vm.NewArrayBuffer(append([]byte{}, b...)))
	return d.construct(at, viewNames[k[0]], buffer)
}

// fault reads an Error. A name that is no error class stays as a property.
func (d *decoder) fault(at int) (goja.Value, error) {
	var parts [3]goja.Value
	for i := range parts {
		v, err := d.value()
		if err != nil {
			return nil, err
		}
		parts[i] = v
	}
	class := "Error"
	switch name := parts[0].String(); name {
	case "TypeError", "RangeError", "SyntaxError", "ReferenceError", "EvalError", "URIError":
		class = name
	}
	v, err := d.construct(at, class, parts[1])
	if err != nil {
		return nil, err
	}
	o := v.ToObject(d.vm)
	for key, v := range map[string]goja.Value{"name": parts[0], "stack": parts[2]} {
		if err := o.DefineDataProperty(key, v, goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_FALSE); err != nil {
			return nil, err
		}
	}
	return o, nil
}
