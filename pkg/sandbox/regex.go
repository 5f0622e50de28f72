package sandbox

import (
	"fmt"
	"strings"
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// maxPattern bounds the source of one regular expression, in bytes; compiling it
// recurses on the Go stack.
const maxPattern = 64 << 10

// maxGroups bounds how deep the groups of one regular expression nest.
const maxGroups = 500

// maxRegexWork bounds input length times pattern weight for one match: the
// linear-time engine costs some nanoseconds for each.
const maxRegexWork = 1 << 30

// guardRegExp guards the constructor and the methods of RegExp.prototype, once per
// isolate. A program that holds no regular expression never pays for it.
func (i *Isolate) guardRegExp(class *goja.Object) {
	if i.guards.regex {
		return
	}
	i.guards.regex = true
	if class == nil {
		class = i.vm.GlobalObject().Get("RegExp").ToObject(i.vm)
		if i.guards.regex = fieldOf[nativeFunc](class, "f") != nil; !i.guards.regex {
			return
		}
	}
	check := func(i *Isolate, c *goja.FunctionCall) { i.allowPattern(c.Argument(0)) }
	wrapNative(class, i.guarded(check))
	wrapConstruct(class, i.allocating(func(args []goja.Value) {
		if len(args) > 0 {
			i.allowPattern(args[0])
		}
	}))
	proto := class.Get("prototype").ToObject(i.vm)
	methods := []*goja.Object{}
	for _, name := range []string{"exec", "test"} {
		if m, ok := proto.Get(name).(*goja.Object); ok {
			methods = append(methods, m)
		}
	}
	for _, sym := range []*goja.Symbol{goja.SymMatch, goja.SymSearch, goja.SymSplit, goja.SymMatchAll} {
		if m, ok := proto.GetSymbol(sym).(*goja.Object); ok {
			methods = append(methods, m)
		}
	}
	for _, m := range methods {
		wrapNative(m, i.timedRegex)
	}
	if m, ok := proto.GetSymbol(goja.SymReplace).(*goja.Object); ok {
		wrapNative(m, func(old nativeFunc) nativeFunc { return i.timedRegex(i.boundedReplace(old)) })
	}
	if m, ok := proto.Get("compile").(*goja.Object); ok {
		wrapNative(m, i.guarded(check))
	}
}

// timedRegex stops the isolate when a match ran into its time limit. The engine
// then reports "no match", which is not true, so code must not go on.
func (i *Isolate) timedRegex(old nativeFunc) nativeFunc {
	return func(call goja.FunctionCall) goja.Value {
		i.allowInput(call.This, call.Argument(0))
		// The processor's clock, not the isolate's: this guards the machine and is never
		// seen by code.
		start, outside := time.Now(), i.guards.outside
		v := old(call)
		spent := time.Since(start) - (i.guards.outside - outside)
		if spent >= i.cfg.Limits.RegexTime {
			i.abort(&agent.Error{Op: "match regular expression", Kind: agent.CPULimit,
				Msg: fmt.Sprintf("%.200s ran for %v; the limit is %v. Rewrite it without nested repetition, or match shorter text",
					regexText(call.This), spent.Round(time.Millisecond), i.cfg.Limits.RegexTime)})
		}
		return v
	}
}

func regexText(v goja.Value) string {
	if source := fieldOf[goja.String](asObject(v), "source"); source != nil && *source != nil {
		return "/" + (*source).String() + "/"
	}
	return "the regular expression"
}

func asObject(v goja.Value) *goja.Object {
	o, _ := v.(*goja.Object)
	return o
}

// allowPattern bounds length and nesting of a pattern given as a string.
func (i *Isolate) allowPattern(v goja.Value) {
	s, ok := v.(goja.String)
	if !ok {
		return
	}
	depth, deepest := 0, 0
	text := s.String()
	for k := 0; k < len(text); k++ {
		switch text[k] {
		case '\\':
			k++
		case '(':
			depth++
			deepest = max(deepest, depth)
		case ')':
			depth--
		}
	}
	if len(text) > maxPattern || deepest > maxGroups {
		panic(i.newError("SyntaxError", fmt.Sprintf("Invalid regular expression: %d bytes and %d groups deep; at most %d and %d are allowed", len(text), deepest, maxPattern, maxGroups)))
	}
}

// allowInput bounds the work of the linear-time engine, which has no time limit.
func (i *Isolate) allowInput(this, input goja.Value) {
	n := textLength(input)
	i.allow(n)
	if n < 10_000 || asObject(this) == nil {
		return
	}
	source := fieldOf[goja.String](asObject(this), "source")
	if source == nil || *source == nil {
		return
	}
	if weight := patternWeight((*source).String()); n*weight > maxRegexWork {
		i.throw("RangeError", fmt.Sprintf("a text of %.0f characters is too long for a regular expression of this size", n))
	}
}

// patternWeight estimates how large a pattern is after its counted repetitions are
// unrolled; the engine allows 1 000 copies.
func patternWeight(source string) float64 {
	weight, factor := float64(len(source)), 1.0
	for rest := source; ; {
		open := strings.IndexByte(rest, '{')
		if open < 0 {
			break
		}
		rest = rest[open+1:]
		n := 0.0
		for _, c := range rest[:min(len(rest), 12)] {
			switch {
			case c >= '0' && c <= '9':
				n = n*10 + float64(c-'0')
			case c == ',':
				factor, n = max(factor, n), 0
			}
			if c == '}' {
				break
			}
		}
		factor = max(factor, n)
	}
	return weight * min(factor, 1_000)
}

// guardPattern is for methods of strings that make a regular expression of a string
// argument.
func guardPattern(i *Isolate, c *goja.FunctionCall) {
	guardText(i, c)
	i.guardRegExp(nil)
	i.allowPattern(c.Argument(0))
}

// hookReplace guards String.prototype.replace and replaceAll.
func hookReplace(proto *goja.Object) error {
	t, err := templateOf(proto)
	if err != nil {
		return err
	}
	for _, name := range []string{"replace", "replaceAll"} {
		err := t.hook(name, func(i *Isolate, o *goja.Object) {
			wrapNative(o, func(old nativeFunc) nativeFunc { return i.guarded(guardSearch)(i.boundedStringReplace(old)) })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// boundedStringReplace bounds what a replacement of one string by another can grow
// to; regular expressions bound themselves in boundedReplace.
func (i *Isolate) boundedStringReplace(old nativeFunc) nativeFunc {
	return func(call goja.FunctionCall) goja.Value {
		text, ok1 := call.This.(goja.String)
		search, ok2 := call.Argument(0).(goja.String)
		with, ok3 := call.Argument(1).(goja.String)
		if !ok1 || !ok2 {
			return old(call)
		}
		if ok3 {
			n := textLength(text)
			each := i.substitution(with, n)
			if (n+1)*each > float64(i.cfg.Limits.NativeLength) {
				matches := float64(strings.Count(text.String(), search.String()))
				i.allow(n + matches*each)
			}
			return old(call)
		}
		return old(i.countResults(call))
	}
}

// boundedReplace is the same for RegExp.prototype[Symbol.replace], where a dry run
// counts the matches if it matters.
func (i *Isolate) boundedReplace(old nativeFunc) nativeFunc {
	return func(call goja.FunctionCall) goja.Value {
		with, ok := call.Argument(1).(goja.String)
		if !ok {
			return old(i.countResults(call))
		}
		n := textLength(call.Argument(0))
		each := i.substitution(with, n)
		if (n+1)*each > float64(i.cfg.Limits.NativeLength) {
			matches := 0.0
			count := i.native("", 0, func(goja.FunctionCall) goja.Value {
				matches++
				return i.vm.ToValue("")
			})
			old(goja.FunctionCall{This: call.This, Arguments: []goja.Value{call.Argument(0), count}})
			i.allow(n + matches*each)
		}
		return old(call)
	}
}

// substitution bounds the length of one expanded replacement in a text of n.
func (i *Isolate) substitution(with goja.String, n float64) float64 {
	return textLength(with) + n*float64(strings.Count(with.String(), "$"))
}

// countResults wraps a replacing function: the sum of what it returns is bounded,
// and its time is not the expression's.
func (i *Isolate) countResults(call goja.FunctionCall) goja.FunctionCall {
	fn, ok := goja.AssertFunction(call.Argument(1))
	if !ok {
		return call
	}
	total := 0.0
	counted := i.native("", 0, func(inner goja.FunctionCall) goja.Value {
		start := time.Now()
		v, err := fn(inner.This, inner.Arguments...)
		i.guards.outside += time.Since(start)
		if err != nil {
			panic(err)
		}
		total += textLength(v)
		i.allow(total)
		return v
	})
	args := append([]goja.Value{call.Argument(0), counted}, call.Arguments[2:]...)
	return goja.FunctionCall{This: call.This, Arguments: args}
}
