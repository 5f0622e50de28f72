package governor

import (
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"agentd/pkg/agent"
)

const (
	// collectPercent of the memory limit is where the collector begins to run all the
	// time; pressurePercent is where idle agents are sent to sleep.
	collectPercent  = 90
	pressurePercent = 80

	// someFaults is what a thread that only computes does not reach.
	someFaults = 32

	// A node that has nothing to do gives garbage back when its heap has grown by this
	// or a quarter, and not more often than this unless it has doubled.
	tidyEvery = time.Minute
	tidyBytes = 16 << 20

	// lazyGC is the collector's percentage while long turns run. A collection takes
	// processors from everybody; code that makes garbage in an endless loop would
	// otherwise cause several a second. The memory limit still holds.
	lazyGC = 400
)

// setLazy trades memory for calm while long turns run.
func (g *Governor) setLazy(on bool) {
	if on == g.lazy {
		return
	}
	g.lazy = on
	if on {
		g.gcPercent = debug.SetGCPercent(lazyGC)
	} else {
		debug.SetGCPercent(g.gcPercent)
	}
}

// heapMeter reads what the Go heap holds without stopping the world. It belongs to
// the watcher.
type heapMeter struct {
	sample [2]metrics.Sample
}

// read gives the bytes of all objects, dead ones not yet collected included, and
// of those that the last collection found alive.
func (m *heapMeter) read() (all, live uint64) {
	m.sample[0].Name = "/memory/classes/heap/objects:bytes"
	m.sample[1].Name = "/gc/heap/live:bytes"
	metrics.Read(m.sample[:])
	return m.sample[0].Value.Uint64(), m.sample[1].Value.Uint64()
}

// checkMemory stops the turn that grows the heap when the heap is over its limit,
// and asks for idle memory before that.
func (g *Governor) checkMemory(now time.Time) {
	if g.cfg.MemoryLimit == 0 {
		return
	}
	used, live := g.heap.read()
	if used > g.cfg.MemoryLimit/100*pressurePercent && g.cfg.OnPressure != nil && now.Sub(g.lastPressure) >= pressureEvery {
		g.lastPressure = now
		g.cfg.OnPressure()
	}
	// Near the limit the collector may merely lag behind garbage; that is given some
	// room as long as little was alive when it last looked.
	over := used > g.cfg.MemoryLimit && (live > g.cfg.MemoryLimit/2 || used > g.cfg.MemoryLimit/4*5)
	if !over || now.Sub(g.lastVictim) < betweenVictims {
		return
	}
	victim, interrupt := g.pickGrower(used)
	if victim == nil {
		return
	}
	g.lastVictim = now
	interrupt()
}

// pickGrower chooses the long turn whose thread took the most page faults since it
// became long: a heap that grows touches pages for the first time, and the thread
// that allocates is the one that touches them. While no thread stands out nobody is
// stopped, unless memory is far over its limit; then the oldest goes.
func (g *Governor) pickGrower(used uint64) (*Turn, func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var victim *Turn
	var most uint64
	for t := range g.mu.running {
		if !t.long || t.stopped {
			continue
		}
		grown := t.thread.pageFaults() - t.faults
		if victim == nil || grown > most || (grown == most && t.started.Before(victim.started)) {
			victim, most = t, grown
		}
	}
	if victim == nil || (most < someFaults && used < g.cfg.MemoryLimit/4*5) {
		return nil, nil
	}
	return victim, g.stopLocked(victim, agent.MemoryLimit, fmt.Sprintf(
		"the turn was stopped because it made the node's memory grow to %d MiB; the limit is %d MiB (--memory)",
		used>>20, g.cfg.MemoryLimit>>20))
}

// giveBack returns memory to the system once stopped turns have ended and their
// owners have had time to drop what they held. A collection of the whole heap is
// worth it here: what endless code leaves behind may be most of the memory, and
// nothing else would ask for it back soon.
func (g *Governor) giveBack(now time.Time) {
	if !g.owed {
		return
	}
	g.mu.Lock()
	for t := range g.mu.running {
		if t.stopped {
			g.lastStopped = now
		}
	}
	g.mu.Unlock()
	if now.Sub(g.lastStopped) < giveAfter {
		return
	}
	g.owed = false
	debug.FreeOSMemory()
}

// tidy is called when the node has had nothing to do for a while. The collector
// would wait for the heap to grow, which it does not now. How much of the heap is
// garbage is not known before; that it has grown since last time must do.
func (g *Governor) tidy(now time.Time) {
	all, _ := g.heap.read()
	soon := now.Sub(g.lastTidied) < tidyEvery && all < 2*g.tidied
	if soon || all < g.tidied+max(g.tidied/4, tidyBytes) {
		return
	}
	debug.FreeOSMemory()
	g.lastTidied = now
	g.tidied, _ = g.heap.read()
}
