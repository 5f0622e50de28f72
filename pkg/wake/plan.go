package wake

import (
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// plan is what the scheduler knows: what runs, what waits for a place, and what
// must not be tried yet. It has no goroutine and no clock. The scheduler owns it.
type plan struct {
	cfg     Config
	queue   []storage.Entry        // due, in order, waiting for a place
	flying  map[agent.ID]*flight   // under way
	recent  map[agent.ID]success   // of the last moments
	failing map[agent.ID]*misfired // tried in vain
	places  int                    // free ones of cfg.Concurrency

	stale     bool      // the catalog may say something new
	truncated bool      // the last scan did not show everything that is due
	next      time.Time // when the catalog has something new by itself; zero for never
	sweep     time.Time // when to forget what is old
}

// flight is one wake under way.
type flight struct {
	wake storage.Wake
	slow bool // gave its place up
}

// success is a wake that was delivered.
type success struct {
	wake  storage.Wake
	ended time.Time
}

// misfired is an agent whose wakes fail.
type misfired struct {
	failures int       // in a row
	until    time.Time // not before
	mended   time.Time // when a wake succeeded at last; zero if none did
	logged   bool      // that it is due again after a success
}

func newPlan(cfg Config) *plan {
	return &plan{cfg: cfg, flying: make(map[agent.ID]*flight), recent: make(map[agent.ID]success),
		failing: make(map[agent.ID]*misfired), places: cfg.Concurrency, stale: true}
}

// limit is large enough that what may not be started now cannot hide what may.
func (p *plan) limit() int { return 4*p.cfg.Concurrency + len(p.flying) + len(p.failing) }

// mustScan says whether to ask the catalog now: not while the queue feeds all
// places, since whatever it says would have to wait.
func (p *plan) mustScan() bool { return p.stale && len(p.queue) == 0 && p.free() }

func (p *plan) free() bool { return p.places > 0 && len(p.flying) < p.cfg.MaxInFlight }

// take replaces the queue by what is due now and may be tried. It returns the
// entries that a successful wake did not move, each once per streak.
func (p *plan) take(now time.Time, due []storage.Entry, next time.Time, truncated bool) (stuck []storage.Entry) {
	p.stale, p.truncated, p.next = false, truncated, next
	p.queue = p.queue[:0]
	for _, e := range due {
		if p.flying[e.ID] != nil {
			continue
		}
		if last, ok := p.recent[e.ID]; ok && now.Sub(last.ended) < sameAgain && last.wake.Equal(e.Wake) {
			delete(p.recent, e.ID)
			p.punish(e.ID, now)
			if f := p.failing[e.ID]; !f.logged {
				f.logged = true
				stuck = append(stuck, e)
			}
		}
		if f := p.failing[e.ID]; f != nil && f.until.After(now) {
			p.wakeBefore(f.until)
			continue
		}
		p.queue = append(p.queue, e)
	}
	p.forget(now)
	return stuck
}

// forget drops what can no longer matter. It looks at everything, so it does so
// rarely.
func (p *plan) forget(now time.Time) {
	if now.Before(p.sweep) {
		return
	}
	p.sweep = now.Add(sameAgain)
	for id, last := range p.recent {
		if now.Sub(last.ended) >= sameAgain {
			delete(p.recent, id)
		}
	}
	for id, f := range p.failing {
		mended := !f.mended.IsZero() && now.Sub(f.mended) >= sameAgain
		gone := now.Sub(f.until) >= maxGap // not due any more, else it had been tried
		if mended || gone {
			delete(p.failing, id)
		}
	}
}

// pop gives the next entry to wake and a place for it.
func (p *plan) pop() (e storage.Entry, ok bool) {
	if len(p.queue) == 0 {
		if p.truncated {
			p.stale, p.truncated = true, false
		}
		return storage.Entry{}, false
	}
	if !p.free() {
		return storage.Entry{}, false
	}
	e = p.queue[0]
	p.queue = p.queue[1:]
	p.places--
	p.flying[e.ID] = &flight{wake: e.Wake}
	return e, true
}

// slow gives the place of a long wake to others.
func (p *plan) slow(id agent.ID) {
	if f := p.flying[id]; f != nil && !f.slow {
		f.slow = true
		p.places++
	}
}

// ended notes the outcome of a wake. gap is the pause before the next try; zero
// after success, and after a quarantine, which the catalog keeps from being due.
func (p *plan) ended(now time.Time, e event) (gap time.Duration) {
	f := p.flying[e.id]
	delete(p.flying, e.id)
	if !f.slow {
		p.places++
	}
	p.stale = true // see whether it is due again
	switch {
	case e.err == nil:
		p.recent[e.id] = success{wake: f.wake, ended: now}
		if past := p.failing[e.id]; past != nil {
			past.mended = now
		}
		return 0
	case agent.KindOf(e.err) == agent.Quarantined:
		// Should the catalog not know of it, it counts as not moved and cannot spin.
		delete(p.failing, e.id)
		p.recent[e.id] = success{wake: f.wake, ended: now}
		return 0
	}
	return p.punish(e.id, now)
}

// punish makes the agent wait: 2 s, 4 s, … 1 024 s, and up to a quarter more.
func (p *plan) punish(id agent.ID, now time.Time) (gap time.Duration) {
	f := p.failing[id]
	if f == nil {
		f = &misfired{}
		p.failing[id] = f
	}
	gap = maxGap
	if f.failures < 9 { // 2 s · 2^9 is maxGap
		gap = firstGap << f.failures
	}
	f.failures++
	gap += time.Duration(p.cfg.Rand() * jitter * float64(gap))
	f.until, f.mended = now.Add(gap), time.Time{}
	return gap
}

// failed plans the next question after the catalog failed.
func (p *plan) failed(now time.Time) {
	p.stale = false
	p.next = now.Add(catalogGap)
}

func (p *plan) wakeBefore(t time.Time) {
	if p.next.IsZero() || t.Before(p.next) {
		p.next = t
	}
}

// sleep is how long the scheduler may wait if nothing happens. It is never zero,
// so that a clock that stands still cannot make it spin.
func (p *plan) sleep(now time.Time) time.Duration {
	if p.next.IsZero() {
		return maxSleep
	}
	return min(max(p.next.Sub(now), time.Millisecond), maxSleep)
}
