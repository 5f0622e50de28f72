package sandbox

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/dop251/goja"
)

// jsonParser reads strict JSON into JavaScript values, at most maxNesting deep.
type jsonParser struct {
	vm    *goja.Runtime
	text  string
	at    int
	depth int
}

func parseJSON(vm *goja.Runtime, text string) (goja.Value, error) {
	p := jsonParser{vm: vm, text: text}
	v, err := p.value()
	if err != nil {
		return nil, err
	}
	if p.space(); p.at < len(text) {
		return nil, p.unexpected()
	}
	return v, nil
}

func (p *jsonParser) unexpected() error {
	if p.at >= len(p.text) {
		//lint:ignore ST1005 the language's own text
		return fmt.Errorf("Unexpected end of JSON input")
	}
	r := []rune(p.text[p.at:min(p.at+8, len(p.text))])[0]
	//lint:ignore ST1005 the language's own text
	return fmt.Errorf("Unexpected token '%c' in JSON at position %d", r, p.at)
}

func (p *jsonParser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// peek is the next character after space; 0 at the end.
func (p *jsonParser) peek() byte {
	p.space()
	if p.at < len(p.text) {
		return p.text[p.at]
	}
	return 0
}

func (p *jsonParser) value() (goja.Value, error) {
	switch c := p.peek(); {
	case c == '{' || c == '[':
		if p.depth++; p.depth > maxNesting {
			return nil, fmt.Errorf("JSON is nested deeper than %d levels", maxNesting)
		}
		defer func() { p.depth-- }()
		if c == '{' {
			return p.object()
		}
		return p.array()
	case c == '"':
		return p.str()
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	for _, l := range []struct {
		text  string
		value goja.Value
	}{{"null", goja.Null()}, {"true", p.vm.ToValue(true)}, {"false", p.vm.ToValue(false)}} {
		if strings.HasPrefix(p.text[p.at:], l.text) {
			p.at += len(l.text)
			return l.value, nil
		}
	}
	return nil, p.unexpected()
}

func (p *jsonParser) array() (goja.Value, error) {
	p.at++
	items := []any{}
	if p.peek() == ']' {
		p.at++
		return p.vm.NewArray(), nil
	}
	for {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		items = append(items, v)
		switch p.peek() {
		case ',':
			p.at++
		case ']':
			p.at++
			return p.vm.NewArray(items...), nil
		default:
			return nil, p.unexpected()
		}
	}
}

func (p *jsonParser) object() (goja.Value, error) {
	p.at++
	o := p.vm.NewObject()
	if p.peek() == '}' {
		p.at++
		return o, nil
	}
	for {
		if p.peek() != '"' {
			return nil, p.unexpected()
		}
		key, err := p.str()
		if err != nil {
			return nil, err
		}
		if p.peek() != ':' {
			return nil, p.unexpected()
		}
		p.at++
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		if err := p.put(o, key.String(), v); err != nil {
			return nil, err
		}
		switch p.peek() {
		case ',':
			p.at++
		case '}':
			p.at++
			return o, nil
		default:
			return nil, p.unexpected()
		}
	}
}

// put defines a member; __proto__ is a member like any other here.
func (p *jsonParser) put(o *goja.Object, key string, v goja.Value) error {
	if key == "__proto__" {
		return o.DefineDataProperty(key, v, goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_TRUE)
	}
	return o.Set(key, v)
}

func (p *jsonParser) number() (goja.Value, error) {
	start := p.at
	digits := func() bool {
		from := p.at
		for p.at < len(p.text) && p.text[p.at] >= '0' && p.text[p.at] <= '9' {
			p.at++
		}
		return p.at > from
	}
	next := func(set string) bool {
		if p.at < len(p.text) && strings.IndexByte(set, p.text[p.at]) >= 0 {
			p.at++
			return true
		}
		return false
	}
	next("-")
	if !next("0") && !digits() {
		return nil, p.unexpected()
	}
	whole := true
	if next(".") {
		if whole = false; !digits() {
			return nil, p.unexpected()
		}
	}
	if next("eE") {
		whole = false
		next("+-")
		if !digits() {
			return nil, p.unexpected()
		}
	}
	text := p.text[start:p.at]
	if whole && len(text) < 16 && text != "-0" {
		n, err := strconv.ParseInt(text, 10, 64)
		return p.vm.ToValue(n), err
	}
	f, _ := strconv.ParseFloat(text, 64) // out of range gives ±Inf, as in JavaScript
	if f == 0 && text[0] == '-' {
		f = math.Copysign(0, -1)
	}
	return p.vm.ToValue(f), nil
}

// str reads a string; p.at is on its quote.
func (p *jsonParser) str() (goja.Value, error) {
	p.at++
	start := p.at
	for k := start; k < len(p.text); k++ {
		switch c := p.text[k]; {
		case c == '"':
			p.at = k + 1
			return p.vm.ToValue(p.text[start:k]), nil
		case c == '\\':
			return p.escaped(start, k)
		case c < 0x20:
			p.at = k
			return nil, p.unexpected()
		}
	}
	p.at = len(p.text)
	return nil, p.unexpected()
}

// escaped reads a string with escapes, of which the first is at k.
func (p *jsonParser) escaped(start, k int) (goja.Value, error) {
	units := utf16.Encode([]rune(p.text[start:k]))
	for p.at = k; p.at < len(p.text); {
		c := p.text[p.at]
		switch {
		case c == '"':
			p.at++
			return goja.StringFromUTF16(units), nil
		case c < 0x20:
			return nil, p.unexpected()
		case c != '\\':
			end := p.at
			for end < len(p.text) && p.text[end] != '"' && p.text[end] != '\\' && p.text[end] >= 0x20 {
				end++
			}
			units = append(units, utf16.Encode([]rune(p.text[p.at:end]))...)
			p.at = end
		default:
			unit, err := p.escape()
			if err != nil {
				return nil, err
			}
			units = append(units, unit)
		}
	}
	return nil, p.unexpected()
}

func (p *jsonParser) escape() (uint16, error) {
	p.at++
	if p.at >= len(p.text) {
		return 0, p.unexpected()
	}
	c := p.text[p.at]
	if c == 'u' {
		if p.at+5 > len(p.text) {
			p.at = len(p.text)
			return 0, p.unexpected()
		}
		n, err := strconv.ParseUint(p.text[p.at+1:p.at+5], 16, 16)
		if err != nil {
			return 0, p.unexpected()
		}
		p.at += 5
		return uint16(n), nil
	}
	k := strings.IndexByte(`"\/bfnrt`, c)
	if k < 0 {
		return 0, p.unexpected()
	}
	p.at++
	return uint16("\"\\/\b\f\n\r\t"[k]), nil
}
