package jsagent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/placement"
	"agentd/pkg/storage/reference"
)

// world is a real host over a real store, in fake time, with one bundle deployed.
type world struct {
	t       testing.TB
	dir     string
	cfg     Config
	module  *Module
	classes []Class
	store   *reference.Store
	host    *actor.Host
	log     logBuffer

	governor actor.Governor // nil: turns are not bounded
}

// logBuffer collects log lines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func wrap(src string) placement.Bundle {
	return placement.Bundle{Code: []byte("(function (exports, require, module) {" +
		`const { Agent, callable, getCurrentAgent, getAgentByName, SqlError } = require("agents");` +
		`const { DurableObject } = require("cloudflare:workers");` + src + "\n})")}
}

// inWorld runs fn in a bubble of fake time.
func inWorld(t *testing.T, src string, fn func(w *world)) {
	t.Helper()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir, src)
		defer w.close()
		fn(w)
	})
}

func newWorld(t testing.TB, dir, src string) *world {
	t.Helper()
	return deployed(t, dir, wrap(src))
}

// deployed is newWorld for a bundle that is whole.
func deployed(t testing.TB, dir string, bundle placement.Bundle) *world {
	t.Helper()
	module, classes, err := Load(t.Context(), bundle, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, module: module, classes: classes}
	for _, c := range classes {
		w.cfg.Bindings = append(w.cfg.Bindings, c.Name)
	}
	w.cfg.Env = map[string]json.RawMessage{"GREETING": json.RawMessage(`"hello"`)}
	w.cfg.Calls = CallerFunc(func(ctx context.Context, call agent.Call) (agent.Result, error) { return w.host.Call(ctx, call) })
	w.open()
	return w
}

func (w *world) open() {
	w.t.Helper()
	store, err := reference.Open(reference.Config{Dir: w.dir, Now: time.Now})
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = store
	w.host = actor.NewHost(actor.Config{Store: store, Classes: w, Now: time.Now, Governor: w.governor,
		Log: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
}

// Factory makes w the host's Classes.
func (w *world) Factory(id agent.ID) (actor.Factory, error) {
	for _, c := range w.classes {
		if c.Name == id.Class {
			return w.module.Factory(id.Class, w.cfg), nil
		}
	}
	return nil, &agent.Error{Op: "find class", Agent: id, Kind: agent.UnknownClass, Msg: "no such class"}
}

func (w *world) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := w.host.Close(ctx); err != nil {
		w.t.Error(err)
	}
	if err := w.store.Close(); err != nil {
		w.t.Error(err)
	}
}

// crash is the loss of the process: what is on disk now is all that a new one has.
func (w *world) crash() {
	w.t.Helper()
	dead := w.t.TempDir()
	if err := os.CopyFS(dead+"/data", os.DirFS(w.dir)); err != nil {
		w.t.Fatal(err)
	}
	w.close()
	w.dir = dead + "/data"
	w.open()
}

// restart is an orderly stop and start.
func (w *world) restart() {
	w.t.Helper()
	w.close()
	w.open()
}

func id(class string) agent.ID {
	class, name, ok := strings.Cut(class, "/")
	if !ok {
		name = "a"
	}
	return agent.ID{Namespace: agent.DefaultNamespace, Class: class, Name: name}
}

// try calls a method; target is Class or Class/name.
func (w *world) try(target, method string, args ...any) (string, error) {
	call := agent.Call{Agent: id(target), Method: method}
	for _, arg := range args {
		raw, err := json.Marshal(arg)
		if err != nil {
			w.t.Fatal(err)
		}
		call.Args = append(call.Args, raw)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	res, err := w.host.Call(ctx, call)
	return string(res.Value), err
}

func (w *world) call(target, method string, args ...any) string {
	w.t.Helper()
	out, err := w.try(target, method, args...)
	if err != nil {
		w.t.Fatalf("%s.%s: %v\n%s", target, method, err, stackOf(err))
	}
	return out
}

// expect is call with the JSON that must come back; "" is undefined.
func (w *world) expect(want, target, method string, args ...any) {
	w.t.Helper()
	if got := w.call(target, method, args...); got != want {
		w.t.Errorf("%s.%s = %s, want %s", target, method, got, want)
	}
}

// fails calls a method that must fail with the kind and a message that has the text.
func (w *world) fails(kind agent.Kind, text, target, method string, args ...any) *agent.Error {
	w.t.Helper()
	out, err := w.try(target, method, args...)
	if err == nil {
		w.t.Fatalf("%s.%s = %s, want an error of kind %v", target, method, out, kind)
	}
	var e *agent.Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(err.Error(), text) {
		w.t.Errorf("%s.%s fails with %v: %v\nwant %v: …%s…\n%s", target, method, agent.KindOf(err), err, kind, text, stackOf(err))
	}
	return e
}

func stackOf(err error) string {
	var e *agent.Error
	if errors.As(err, &e) {
		return e.Stack
	}
	return ""
}

func (w *world) platform(target, method, args string) (string, error) {
	call := agent.Call{Agent: id(target), Surface: agent.SurfacePlatform, Method: method, Args: []json.RawMessage{json.RawMessage(args)}}
	res, err := w.host.Call(context.Background(), call)
	return string(res.Value), err
}

// wakeAt is what the catalog has for an agent.
func (w *world) wakeAt(target string) (time.Time, bool) {
	w.t.Helper()
	e, err := w.store.Catalog().Get(context.Background(), id(target))
	if err != nil {
		w.t.Fatal(err)
	}
	return e.Wake.At, e.Wake.Resume
}

// wakeDue does what the platform does: it lets time pass and wakes what is due, for
// as long as d.
func (w *world) wakeDue(d time.Duration) (wakes int) {
	w.t.Helper()
	end := time.Now().Add(d)
	for {
		due, next, err := w.store.Catalog().Due(context.Background(), time.Now(), 100)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range due {
			wakes++
			if err := w.host.Wake(context.Background(), e.ID); err != nil {
				w.log.Write([]byte(fmt.Sprintf("wake failed: %v\n", err)))
			}
		}
		if len(due) > 0 {
			time.Sleep(time.Millisecond)
			continue
		}
		if next.IsZero() || next.After(end) {
			if left := time.Until(end); left > 0 {
				time.Sleep(left)
				continue
			}
			return wakes
		}
		time.Sleep(max(time.Until(next), time.Millisecond))
	}
}
