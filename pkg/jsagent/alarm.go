package jsagent

import (
	"math"
	"time"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// An alarm whose handler fails is tried again after 2 s, 4 s, … and given up after
// this many further tries.
const (
	maxAlarmRetries = 6
	alarmBackoff    = 2 * time.Second
)

const (
	createAlarm = `CREATE TABLE IF NOT EXISTS agentd_alarm (id INTEGER PRIMARY KEY CHECK (id = 1), at INTEGER NOT NULL, retry_at INTEGER NOT NULL, failures INTEGER NOT NULL)`
	loadAlarm   = `SELECT at, retry_at, failures FROM agentd_alarm`
	saveAlarm   = `INSERT OR REPLACE INTO agentd_alarm (id, at, retry_at, failures) VALUES (1, ?, ?, ?)`
	clearAlarm  = `DELETE FROM agentd_alarm`
)

// alarm is the one alarm that the agent's code may set, as it is stored. While its
// handler runs it looks deleted to the code, and stays stored until success.
type alarm struct {
	at       time.Time // zero for none
	retryAt  time.Time // not before; zero unless the handler failed
	failures int
	running  bool // the handler for this alarm runs
}

// next is when the platform must wake the agent for it.
func (a alarm) next() time.Time {
	if a.retryAt.After(a.at) {
		return a.retryAt
	}
	return a.at
}

var alarmFuncs = map[string]hostFunc{
	"getAlarm":    (*instance).hostGetAlarm,
	"setAlarm":    (*instance).hostSetAlarm,
	"deleteAlarm": (*instance).hostDeleteAlarm,
}

func (in *instance) readAlarm() error {
	running := in.alarm.running
	in.alarm = alarm{}
	if !in.tables["agentd_alarm"] {
		return nil
	}
	rows, err := in.db().Query(loadAlarm)
	if err != nil {
		return err
	}
	_, err = rows.Each(func(row []storage.Value) error {
		at, _ := row[0].(int64)
		retry, _ := row[1].(int64)
		failures, _ := row[2].(int64)
		in.alarm = alarm{at: time.UnixMilli(at), failures: int(failures), running: running}
		if retry > 0 {
			in.alarm.retryAt = time.UnixMilli(retry)
		}
		return nil
	})
	return err
}

func (in *instance) storeAlarm(a alarm) error {
	if a.at.IsZero() {
		if in.alarm.at.IsZero() {
			return nil
		}
		in.alarm = a
		return in.run(clearAlarm)
	}
	if err := in.ensure("agentd_alarm", createAlarm); err != nil {
		return err
	}
	var retry int64
	if !a.retryAt.IsZero() {
		retry = a.retryAt.UnixMilli()
	}
	if err := in.run(saveAlarm, a.at.UnixMilli(), retry, int64(a.failures)); err != nil {
		return err
	}
	in.alarm = a
	return nil
}

func (in *instance) hostGetAlarm(goja.FunctionCall) goja.Value {
	if in.alarm.at.IsZero() || in.alarm.running {
		return goja.Null()
	}
	return in.vm.ToValue(in.alarm.at.UnixMilli())
}

// hostSetAlarm replaces the alarm; a time in the past is now.
func (in *instance) hostSetAlarm(call goja.FunctionCall) goja.Value {
	if err := in.checkTransaction(); err != nil {
		in.throw(err)
	}
	if _, ok := goja.AssertFunction(in.self.object.Get("alarm")); !ok {
		in.throw(invalid("", "setAlarm(): class %s has no alarm() method to be called", in.class))
	}
	ms := call.Argument(0).ToNumber().ToFloat()
	if !(ms > 0) || ms > math.MaxInt64/1e6 {
		in.throw(invalid("", "setAlarm() needs a Date or a number of milliseconds since 1970, not %s", call.Argument(0)))
	}
	at := time.UnixMilli(int64(ms))
	if now := in.loop.Now(); at.Before(now) {
		at = time.UnixMilli(now.UnixMilli())
	}
	return in.must(goja.Undefined(), in.storeAlarm(alarm{at: at}))
}

// hostDeleteAlarm also forgets the alarm whose handler runs: it is not tried again.
func (in *instance) hostDeleteAlarm(goja.FunctionCall) goja.Value {
	if err := in.checkTransaction(); err != nil {
		in.throw(err)
	}
	return in.must(goja.Undefined(), in.storeAlarm(alarm{}))
}

// runAlarm runs the handler of a due alarm. The alarm goes only on success; a
// handler that set another one keeps that.
func (in *instance) runAlarm(done func(error)) {
	if due := in.alarm.next(); due.IsZero() || due.After(in.loop.Now()) || in.ending {
		done(nil)
		return
	}
	in.alarm.running = true
	in.handle("alarm", func(err error) {
		done(in.afterAlarm(err))
	}, func() (goja.Value, error) {
		fn, ok := goja.AssertFunction(in.self.object.Get("alarm"))
		if !ok {
			in.event("alarm:error", "error", "the class has no alarm() method any more; the alarm is dropped")
			return goja.Undefined(), nil
		}
		info := in.vm.NewObject()
		if err := info.Set("retryCount", in.alarm.failures); err != nil {
			return nil, err
		}
		if err := info.Set("isRetry", in.alarm.failures > 0); err != nil {
			return nil, err
		}
		return fn(in.self.object, info)
	})
}

// afterAlarm settles the alarm whose handler ended with err.
func (in *instance) afterAlarm(err error) error {
	if !in.alarm.running { // replaced or deleted by the handler
		return err
	}
	if err == nil {
		return in.storeAlarm(alarm{})
	}
	failed := in.alarm
	failed.running = false
	failed.failures++
	if failed.failures > maxAlarmRetries {
		in.event("alarm:failed", "error", err.Error(), "attempts", failed.failures)
		return in.storeAlarm(alarm{})
	}
	failed.retryAt = in.loop.Now().Add(alarmBackoff << (failed.failures - 1))
	if storeErr := in.storeAlarm(failed); storeErr != nil {
		return &agent.Error{Op: "alarm", Agent: in.id(), Kind: agent.KindOf(storeErr), Err: storeErr}
	}
	return err
}
