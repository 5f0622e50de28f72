package governor

import (
	"fmt"
	"runtime/debug"
	"runtime/metrics"
	"time"

	"agentd/pkg/agent"
)

// heapMeter reads what the Go heap holds without stopping the world. It belongs to
// the watcher.
type heapMeter struct {
	sample [1]metrics.Sample
}

func (m *heapMeter) bytes() uint64 {
	m.sample[0].Name = "/memory/classes/heap/objects:bytes"
	metrics.Read(m.sample[:])
	return m.sample[0].Value.Uint64()
}

// checkMemory stops the turn that grows the heap when the heap is over its limit,
// and asks for idle memory before that.
func (g *Governor) checkMemory(now time.Time) {
	if g.cfg.MemoryLimit == 0 {
		return
	}
	g.giveBack()
	used := g.heap.bytes()
	if used > g.cfg.MemoryLimit/10*8 && g.cfg.OnPressure != nil && now.Sub(g.lastPressure) >= pressureEvery {
		g.lastPressure = now
		g.cfg.OnPressure()
	}
	if used <= g.cfg.MemoryLimit || now.Sub(g.lastVictim) < betweenVictims {
		return
	}
	victim, interrupt := g.pickGrower(used)
	if victim == nil {
		return
	}
	g.lastVictim, g.freeAfter = now, victim
	interrupt()
}

// pickGrower chooses the long turn whose thread took the most page faults since it
// became long: a heap that grows touches pages for the first time, and the thread
// that allocates is the one that touches them. Among equals the oldest goes.
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
	if victim == nil {
		return nil, nil
	}
	return victim, g.stopLocked(victim, agent.MemoryLimit, fmt.Sprintf(
		"the turn was stopped because it made the node's memory grow to %d MiB; the limit is %d MiB (--memory)",
		used>>20, g.cfg.MemoryLimit>>20))
}

// giveBack returns memory to the system once the stopped turn has ended. A
// collection of the whole heap is worth it here because gigabytes are at stake.
func (g *Governor) giveBack() {
	if g.freeAfter == nil {
		return
	}
	g.mu.Lock()
	_, running := g.mu.running[g.freeAfter]
	g.mu.Unlock()
	if !running {
		g.freeAfter = nil
		debug.FreeOSMemory()
	}
}
