package jsagent

import (
	"errors"
	"fmt"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
	"agentd/pkg/sandbox"
)

// throw raises a Go error in the JavaScript that called. The kind travels with the
// error object and is found again by fault.
func (in *instance) throw(err error) {
	panic(in.errorValue(err))
}

// errorValue is the Error object for a Go error; its message says what went wrong
// without the Go operation.
func (in *instance) errorValue(err error) *goja.Object {
	var script *sandbox.ScriptError
	if errors.As(err, &script) {
		if o, ok := script.Value.(*goja.Object); ok {
			return o
		}
		return in.iso.ErrorValue(err)
	}
	var known *agent.Error
	if !errors.As(err, &known) || known.Name != "" {
		return in.iso.ErrorValue(err)
	}
	named := &agent.Error{Kind: known.Kind, Name: "Error", Msg: messageOf(known), Err: err}
	switch known.Kind {
	case agent.Unserializable:
		named.Name = "TypeError"
	case agent.TooLarge, agent.Overloaded:
		named.Name = "RangeError"
	}
	return in.iso.ErrorValue(named)
}

// messageOf is an error's text without operation and agent.
func messageOf(e *agent.Error) string {
	switch {
	case e.Msg != "" && e.Err != nil:
		return e.Msg + ": " + e.Err.Error()
	case e.Msg != "":
		return e.Msg
	case e.Err != nil:
		return e.Err.Error()
	}
	return e.Kind.String()
}

// escaping are the kinds that stay when an error of the platform leaves a method
// uncaught; anything else is the code's own exception.
var escaping = map[agent.Kind]bool{
	agent.Unserializable: true, agent.SQL: true, agent.TooLarge: true, agent.StorageFull: true, agent.Corrupt: true,
	agent.CPULimit: true, agent.MemoryLimit: true, agent.Reset: true, agent.Canceled: true, agent.Internal: true,
}

// fault is the *agent.Error for what came out of the isolate while op was done.
func (in *instance) fault(op string, err error) *agent.Error {
	return in.scriptFault(op, in.iso.Error(err))
}

// reasonFault is fault for a rejection.
func (in *instance) reasonFault(op string, reason goja.Value) *agent.Error {
	return in.scriptFault(op, in.iso.ReasonError(reason))
}

func (in *instance) scriptFault(op string, e *sandbox.ScriptError) *agent.Error {
	out := &agent.Error{Op: op, Agent: in.id(), Kind: agent.Exception, Name: e.Name, Msg: e.Message, Stack: e.Stack}
	var known *agent.Error
	if !errors.As(e.Err, &known) || !escaping[known.Kind] {
		return out
	}
	out.Kind = known.Kind
	if known.Name == "" { // not thrown by code: an interrupt or a failed result
		out.Name, out.Msg = "", messageOf(known)
	}
	return out
}

// remoteError is what a stub's promise rejects with: the other agent's error, told
// apart by its properties, as its own exception when it escapes from here too.
func (in *instance) remoteError(err error) error {
	var e *agent.Error
	kind := agent.KindOf(err)
	name, message, stack := "Error", err.Error(), ""
	if errors.As(err, &e) {
		message, stack = messageOf(e), e.Stack
		if e.Name != "" {
			name = e.Name
		}
	}
	o := in.iso.ErrorValue(&agent.Error{Kind: agent.Exception, Name: name, Msg: message})
	set := func(key string, v any) {
		o.DefineDataProperty(key, in.vm.ToValue(v), goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_TRUE)
	}
	set("remote", true)
	set("retryable", kind.Retryable())
	set("overloaded", kind == agent.Overloaded)
	if stack != "" {
		o.DefineDataProperty("stack", in.vm.ToValue(name+": "+message+"\n"+stack), goja.FLAG_TRUE, goja.FLAG_TRUE, goja.FLAG_FALSE)
	}
	return &sandbox.ScriptError{Name: name, Message: message, Stack: stack, Value: o}
}

// unserializable says that a value has no JSON form; err tells where and why.
func unserializable(what string, err error) *agent.Error {
	text := err.Error()
	var script *sandbox.ScriptError
	if errors.As(err, &script) {
		text = script.Message
	}
	return &agent.Error{Kind: agent.Unserializable, Name: "TypeError", Msg: fmt.Sprintf("%s has no JSON form: %s", what, text)}
}
