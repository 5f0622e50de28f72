package actor

import (
	"sync"
	"time"

	"agentd/pkg/agent"
)

// dossiers remembers the troubles of agents, so that a quarantined one costs its
// callers a map lookup. The catalog is the truth about quarantines; all else may
// be forgotten, and is when there are too many.
type dossiers struct {
	window time.Duration

	// mu guards what follows; nothing else is called under it.
	mu  sync.Mutex
	all map[agent.ID]*dossier
}

// dossier is what is remembered of one agent.
type dossier struct {
	resets     []time.Time // within the window
	lastReset  string
	failure    string // of the last activation
	quarantine string
}

func newDossiers(window time.Duration) *dossiers {
	return &dossiers{window: window, all: make(map[agent.ID]*dossier)}
}

// update changes an agent's dossier and drops it when nothing is left in it.
func (d *dossiers) update(id agent.ID, change func(*dossier)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	one, ok := d.all[id]
	if !ok {
		one = &dossier{}
	}
	change(one)
	if one.failure == "" && one.quarantine == "" && one.lastReset == "" {
		delete(d.all, id)
		return
	}
	if !ok {
		d.makeRoomLocked()
		d.all[id] = one
	}
}

// makeRoomLocked forgets some agent, rather one that is not quarantined.
func (d *dossiers) makeRoomLocked() {
	if len(d.all) < maxDossiers {
		return
	}
	var victim agent.ID
	tries := 0
	for id, one := range d.all { // in random order
		victim = id
		if tries++; one.quarantine == "" || tries == 16 {
			break
		}
	}
	delete(d.all, victim)
}

// addReset counts a reset; n is how many there are in the window.
func (d *dossiers) addReset(id agent.ID, at time.Time, why string, counted bool) (n int) {
	d.update(id, func(one *dossier) {
		one.lastReset = why
		one.trim(at, d.window)
		if counted {
			one.resets = append(one.resets, at)
		}
		n = len(one.resets)
	})
	return n
}

func (one *dossier) trim(now time.Time, window time.Duration) {
	for len(one.resets) > 0 && now.Sub(one.resets[0]) >= window {
		one.resets = one.resets[1:]
	}
}

func (d *dossiers) setFailure(id agent.ID, why string) {
	d.mu.Lock()
	_, ok := d.all[id]
	d.mu.Unlock()
	if ok || why != "" { // the common case changes nothing
		d.update(id, func(one *dossier) { one.failure = why })
	}
}

func (d *dossiers) setQuarantine(id agent.ID, reason string) {
	d.update(id, func(one *dossier) { one.quarantine = reason })
}

func (d *dossiers) forget(id agent.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.all, id)
}

// quarantine is the reason, or "" when none is remembered.
func (d *dossiers) quarantine(id agent.ID) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if one := d.all[id]; one != nil {
		return one.quarantine
	}
	return ""
}

// get is a copy for Describe.
func (d *dossiers) get(id agent.ID, now time.Time) (one dossier, resets int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if found := d.all[id]; found != nil {
		found.trim(now, d.window)
		one, resets = *found, len(found.resets)
	}
	return one, resets
}
