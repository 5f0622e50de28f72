package sandbox

import (
	"strings"

	"github.com/dop251/goja"
)

// newConsole is the console object. Lines go to Config.Console, one call a line.
func (i *Isolate) newConsole() *goja.Object {
	o := i.vm.NewObject()
	write := func(level Level) nativeFunc {
		return func(call goja.FunctionCall) goja.Value {
			i.writeConsole(level, i.format(call.Arguments))
			return goja.Undefined()
		}
	}
	for name, level := range map[string]Level{"debug": LevelDebug, "log": LevelLog, "info": LevelInfo, "warn": LevelWarn,
		"error": LevelError, "dir": LevelLog, "table": LevelLog, "group": LevelLog} {
		i.must(o.Set(name, i.native(name, 0, write(level))))
	}
	i.must(o.Set("groupEnd", i.native("groupEnd", 0, func(goja.FunctionCall) goja.Value { return goja.Undefined() })))
	i.must(o.Set("trace", i.native("trace", 0, func(call goja.FunctionCall) goja.Value {
		text := "Trace: " + i.format(call.Arguments)
		if stack := stackText(i.vm.CaptureCallStack(50, nil)); stack != "" {
			text += "\n    " + strings.ReplaceAll(stack, "\n", "\n    ")
		}
		i.writeConsole(LevelDebug, text)
		return goja.Undefined()
	})))
	i.must(o.Set("assert", i.native("assert", 0, func(call goja.FunctionCall) goja.Value {
		if !call.Argument(0).ToBoolean() {
			text := "Assertion failed"
			if len(call.Arguments) > 1 {
				text += ": " + i.format(call.Arguments[1:])
			}
			i.writeConsole(LevelError, text)
		}
		return goja.Undefined()
	})))
	return o
}

func (i *Isolate) writeConsole(level Level, text string) {
	if i.cfg.Console != nil {
		i.cfg.Console(level, clip(text, i.cfg.Limits.ConsoleLine))
	}
}

// format is what console methods write: a first string may hold %s %d %i %f %j %o
// %O %c and %%; what is left over is added with spaces.
func (i *Isolate) format(args []goja.Value) string {
	var b strings.Builder
	if len(args) > 1 && goja.IsString(args[0]) {
		b.WriteString("")
		args = i.substitute(&b, args[0].String(), args[1:])
		for _, a := range args {
			b.WriteByte(' ')
			b.WriteString(i.display(a))
		}
		return b.String()
	}
	for k, a := range args {
		if k > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(i.display(a))
		if b.Len() > 4*i.cfg.Limits.ConsoleLine {
			break
		}
	}
	return b.String()
}

// display shows a top-level argument: strings as they are.
func (i *Isolate) display(v goja.Value) string {
	if s, ok := v.(goja.String); ok {
		if limit := 4 * i.cfg.Limits.ConsoleLine; s.Length() > limit {
			return s.Substring(0, limit).String()
		}
		return s.String()
	}
	return i.inspect(v)
}

func (i *Isolate) substitute(b *strings.Builder, pattern string, args []goja.Value) []goja.Value {
	for k := 0; k < len(pattern); k++ {
		c := pattern[k]
		if c != '%' || k+1 == len(pattern) {
			b.WriteByte(c)
			continue
		}
		verb := pattern[k+1]
		if verb == '%' {
			b.WriteByte('%')
			k++
			continue
		}
		if len(args) == 0 || !strings.ContainsRune("sdifjoOc", rune(verb)) {
			b.WriteByte('%')
			continue
		}
		b.WriteString(i.verb(verb, args[0]))
		args = args[1:]
		k++
	}
	return args
}

func (i *Isolate) verb(verb byte, v goja.Value) string {
	switch verb {
	case 's':
		return i.display(v)
	case 'd', 'i', 'f':
		if _, ok := v.(*goja.Object); ok || goja.IsBigInt(v) {
			return i.inspect(v)
		}
		if _, ok := v.(*goja.Symbol); ok {
			return "NaN"
		}
		if verb == 'i' {
			if f := v.ToFloat(); f == f {
				return i.vm.ToValue(v.ToInteger()).String()
			}
		}
		return v.ToNumber().String()
	case 'j':
		raw, err := i.ToJSON(v)
		switch {
		case err != nil:
			return "[" + err.Error() + "]"
		case raw == nil:
			return "undefined"
		}
		return string(raw)
	case 'c':
		return ""
	}
	return i.inspect(v)
}
