package apply

import (
	"errors"
	"fmt"

	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// Bounds of a batch in records, but for those of a single entry, and of what is kept
// for the next.
const (
	opsMax       = 16 << 10
	sparePlans   = 4096
	sparePatches = 1024
)

// worker applies the entries of its shards, batch by batch. All of it belongs to its
// goroutine, but for queue.
//
// A batch is what was queued while the last one was applied. Its commits are gathered
// in one plan for each agent, and the plans are then written one after the other.
type worker struct {
	applier *Applier
	queue   *queue
	shards  []*progress
	output  output

	batch   []item
	plans   map[agent.ID]*plan
	order   []*plan // the same, as they came
	spare   []*plan
	ops     []op // for the catalog, once the files are written
	reached []item
}

// op is a record on its way.
type op struct {
	shard *progress
	index uint64
	r     record.Record
	void  bool // it concerns an agent that does not exist
}

func newWorker(a *Applier, queueBytes int64) *worker {
	return &worker{applier: a, queue: newQueue(queueBytes, a.config.Linger, &a.hurry), output: output{counters: &a.counters}, plans: make(map[agent.ID]*plan)}
}

// work runs until the queue is closed and empty, or something fails.
func (w *worker) work() {
	for {
		w.batch = w.queue.take(w.batch[:0])
		if len(w.batch) == 0 {
			return
		}
		err := w.run()
		w.queue.done(w.batch)
		clear(w.batch)
		switch {
		case err == nil:
		case errors.Is(err, errAbandoned):
			w.applier.end(&agent.Error{Op: "apply entry", Kind: agent.StorageFull, Err: err,
				Msg: "not all entries were applied; the log has them, and the next start applies them"})
			return
		default:
			w.applier.fail(err)
			return
		}
	}
}

func (w *worker) run() error {
	for i := range w.batch {
		it := &w.batch[i]
		if it.cut == nil {
			if err := w.entry(it); err != nil {
				return err
			}
			continue
		}
		if err := w.settle(); err != nil {
			return err
		}
		it.cut <- w.cut()
	}
	return w.settle()
}

// entry takes an entry into the batch: all of it or, if a record is bad, nothing, so
// that the shard stops at an index.
func (w *worker) entry(it *item) error {
	if it.shard.damaged() != nil {
		return nil
	}
	mark := len(w.ops)
	err := w.check(it)
	var bad *damage
	if errors.As(err, &bad) {
		clear(w.ops[mark:])
		w.ops = w.ops[:mark]
		if err := w.settle(); err != nil { // what came before counts when the damage is known
			return err
		}
		w.stop(it, bad.error)
		return nil
	}
	if err != nil {
		return err
	}
	for i := range w.ops[mark:] {
		if err := w.gather(&w.ops[mark+i]); err != nil {
			return err
		}
	}
	w.reached = append(w.reached, item{shard: it.shard, index: it.index})
	w.applier.counters.entries.Add(1)
	w.applier.counters.records.Add(uint64(len(w.ops) - mark))
	if len(w.ops) < opsMax {
		return nil
	}
	return w.settle()
}

// damage is why a shard is stopped; other errors end the applier.
type damage struct{ error }

func (d *damage) Unwrap() error { return d.error }

// check decodes an entry into ops and proves that every record follows what its agent
// has reached.
func (w *worker) check(it *item) error {
	for rest := it.entry; len(rest) > 0; {
		var o op
		var err error
		if o.r, rest, err = record.Decode(rest); err != nil {
			return &damage{err}
		}
		o.shard, o.index = it.shard, it.index
		if err := w.checkRecord(&o); err != nil {
			return err
		}
		w.ops = append(w.ops, o)
	}
	return nil
}

func (w *worker) checkRecord(o *op) error {
	id := o.r.Agent
	if of := w.applier.config.ShardOf; of != nil && of(id) != o.shard.number {
		return &damage{fmt.Errorf("a record of agent %s, which belongs to shard %d", id.Key(), of(id))}
	}
	p, err := w.plan(id)
	if err != nil {
		return err
	}
	if o.r.Kind == record.Quarantine {
		o.void = p.seq == 0 // deleted, while the quarantine was on its way
		return nil
	}
	if !o.shard.follows(id, p.seq, o.r.Base) {
		return &damage{fmt.Errorf("a record of agent %s follows its commit %d, but %d was reached", id.Key(), o.r.Base, p.seq)}
	}
	if err := o.r.Delta.Validate(o.r.Pages); err != nil {
		return &damage{fmt.Errorf("commit %d of agent %s: %w", o.r.Seq, id.Key(), err)}
	}
	p.seq = o.r.Seq
	return nil
}

// plan is the agent's in this batch.
func (w *worker) plan(id agent.ID) (*plan, error) {
	if p := w.plans[id]; p != nil {
		return p, nil
	}
	seq, err := w.applier.config.Catalog.Seq(id)
	if err != nil {
		return nil, err
	}
	p := &plan{}
	if n := len(w.spare); n > 0 {
		p, w.spare = w.spare[n-1], w.spare[:n-1]
	}
	p.id, p.seq = id, seq
	w.plans[id], w.order = p, append(w.order, p)
	return p, nil
}

// stop ends a shard at the entry before.
func (w *worker) stop(it *item, cause error) {
	a := w.applier
	err := &agent.Error{Op: "apply entry", Kind: agent.Corrupt, Err: cause,
		Msg: fmt.Sprintf("shard %d stopped before entry %d of its log, which does not fit: its agents are not served by this node until its copy is restored from another node or a backup", it.shard.number, it.index)}
	if errors.Is(cause, record.ErrVersion) || errors.Is(cause, record.ErrKind) {
		err.Msg = fmt.Sprintf("shard %d stopped before entry %d of its log, which a newer agentd wrote: upgrade this node", it.shard.number, it.index)
	}
	it.shard.stop(err)
	a.agents.all()
	a.log.Error("a shard is out of service", "shard", it.shard.number, "index", it.index, "error", err)
}

// gather brings a checked record into its agent's plan.
func (w *worker) gather(o *op) error {
	p := w.plans[o.r.Agent]
	switch o.r.Kind {
	case record.Commit:
		if !p.fits(&o.r) {
			if err := w.write(p); err != nil {
				return err
			}
		}
		return p.add(&o.r)
	case record.Delete:
		p.drop()
		return w.applier.persist(func() error { return w.applier.config.Files.remove(p.id) })
	}
	return nil
}

// write brings an agent's file to what its plan says, and says so.
func (w *worker) write(p *plan) error {
	if !p.dirty {
		return nil
	}
	var h *Handle
	err := w.applier.persist(func() (err error) {
		if h == nil {
			if h, err = w.applier.config.Files.Acquire(p.id); err != nil {
				return err
			}
		}
		return p.write(h, &w.output)
	})
	if h != nil {
		defer h.Release()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", w.applier.config.Files.Path(p.id), err)
	}
	w.applier.config.Applied(p.id, p.last, h.FD())
	p.drop()
	return nil
}

// settle completes the batch: files first, then the catalog, then those who wait.
func (w *worker) settle() error {
	for _, p := range w.order {
		if err := w.write(p); err != nil {
			return err
		}
	}
	for i := range w.ops {
		if err := w.note(&w.ops[i]); err != nil {
			return err
		}
	}
	for _, it := range w.reached {
		it.shard.advance(it.index)
	}
	for _, p := range w.order {
		w.applier.agents.come(p.id)
	}
	for i := range w.ops {
		if o := &w.ops[i]; o.r.Kind != record.Commit {
			w.applier.config.Done(o.r.Agent)
		}
	}
	w.reset()
	return nil
}

// note brings a record into the catalog.
func (w *worker) note(o *op) error {
	switch {
	case o.void:
		return nil
	case o.r.Kind == record.Delete:
		return w.applier.config.Catalog.Delete(o.shard.number, o.index, o.r.Agent)
	}
	return w.applier.config.Catalog.Commit(o.shard.number, o.index, &o.r)
}

// reset makes the worker ready for the next batch, and keeps no more memory than a
// usual batch needs.
func (w *worker) reset() {
	for _, p := range w.order {
		p.drop()
		if len(w.spare) < sparePlans {
			if cap(p.patches) > sparePatches {
				p.patches = nil
			}
			p.id = agent.ID{}
			w.spare = append(w.spare, p)
		}
	}
	clear(w.plans)
	clear(w.order)
	clear(w.ops)
	w.order, w.ops, w.reached = w.order[:0], w.ops[:0], w.reached[:0]
	if cap(w.ops) > 2*opsMax {
		w.ops, w.order, w.plans = nil, nil, make(map[agent.ID]*plan)
	}
}
