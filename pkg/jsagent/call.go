package jsagent

import (
	"fmt"
	"strings"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// maxListed bounds how many method names an error message lists.
const maxListed = 20

// Call runs a public method of the class or a method of the platform.
func (in *instance) Call(call agent.Call, cancelled <-chan struct{}, reply func(agent.Result, error)) {
	in.work.calls++
	answered := false
	answer := func(res agent.Result, err error) {
		if !answered {
			answered = true
			in.work.calls--
			reply(res, err)
		}
	}
	if call.Surface == agent.SurfacePlatform {
		in.callPlatform(call, answer)
		return
	}
	in.callClass(call, cancelled, answer)
}

func (in *instance) callClass(call agent.Call, cancelled <-chan struct{}, answer func(agent.Result, error)) {
	op := "call " + call.Method
	err := in.enter(func(*goja.Runtime) error {
		fn, args, err := in.prepare(op, call)
		if err != nil {
			answer(agent.Result{}, err) // ours: the class threw nothing
			return nil
		}
		settle := func(v goja.Value) { answer(in.result(op, v)) }
		if in.self.streaming[call.Method] {
			response, err := in.response(call, cancelled, answer)
			if err != nil {
				return err
			}
			args = append([]goja.Value{response}, args...)
			settle = func(goja.Value) {} // its value is ignored; end() answers
		}
		v, err := fn(in.self.object, args...)
		if err != nil {
			return err
		}
		in.iso.Await(v, settle,
			func(reason goja.Value) { answer(agent.Result{}, in.reasonFault(op, reason)) })
		return nil
	})
	if err != nil {
		answer(agent.Result{}, in.fault(op, err))
	}
}

// prepare finds a method and reads its arguments.
func (in *instance) prepare(op string, call agent.Call) (fn goja.Callable, args []goja.Value, err error) {
	if fn, err = in.method(call.Method); err != nil {
		return nil, nil, err
	}
	args = make([]goja.Value, len(call.Args))
	for i, raw := range call.Args {
		if args[i], err = in.iso.FromJSON(raw); err != nil {
			return nil, nil, &agent.Error{Op: op, Agent: in.id(), Kind: agent.Invalid, Msg: fmt.Sprintf("argument %d is not JSON", i+1), Err: err}
		}
	}
	streaming, err := in.streams(call.Method)
	if err == nil && streaming && call.Stream == "" {
		err = &agent.Error{Op: op, Agent: in.id(), Kind: agent.Invalid,
			Msg: fmt.Sprintf("method %q streams its answer: call it with InvokeStream (agentd call --stream)", call.Method)}
	}
	return fn, args, err
}

// result is a method's value as JSON.
func (in *instance) result(op string, v goja.Value) (agent.Result, error) {
	raw, err := in.iso.ToJSON(v)
	if err != nil {
		return agent.Result{}, in.fault(op, in.jsonError("the result", err))
	}
	return agent.Result{Value: raw}, nil
}

// jsonError tells a value without a JSON form from one that is too large or whose
// toJSON threw.
func (in *instance) jsonError(what string, err error) error {
	e := in.iso.Error(err)
	if e.Err != nil {
		return err
	}
	if e.Name == "RangeError" {
		return &agent.Error{Kind: agent.TooLarge, Name: e.Name, Msg: what + ": " + e.Message}
	}
	if e.Name != "TypeError" {
		return err
	}
	return unserializable(what, e)
}

// method finds a public method. Getters are not triggered.
func (in *instance) method(name string) (goja.Callable, error) {
	if fn, ok := in.self.methods[name]; ok {
		return fn, nil
	}
	found, err := in.glueCall("core", "method", in.self.object, in.self.base, in.vm.ToValue(name))
	if err != nil {
		return nil, err
	}
	if fn, ok := goja.AssertFunction(found); ok {
		if in.self.methods == nil {
			in.self.methods = make(map[string]goja.Callable)
		}
		in.self.methods[name] = fn
		return fn, nil
	}
	out := &agent.Error{Op: "call " + name, Agent: in.id(), Kind: agent.UnknownMethod}
	if found.String() == "private" {
		out.Kind = agent.NotCallable
		out.Msg = fmt.Sprintf("method %q of %s is private or inherited: only methods that the class itself defines, without a leading underscore, can be called", name, in.class)
		return nil, out
	}
	out.Msg = fmt.Sprintf("class %s has no method %q; %s", in.class, name, in.suggestion(name))
	return nil, out
}

// suggestion lists what can be called, the nearest name first in words.
func (in *instance) suggestion(name string) string {
	if len(in.self.public) == 0 {
		return "it has no public methods"
	}
	text := "it has " + strings.Join(in.self.public[:min(len(in.self.public), maxListed)], ", ")
	if more := len(in.self.public) - maxListed; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	if near := nearest(name, in.self.public); near != "" {
		text += fmt.Sprintf(". Did you mean %q?", near)
	}
	return text
}

// nearest is the candidate with the least edit distance, if it is at most a third
// of the name's length.
func nearest(name string, candidates []string) string {
	best, least := "", len(name)/3+1
	for _, c := range candidates {
		if d := distance(strings.ToLower(name), strings.ToLower(c), least); d < least {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of edits between a and b, or any number ≥ limit when it is
// at least that.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
