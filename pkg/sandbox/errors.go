package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/dop251/goja"
	"github.com/go-sourcemap/sourcemap"

	"agentd/pkg/agent"
)

const overflowMessage = "Maximum call stack size exceeded"

// maxErrorText bounds name, message and stack, in bytes each.
const maxErrorText = 32 << 10

// ScriptError is what JavaScript threw or rejected with, in the author's terms.
type ScriptError struct {
	Name    string     // "TypeError"; "Error" for a thrown value that is no error
	Message string     // without the name
	Stack   string     // one "at function (file:line:column)" a line, frames of ours removed
	Value   goja.Value // what was thrown; nil when nothing was, as for an interrupt
	Err     error      // the Go error behind it, if there is one
}

func (e *ScriptError) Error() string {
	if e.Message == "" {
		return e.Name
	}
	return e.Name + ": " + e.Message
}

// Unwrap is the Go error that a host function failed with, or the cause of an
// interrupt.
func (e *ScriptError) Unwrap() error { return e.Err }

// Error describes any error that came out of Do, Run or a callable. Nil stays nil.
func (i *Isolate) Error(err error) *ScriptError {
	if err == nil {
		return nil
	}
	var (
		script    *ScriptError
		interrupt *goja.InterruptedError
		exception *goja.Exception
		known     *agent.Error
	)
	switch {
	case errors.As(err, &script):
		return script
	case isOverflow(err):
		var overflow *goja.StackOverflowError
		errors.As(err, &overflow)
		frames := overflow.Stack()
		return &ScriptError{Name: "RangeError", Message: overflowMessage, Stack: stackText(frames[:min(len(frames), 50)]), Err: err}
	case errors.As(err, &interrupt):
		cause := errors.Unwrap(interrupt)
		if cause == nil {
			cause = errors.New("interrupted")
		}
		return &ScriptError{Name: "Error", Message: cause.Error(), Stack: stackText(interrupt.Stack()), Err: cause}
	case errors.As(err, &exception):
		e := i.ReasonError(exception.Value())
		if e.Stack == "" {
			e.Stack = stackText(exception.Stack())
		}
		return e
	case errors.As(err, &known):
		e := &ScriptError{Name: "Error", Message: err.Error(), Stack: known.Stack, Err: err}
		if known.Name != "" {
			e.Name, e.Message = known.Name, known.Msg
		}
		return e
	}
	return &ScriptError{Name: "Error", Message: err.Error(), Err: err}
}

// ReasonError describes a rejection reason or thrown value. Code of the author may
// run while it reads an error's properties; what that throws is ignored.
func (i *Isolate) ReasonError(reason goja.Value) *ScriptError {
	if reason == nil {
		reason = goja.Undefined()
	}
	e := &ScriptError{Name: "Error", Value: reason}
	o, ok := reason.(*goja.Object)
	if !ok {
		e.Message = clip(primitiveText(reason), maxErrorText)
		return e
	}
	err := i.Do(func(*goja.Runtime) error {
		if hidden := o.GetSymbol(i.kernel.hidden); hidden != nil {
			e.Err, _ = hidden.Export().(error)
		}
		if !i.isError(o) {
			e.Message = clip(i.inspect(o), maxErrorText)
			return nil
		}
		if v := o.Get("name"); v != nil && goja.IsString(v) && v.String() != "" {
			e.Name = clip(v.String(), 256)
		}
		if v := o.Get("message"); v != nil && !goja.IsUndefined(v) {
			e.Message = clip(i.valueText(v), maxErrorText)
		}
		if v := o.Get("stack"); v != nil && goja.IsString(v) {
			e.Stack = cleanStack(v.String())
		}
		return nil
	})
	if err != nil && e.Message == "" {
		e.Message = "the thrown object cannot be read"
	}
	return e
}

// isError says whether o is an error object or looks like one.
func (i *Isolate) isError(o *goja.Object) bool {
	if o.ClassName() == "Error" {
		return true
	}
	message := o.Get("message")
	return message != nil && goja.IsString(message) && o.Get("stack") != nil
}

// valueText is String(v) that cannot run code for primitives and falls back to the
// inspected form for objects.
func (i *Isolate) valueText(v goja.Value) string {
	if _, ok := v.(*goja.Object); ok {
		return i.inspect(v)
	}
	return primitiveText(v)
}

func primitiveText(v goja.Value) string {
	if s, ok := v.(*goja.Symbol); ok {
		return "Symbol(" + s.String() + ")"
	}
	return v.String()
}

// reason is the value that a promise is rejected with.
func (i *Isolate) reason(v any) goja.Value {
	err, ok := v.(error)
	if !ok {
		return i.value(v)
	}
	var script *ScriptError
	if errors.As(err, &script) && script.Value != nil {
		return script.Value
	}
	var exception *goja.Exception
	if errors.As(err, &exception) {
		return exception.Value()
	}
	return i.ErrorValue(err)
}

// ErrorValue makes an Error object for a Go error. Error and ReasonError give the
// Go error back as ScriptError.Err. A name that err carries (*ScriptError,
// *agent.Error) becomes the object's; a global class of that name its class.
func (i *Isolate) ErrorValue(err error) *goja.Object {
	name, message := "Error", err.Error()
	var script *ScriptError
	var known *agent.Error
	switch {
	case errors.As(err, &script):
		name, message = script.Name, script.Message
	case isOverflow(err):
		name, message = "RangeError", overflowMessage
	case errors.As(err, &known) && known.Name != "":
		name, message = known.Name, known.Msg
	}
	class := "Error"
	switch name {
	case "TypeError", "RangeError", "SyntaxError", "ReferenceError", "EvalError", "URIError":
		class = name
	}
	o := i.newError(class, message)
	if name != class {
		o.DefineDataProperty("name", i.vm.ToValue(name), goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_FALSE)
	}
	o.DefineDataPropertySymbol(i.kernel.hidden, i.vm.ToValue(&hiddenError{err}), goja.FLAG_FALSE, goja.FLAG_FALSE, goja.FLAG_FALSE)
	return o
}

// hiddenError is an opaque carrier: it has no fields or methods that JavaScript
// could reach beyond Error.
type hiddenError struct{ error }

func (h *hiddenError) Unwrap() error { return h.error }

func isOverflow(err error) bool {
	var overflow *goja.StackOverflowError
	return errors.As(err, &overflow)
}

// stackText writes frames as cleanStack leaves them.
func stackText(frames []goja.StackFrame) string {
	var b strings.Builder
	for k := range frames {
		f := &frames[k]
		name := f.SrcName()
		if strings.HasPrefix(name, internalPrefix) || name == "<native>" {
			continue
		}
		pos := f.Position()
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		if fn := f.FuncName(); fn != "" && fn != "<anonymous>" {
			fmt.Fprintf(&b, "at %s (%s:%d:%d)", fn, pos.Filename, pos.Line, pos.Column)
		} else {
			fmt.Fprintf(&b, "at %s:%d:%d", pos.Filename, pos.Line, pos.Column)
		}
		if b.Len() > maxErrorText {
			break
		}
	}
	return b.String()
}

// LineAt is the author's line that the first frame of a stack names, cut like
// SourceError.SourceLine; empty when source and map do not have it. For errors only:
// it parses the map.
func LineAt(stack string, source, sourceMap []byte) string {
	frame, _, _ := strings.Cut(stack, "\n")
	frame = strings.TrimSuffix(frame[strings.LastIndexAny(frame, " (")+1:], ")")
	at := strings.Split(frame, ":")
	if len(at) < 3 {
		return ""
	}
	line, err := strconv.Atoi(at[len(at)-2])
	if err != nil {
		return ""
	}
	if len(sourceMap) == 0 {
		return lineOf(string(source), line)
	}
	mapping, err := sourcemap.Parse("", sourceMap)
	if err != nil {
		return ""
	}
	return lineOf(mapping.SourceContent(strings.Join(at[:len(at)-2], ":")), line)
}

// cleanStack reads goja's stack text ("\tat f (file:1:2(34))") and drops native and
// internal frames and the leading message.
func cleanStack(stack string) string {
	var b strings.Builder
	for line := range strings.Lines(stack) {
		frame, ok := strings.CutPrefix(strings.TrimSpace(line), "at ")
		if !ok || strings.Contains(frame, internalPrefix) || frame == "native" || strings.HasSuffix(frame, " (native)") {
			continue
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString("at " + dropCounter(frame))
		if b.Len() > maxErrorText {
			break
		}
	}
	return b.String()
}

// dropCounter removes the instruction number that goja appends to a position.
func dropCounter(frame string) string {
	closed := strings.HasSuffix(frame, "))")
	end := len(frame) - 1
	if closed {
		end--
	}
	open := strings.LastIndexByte(frame[:max(end, 0)], '(')
	if end < 1 || open < 0 || frame[end] != ')' || strings.Trim(frame[open+1:end], "0123456789") != "" {
		return frame
	}
	if closed {
		return frame[:open] + ")"
	}
	return frame[:open]
}

// clip cuts text to at most n bytes at a character and says so.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	marker := fmt.Sprintf("… (%d bytes cut)", len(s)-n)
	cut := max(n-len(marker), 0)
	for cut > 0 && s[cut]&0xC0 == 0x80 {
		cut--
	}
	return s[:cut] + marker
}
