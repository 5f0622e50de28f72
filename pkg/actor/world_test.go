package actor

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// disk is a storage.Store in memory whose commits settle when the test says so.
// It knows two statements, "set" and "get", each with a key.
type disk struct {
	mu      sync.Mutex
	agents  map[agent.ID]*file
	manual  bool  // tickets wait for settle
	refuse  error // of the next Commit
	openErr error
	opened  []agent.ID
	deleted []agent.ID
	open    []*storage.Ticket
}

type file struct {
	data       map[string]any
	seq        uint64
	wake       storage.Wake
	inUse      bool
	quarantine string
	last       *storage.Ticket
}

func newDisk() *disk { return &disk{agents: make(map[agent.ID]*file)} }

func (d *disk) at(id agent.ID) *file {
	f := d.agents[id]
	if f == nil {
		f = &file{data: make(map[string]any), last: storage.NewTicket(0)}
		f.last.Settle(nil)
		d.agents[id] = f
	}
	return f
}

func (d *disk) Open(_ context.Context, id agent.ID) (storage.DB, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.opened = append(d.opened, id)
	if d.openErr != nil {
		return nil, d.openErr
	}
	f := d.at(id)
	if f.inUse {
		return nil, &agent.Error{Op: "open", Agent: id, Kind: agent.InUse}
	}
	f.inUse = true
	return &handle{disk: d, file: f, dirty: map[string]any{}}, nil
}

func (d *disk) Delete(_ context.Context, id agent.ID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if f := d.agents[id]; f != nil && f.inUse {
		return &agent.Error{Op: "delete", Agent: id, Kind: agent.InUse}
	}
	delete(d.agents, id)
	d.deleted = append(d.deleted, id)
	return nil
}

func (d *disk) Catalog() storage.Catalog { return (*shelf)(d) }
func (d *disk) Failed() <-chan struct{}  { return nil }
func (d *disk) Err() error               { return nil }
func (d *disk) Close() error             { return nil }

// settle decides the oldest n open commits.
func (d *disk) settle(n int, err error) {
	d.mu.Lock()
	due := d.open[:n]
	d.open = d.open[n:]
	d.mu.Unlock()
	for _, t := range due {
		t.Settle(err)
	}
}

func (d *disk) set(change func(*disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *disk) value(id agent.ID, key string) any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at(id).data[key]
}

// shelf is the catalog side of a disk.
type shelf disk

func (s *shelf) Get(_ context.Context, id agent.ID) (storage.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.agents[id]
	if f == nil || (f.seq == 0 && f.quarantine == "") {
		return storage.Entry{}, &agent.Error{Op: "look up", Agent: id, Kind: agent.NotFound}
	}
	return storage.Entry{ID: id, Seq: f.seq, Wake: f.wake, Quarantine: f.quarantine, Live: f.inUse}, nil
}

func (s *shelf) SetQuarantine(_ context.Context, id agent.ID, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	(*disk)(s).at(id).quarantine = reason
	return nil
}

func (s *shelf) List(context.Context, string, string, agent.ID, int) ([]storage.Entry, error) {
	return nil, nil
}
func (s *shelf) Due(context.Context, time.Time, int) ([]storage.Entry, time.Time, error) {
	return nil, time.Time{}, nil
}
func (s *shelf) Changed() <-chan struct{}           { return nil }
func (s *shelf) Count(context.Context) (int, error) { return len(s.agents), nil }

// handle is a storage.DB on a disk.
type handle struct {
	disk   *disk
	file   *file
	dirty  map[string]any
	closed bool
}

func (h *handle) Query(query string, args ...storage.Value) (*storage.Rows, error) {
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	if h.closed {
		panic("a closed database is used")
	}
	rows := &storage.Rows{NextFunc: func([]storage.Value) error { return io.EOF }, CloseFunc: func() error { return nil },
		Changes: func() int64 { return 1 }}
	key := args[0].(string)
	switch query {
	case "set":
		h.dirty[key] = args[1]
	case "get":
		value, ok := h.dirty[key]
		if !ok {
			value = h.file.data[key]
		}
		done := false
		rows.Columns = []string{"value"}
		rows.NextFunc = func(dst []storage.Value) error {
			if done {
				return io.EOF
			}
			done, dst[0] = true, value
			return nil
		}
	default:
		return nil, fmt.Errorf("the disk does not know %q", query)
	}
	return rows, nil
}

func (h *handle) UserQuery(q string, args ...storage.Value) (*storage.Rows, error) {
	return h.Query(q, args...)
}
func (h *handle) ReadQuery(q string, args ...storage.Value) (*storage.Rows, error) {
	return h.Query(q, args...)
}
func (h *handle) Savepoint(fn func() error) error { return fn() }

func (h *handle) Commit(wake storage.Wake) (*storage.Ticket, error) {
	d := h.disk
	d.mu.Lock()
	defer d.mu.Unlock()
	if h.closed {
		panic("a closed database is committed")
	}
	if err := d.refuse; err != nil && len(h.dirty) > 0 {
		clear(h.dirty)
		return nil, err
	}
	if len(h.dirty) == 0 && wake.Equal(h.file.wake) {
		return h.file.last, nil
	}
	for k, v := range h.dirty {
		h.file.data[k] = v
	}
	clear(h.dirty)
	h.file.seq++
	h.file.wake = wake
	h.file.last = storage.NewTicket(h.file.seq)
	if d.manual {
		d.open = append(d.open, h.file.last)
	} else {
		h.file.last.Settle(nil)
	}
	return h.file.last, nil
}

func (h *handle) Rollback() error    { clear(h.dirty); return nil }
func (h *handle) Wake() storage.Wake { return h.file.wake }
func (h *handle) SizeBytes() int64   { return 0 }
func (h *handle) Interrupt()         {}

func (h *handle) Close() error {
	_ = h.file.last.Wait()
	h.disk.mu.Lock()
	defer h.disk.mu.Unlock()
	h.closed = true
	h.file.inUse = false
	return nil
}

// play is a Behavior whose methods the test wrote.
type play struct {
	Loop
	w         *world
	wakeAt    storage.Wake
	busy      bool
	closed    bool
	interrupt chan error // buffer of one
}

type method func(p *play, call agent.Call, cancelled <-chan struct{}, reply func(agent.Result, error))

// world is a host over a disk with one class, Play.
type world struct {
	t       *testing.T
	host    *Host
	disk    *disk
	mu      sync.Mutex
	methods map[string]method
	build   func(p *play) error // in the factory
	start   func(p *play, done func(error))
	wake    func(p *play, done func(error))
	made    int // instances
	looked  int // times the class was asked for
	events  []Event
}

func newWorld(t *testing.T, change func(*Config)) *world {
	w := &world{t: t, disk: newDisk(), methods: map[string]method{}}
	w.methods["echo"] = func(_ *play, call agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		reply(agent.Result{Value: []byte(`"` + call.Method + `"`)}, nil)
	}
	w.methods["set"] = func(p *play, call agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		p.set("x", string(call.Args[0]))
		reply(agent.Result{Value: []byte("1")}, nil)
	}
	w.methods["get"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		v, _ := p.get("x").(string)
		reply(agent.Result{Value: []byte(v)}, nil)
	}
	w.methods["spin"] = func(p *play, _ agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
		p.set("x", "spun")
		reply(agent.Result{}, <-p.interrupt)
	}
	w.methods["panic"] = func(p *play, _ agent.Call, _ <-chan struct{}, _ func(agent.Result, error)) {
		p.set("x", "panicked")
		panic("boom")
	}
	cfg := Config{Store: w.disk, Classes: w, Events: w.note}
	if change != nil {
		change(&cfg)
	}
	w.host = NewHost(cfg)
	return w
}

func (w *world) note(e Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, e)
}

func (w *world) count(kind EventKind) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

func (w *world) instances() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.made
}

// Factory implements Classes.
func (w *world) Factory(id agent.ID) (Factory, error) {
	w.mu.Lock()
	w.looked++
	w.mu.Unlock()
	if id.Class != "Play" {
		return nil, &agent.Error{Op: "activate", Agent: id, Kind: agent.UnknownClass}
	}
	return func(l Loop) (Behavior, error) {
		w.mu.Lock()
		w.made++
		w.mu.Unlock()
		p := &play{Loop: l, w: w, interrupt: make(chan error, 1)}
		if w.build != nil {
			return p, w.build(p)
		}
		return p, nil
	}, nil
}

func (p *play) check() {
	if p.closed {
		panic("a closed behavior is used")
	}
}

func (p *play) Start(done func(error)) {
	if p.w.start != nil {
		p.w.start(p, done)
		return
	}
	done(nil)
}

func (p *play) Call(call agent.Call, cancelled <-chan struct{}, reply func(agent.Result, error)) {
	p.check()
	p.w.methods[call.Method](p, call, cancelled, reply)
}

func (p *play) Wake(done func(error)) {
	p.check()
	if p.w.wake != nil {
		p.w.wake(p, done)
		return
	}
	done(nil)
}

func (p *play) NextWake() storage.Wake { p.check(); return p.wakeAt }
func (p *play) Busy() bool             { p.check(); return p.busy }

func (p *play) Interrupt(cause error) {
	select {
	case p.interrupt <- cause:
	default:
	}
}

func (p *play) Close() { p.check(); p.closed = true }

func (p *play) set(key string, value any) {
	rows, err := p.DB().Query("set", key, value)
	if err != nil {
		panic(err)
	}
	rows.Close()
}

func (p *play) get(key string) any {
	rows, err := p.DB().Query("get", key)
	if err != nil {
		panic(err)
	}
	defer rows.Close()
	var row [1]storage.Value
	if err := rows.Next(row[:]); err != nil {
		panic(err)
	}
	return row[0]
}

func id(name string) agent.ID { return agent.ID{Namespace: "default", Class: "Play", Name: name} }

func call(name, method string, args ...string) agent.Call {
	c := agent.Call{Agent: id(name), Method: method}
	for _, a := range args {
		c.Args = append(c.Args, []byte(a))
	}
	return c
}

// answer is a call in another goroutine.
type answer struct {
	agent.Result
	err  error
	done chan struct{}
}

func (w *world) goCall(ctx context.Context, c agent.Call) *answer {
	a := &answer{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.Result, a.err = w.host.Call(ctx, c)
	}()
	return a
}

func (a *answer) pending() bool {
	select {
	case <-a.done:
		return false
	default:
		return true
	}
}

// must returns the value of a call that has to succeed.
func (w *world) must(c agent.Call) string {
	w.t.Helper()
	r, err := w.host.Call(w.t.Context(), c)
	if err != nil {
		w.t.Fatalf("%s: %v", c.Method, err)
	}
	return string(r.Value)
}

func wantKind(t *testing.T, err error, kind agent.Kind) {
	t.Helper()
	if err == nil || agent.KindOf(err) != kind {
		t.Fatalf("got error %v, want kind %s", err, kind)
	}
}

// close ends the host and fails the test if something does not end.
func (w *world) close() {
	w.t.Helper()
	if err := w.host.Close(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	if n := w.host.Live(); n != 0 {
		w.t.Fatalf("%d actors after Close", n)
	}
}
