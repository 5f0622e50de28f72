package sandbox

import (
	"encoding/base64"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/dop251/goja"
)

// bytesOf reads an ArrayBuffer or a view of one without copying; ok is false for
// anything else.
func (i *Isolate) bytesOf(v goja.Value) (b []byte, ok bool) {
	o, isObject := v.(*goja.Object)
	if !isObject {
		return nil, false
	}
	if buffer, ok := o.Export().(goja.ArrayBuffer); ok && classOf(o) == "ArrayBuffer" {
		return buffer.Bytes(), true
	}
	if kind := kindOf(o); kind != "typedArrayObject" && kind != "dataViewObject" {
		return nil, false
	}
	buffer, isBuffer := o.Get("buffer").Export().(goja.ArrayBuffer)
	if !isBuffer {
		return nil, false
	}
	from, n := o.Get("byteOffset").ToInteger(), o.Get("byteLength").ToInteger()
	all := buffer.Bytes()
	if from < 0 || n < 0 || from+n > int64(len(all)) {
		return nil, false
	}
	return all[from : from+n], true
}

// uint8Array takes over b.
func (i *Isolate) uint8Array(b []byte) goja.Value {
	o, err := i.vm.New(i.vm.GlobalObject().Get("Uint8Array"), i.vm.ToValue(i.vm.NewArrayBuffer(b)))
	if err != nil {
		panic(err)
	}
	return o
}

func (i *Isolate) encode(call goja.FunctionCall) goja.Value {
	text := call.Argument(0).String()
	i.allow(float64(len(text)) / 4)
	return i.uint8Array([]byte(text))
}

// decoder is the state of one TextDecoder between calls.
type decoder struct {
	rest    []byte // an unfinished character
	started bool   // the byte order mark is behind us
}

func (i *Isolate) text() *goja.Object {
	return i.part("text", map[string]nativeFunc{
		"encode":     i.encode,
		"newDecoder": func(goja.FunctionCall) goja.Value { return i.vm.ToValue(&decoder{}) },
		"decode": func(c goja.FunctionCall) goja.Value {
			d, ok := c.Argument(0).Export().(*decoder)
			if !ok {
				i.throw("TypeError", "not a TextDecoder")
			}
			var b []byte
			if v := c.Argument(5); !goja.IsUndefined(v) {
				if b, ok = i.bytesOf(v); !ok {
					i.throw("TypeError", "decode: the input must be an ArrayBuffer or a view of one")
				}
			}
			return i.decode(d, decoding{c.Argument(1).String(), c.Argument(2).ToBoolean(), c.Argument(3).ToBoolean(), c.Argument(4).ToBoolean()}, b)
		},
	})
}

type decoding struct {
	encoding                 string
	fatal, ignoreBOM, stream bool
}

func (i *Isolate) decode(d *decoder, how decoding, b []byte) goja.Value {
	b = append(d.rest, b...)
	d.rest = nil
	var v goja.Value
	switch how.encoding {
	case "windows-1252":
		v = i.vm.ToValue(decodeLatin(b))
	case "utf-16le":
		v = i.decodeUTF16(d, how, b)
	default:
		v = i.decodeUTF8(d, how, b)
	}
	d.started = how.stream && (d.started || len(b) > 0)
	return v
}

func (i *Isolate) decodeUTF8(d *decoder, how decoding, b []byte) goja.Value {
	if how.stream {
		whole := completePrefix(b)
		d.rest = append([]byte(nil), b[whole:]...)
		b = b[:whole]
	}
	if !d.started && !how.ignoreBOM {
		b = []byte(strings.TrimPrefix(string(b), "\uFEFF"))
	}
	if !utf8.Valid(b) {
		if how.fatal {
			d.rest = nil
			i.throw("TypeError", "The encoded data was not valid for encoding utf-8")
		}
		return i.vm.ToValue(replaceInvalid(b))
	}
	return i.vm.ToValue(string(b))
}

// completePrefix is the length of b without an unfinished character at its end.
func completePrefix(b []byte) int {
	for back := 1; back <= min(3, len(b)); back++ {
		if c := b[len(b)-back]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-back:]) {
				return len(b) - back
			}
			break
		}
	}
	return len(b)
}

// replaceInvalid puts one U+FFFD for each longest prefix of a character that breaks
// off, as the encoding standard says; Go puts one for each byte.
func replaceInvalid(b []byte) string {
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 {
			n = truncatedLength(b)
		}
		out.WriteRune(r)
		b = b[n:]
	}
	return out.String()
}

// truncatedLength is how many bytes of an invalid sequence belong together.
func truncatedLength(b []byte) int {
	for n := min(3, len(b)); n > 1; n-- {
		if !utf8.FullRune(b[:n]) {
			return n
		}
	}
	return 1
}

func (i *Isolate) decodeUTF16(d *decoder, how decoding, b []byte) goja.Value {
	odd := len(b) % 2
	if odd == 1 {
		if how.stream {
			d.rest = []byte{b[len(b)-1]}
		} else if how.fatal {
			i.throw("TypeError", "The encoded data was not valid for encoding utf-16le")
		}
	}
	units := make([]uint16, 0, len(b)/2+1)
	for k := 0; k+1 < len(b); k += 2 {
		units = append(units, uint16(b[k])|uint16(b[k+1])<<8)
	}
	if odd == 1 && !how.stream {
		units = append(units, utf8.RuneError)
	}
	if !d.started && !how.ignoreBOM && len(units) > 0 && units[0] == 0xFEFF {
		units = units[1:]
	}
	return i.vm.ToValue(string(utf16.Decode(units)))
}

// windows1252 holds the characters of bytes 0x80 to 0x9F.
var windows1252 = [32]rune{0x20AC, 0x81, 0x201A, 0x0192, 0x201E, 0x2026, 0x2020, 0x2021, 0x02C6, 0x2030, 0x0160, 0x2039, 0x0152, 0x8D, 0x017D, 0x8F,
	0x90, 0x2018, 0x2019, 0x201C, 0x201D, 0x2022, 0x2013, 0x2014, 0x02DC, 0x2122, 0x0161, 0x203A, 0x0153, 0x9D, 0x017E, 0x0178}

func decodeLatin(b []byte) string {
	var out strings.Builder
	out.Grow(len(b))
	for _, c := range b {
		if c >= 0x80 && c < 0xA0 {
			out.WriteRune(windows1252[c-0x80])
		} else {
			out.WriteRune(rune(c))
		}
	}
	return out.String()
}

func (i *Isolate) btoa(call goja.FunctionCall) goja.Value {
	s, _ := call.Argument(0).ToString().(goja.String)
	i.allow(float64(s.Length()))
	b := make([]byte, s.Length())
	for k := range b {
		c := s.CharAt(k)
		if c > 0xFF {
			i.throwDOM("InvalidCharacterError", "btoa: the text holds characters outside Latin-1; encode it to UTF-8 first")
		}
		b[k] = byte(c)
	}
	return i.vm.ToValue(base64.StdEncoding.EncodeToString(b))
}

func (i *Isolate) atob(call goja.FunctionCall) goja.Value {
	text := strings.Map(func(r rune) rune {
		if strings.ContainsRune(" \t\n\f\r", r) {
			return -1
		}
		return r
	}, call.Argument(0).String())
	i.allow(float64(len(text)))
	if len(text)%4 == 0 {
		text = strings.TrimSuffix(strings.TrimSuffix(text, "="), "=")
	}
	b, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil {
		i.throwDOM("InvalidCharacterError", "atob: the text is not valid base64")
	}
	units := make([]uint16, len(b))
	for k, c := range b {
		units[k] = uint16(c)
	}
	return goja.StringFromUTF16(units)
}
