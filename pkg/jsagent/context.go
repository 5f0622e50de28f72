package jsagent

import (
	"context"
	"fmt"
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// blockLimit is how long one blockConcurrencyWhile may hold back events.
const blockLimit = 30 * time.Second

var contextFuncs = map[string]hostFunc{
	"now":             (*instance).hostNow,
	"name":            func(in *instance, _ goja.FunctionCall) goja.Value { return in.vm.ToValue(in.id().Name) },
	"getWebSockets":   func(in *instance, _ goja.FunctionCall) goja.Value { return in.vm.NewArray() },
	"waitUntil":       (*instance).hostWaitUntil,
	"abort":           (*instance).hostAbort,
	"destroy":         (*instance).hostDestroy,
	"block":           (*instance).hostBlock,
	"sync":            (*instance).hostSync,
	"deleteAll":       (*instance).hostDeleteAll,
	"transactionSync": (*instance).hostTransactionSync,
	"transaction":     (*instance).hostTransaction,
	"inTransaction":   (*instance).hostInTransaction,
	"txnRollback":     (*instance).hostRollback,
	"keepAlive":       (*instance).hostKeepAlive,
	"ending":          func(in *instance, _ goja.FunctionCall) goja.Value { return in.vm.ToValue(in.ending) },
	"event":           (*instance).hostEvent,
	"initialise":      (*instance).hostInitialise,
}

func (in *instance) hostNow(goja.FunctionCall) goja.Value {
	return in.vm.ToValue(in.loop.Now().UnixMilli())
}

// hostWaitUntil keeps the instance in memory until a promise settles; its rejection
// is logged.
func (in *instance) hostWaitUntil(call goja.FunctionCall) goja.Value {
	in.work.waits++
	end := func(goja.Value) { in.work.waits-- }
	in.iso.Await(call.Argument(0), end, func(reason goja.Value) {
		end(nil)
		in.unhandled(in.iso.ReasonError(reason))
	})
	return goja.Undefined()
}

// hostAbort resets the instance; nothing after the call runs.
func (in *instance) hostAbort(call goja.FunctionCall) goja.Value {
	msg := "the agent called abort()"
	if v := call.Argument(0); !goja.IsUndefined(v) {
		msg += ": " + in.iso.ReasonError(v).Message
	}
	err := &agent.Error{Op: "abort", Agent: in.id(), Kind: agent.Reset, Msg: msg}
	in.ending = true
	in.loop.Abort(err)
	in.iso.Interrupt(err)
	return goja.Undefined()
}

// hostDestroy deletes the agent at the end of this turn; the caller still gets its
// answer.
func (in *instance) hostDestroy(goja.FunctionCall) goja.Value {
	in.ending = true
	in.loop.Destroy()
	return goja.Undefined()
}

// hostCurrentAgent is the agent inside code that runs for it, undefined elsewhere.
func (in *instance) hostCurrentAgent(goja.FunctionCall) goja.Value {
	if _, ok := in.iso.AsyncContext().(*scope); !ok {
		return goja.Undefined()
	}
	return in.self.object
}

func (in *instance) hostKeepAlive(call goja.FunctionCall) goja.Value {
	in.work.keepAlive += int(call.Argument(0).ToInteger())
	return goja.Undefined()
}

func (in *instance) hostEvent(call goja.FunctionCall) goja.Value {
	o := call.Argument(1).ToObject(in.vm)
	var attrs []any
	for _, key := range o.Keys() {
		attrs = append(attrs, key, o.Get(key).String())
	}
	in.event(call.Argument(0).String(), attrs...)
	return goja.Undefined()
}

// hostBlock is blockConcurrencyWhile: no call or wake is delivered until the closure
// ends. A closure that fails or takes more than blockLimit resets the agent.
func (in *instance) hostBlock(call goja.FunctionCall) goja.Value {
	fn, _ := goja.AssertFunction(call.Argument(0))
	promise, resolve, reject := in.iso.Promise()
	in.work.blocks++
	release := in.loop.Block()
	fail := func(err *agent.Error) {
		in.ending = true
		in.loop.Abort(err)
	}
	stop := in.loop.AfterFunc(blockLimit, func() {
		fail(&agent.Error{Op: "blockConcurrencyWhile", Agent: in.id(), Kind: agent.Reset,
			Msg: fmt.Sprintf("the function took longer than %v: do slow work outside of it", blockLimit)})
	})
	end := func() {
		stop()
		release()
		in.work.blocks--
		if in.work.blocks == 0 {
			waiting := in.work.unblocked
			in.work.unblocked = nil
			for _, fn := range waiting {
				// A turn of its own: this one is inside JavaScript.
				if !in.loop.Post(fn) {
					return
				}
			}
		}
	}
	failed := func(reason goja.Value) {
		reject(reason)
		fail(in.reasonFault("blockConcurrencyWhile", reason))
		end()
	}
	v, err := fn(goja.Undefined())
	if err != nil {
		e := in.iso.Error(err)
		if e.Value == nil {
			panic(err) // an interrupt: the instance is being reset
		}
		failed(e.Value)
		return promise
	}
	in.iso.Await(v, func(v goja.Value) {
		end()
		resolve(v)
	}, failed)
	return promise
}

// hostSync is a promise for everything written so far being durable.
func (in *instance) hostSync(goja.FunctionCall) goja.Value {
	durable := make(chan error, 1)
	in.loop.Output(func(err error) { durable <- err })
	return in.iso.Async(func(ctx context.Context) func(*goja.Runtime) (any, error) {
		var err error
		select {
		case err = <-durable:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		return func(*goja.Runtime) (any, error) { return nil, err }
	})
}

// hostDeleteAll empties the agent's storage: tables of its code, keys, alarm, state,
// fibers, schedules.
func (in *instance) hostDeleteAll(goja.FunctionCall) goja.Value {
	if err := in.checkTransaction(); err != nil {
		in.throw(err)
	}
	err := in.db().Savepoint(in.dropEverything)
	if err == nil {
		err = in.reload()
	}
	return in.must(goja.Undefined(), err)
}

func (in *instance) dropEverything() error {
	// Virtual tables go first and take their shadow tables along.
	for _, query := range []string{
		`SELECT 'VIEW', name FROM sqlite_master WHERE type = 'view'`,
		`SELECT 'TABLE', name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'`,
		`SELECT 'TABLE', name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\' AND (name NOT LIKE 'agentd\_%' ESCAPE '\' OR name IN ('agentd_kv', 'agentd_alarm'))`,
	} {
		rows, err := in.db().Query(query)
		if err != nil {
			return err
		}
		a, err := readAll(rows)
		if err != nil {
			return err
		}
		for _, row := range a.rows {
			if err := in.run(fmt.Sprintf(`DROP %s IF EXISTS %s`, row[0], quote(row[1]))); err != nil {
				return err
			}
		}
	}
	return nil
}

// quote writes a name as SQL.
func quote(name storage.Value) string {
	text, _ := name.(string)
	out := []byte{'"'}
	for i := range len(text) {
		if text[i] == '"' {
			out = append(out, '"')
		}
		out = append(out, text[i])
	}
	return string(append(out, '"'))
}
