package jsagent

import (
	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// transaction is an async transaction(): a savepoint from the call of its closure
// until the closure's promise settles, within one turn.
type transaction struct {
	rolledBack bool
	reject     func(any)
}

func expired() *agent.Error {
	return &agent.Error{Kind: agent.Conflict, Msg: "transaction() was rolled back: its function awaited something other than storage. " +
		"Do slow work before the transaction, or use transactionSync()"}
}

// checkTransaction refuses writes of a closure whose transaction is gone.
func (in *instance) checkTransaction() error {
	if t := in.scope().txn; t != nil && t.rolledBack {
		return expired()
	}
	return nil
}

func (in *instance) hostInTransaction(goja.FunctionCall) goja.Value {
	t := in.scope().txn
	return in.vm.ToValue(t != nil && t == in.txn)
}

// hostTransaction begins a transaction; the glue lets only one run at a time.
func (in *instance) hostTransaction(call goja.FunctionCall) goja.Value {
	fn, _ := goja.AssertFunction(call.Argument(0))
	promise, resolve, reject := in.iso.Promise()
	// An empty savepoint of the database's own makes it begin its transaction first.
	err := in.db().Savepoint(func() error { return nil })
	if err == nil {
		err = in.run(`SAVEPOINT agentd_transaction`)
	}
	if err != nil {
		in.throw(err)
	}
	t := &transaction{reject: reject}
	in.txn = t
	failed := func(reason goja.Value) {
		if in.txn == t {
			if err := in.rollback(t); err != nil {
				in.loop.Abort(err)
			}
		}
		reject(reason)
	}
	s := *in.scope()
	s.txn = t
	err = in.iso.WithAsyncContext(&s, func() error {
		v, err := fn(goja.Undefined(), call.Argument(1))
		if err != nil {
			return err
		}
		in.iso.Await(v, func(v goja.Value) {
			if in.txn != t {
				return // expired: already rejected
			}
			if err := in.finish(t); err != nil {
				reject(in.errorValue(err))
				return
			}
			resolve(v)
		}, failed)
		return nil
	})
	if err != nil {
		e := in.iso.Error(err)
		if e.Value == nil {
			panic(err)
		}
		failed(e.Value)
	}
	return promise
}

// finish keeps what the transaction wrote, unless rollback() was called.
func (in *instance) finish(t *transaction) error {
	if t.rolledBack {
		in.txn = nil
		return nil
	}
	in.txn = nil
	return in.run(`RELEASE agentd_transaction`)
}

// rollback takes back what the transaction wrote and forgets what is cached of it.
func (in *instance) rollback(t *transaction) error {
	in.txn = nil
	if t.rolledBack {
		return nil
	}
	t.rolledBack = true
	if err := in.run(`ROLLBACK TO agentd_transaction; RELEASE agentd_transaction`); err != nil {
		return err
	}
	return in.reload()
}

// hostRollback is txn.rollback(): the closure may go on and read, not write.
func (in *instance) hostRollback(goja.FunctionCall) goja.Value {
	t := in.txn
	if t == nil || t.rolledBack {
		return goja.Undefined()
	}
	err := in.rollback(t)
	in.txn = t // its end is still to come
	return in.must(goja.Undefined(), err)
}

// expireTransaction ends a transaction that is open when the turn's microtasks are
// drained: the turn's commit must not split it.
func (in *instance) expireTransaction() {
	t := in.txn
	if t == nil {
		return
	}
	if err := in.rollback(t); err != nil {
		in.loop.Abort(err)
		return
	}
	t.reject(in.errorValue(expired()))
}

// hostTransactionSync runs a function in a savepoint.
func (in *instance) hostTransactionSync(call goja.FunctionCall) goja.Value {
	fn, ok := goja.AssertFunction(call.Argument(0))
	if !ok {
		in.throw(invalid("", "transactionSync() needs a function"))
	}
	if err := in.checkTransaction(); err != nil {
		in.throw(err)
	}
	var out goja.Value
	var thrown error
	err := in.db().Savepoint(func() error {
		out, thrown = fn(goja.Undefined())
		return thrown
	})
	if err == nil {
		return out
	}
	if reloadErr := in.reload(); reloadErr != nil {
		in.throw(reloadErr)
	}
	if thrown == nil {
		in.throw(err)
	}
	if e := in.iso.Error(thrown); e.Value != nil {
		panic(e.Value)
	}
	panic(thrown)
}
