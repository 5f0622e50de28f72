package actor

import "agentd/pkg/agent"

// roster is the actors of a host in the order of their last use. Host.mu guards
// it, and the links in the actors.
type roster struct {
	actors         map[agent.ID]*actor
	newest, oldest *actor
}

func (r *roster) len() int { return len(r.actors) }

// use finds an actor and makes it the newest; nil if there is none.
func (r *roster) use(id agent.ID) *actor {
	a := r.actors[id]
	if a != nil && a != r.newest {
		r.unlink(a)
		r.link(a)
	}
	return a
}

func (r *roster) add(a *actor) {
	r.actors[a.id] = a
	r.link(a)
}

func (r *roster) remove(a *actor) {
	delete(r.actors, a.id)
	r.unlink(a)
}

func (r *roster) all() []*actor {
	all := make([]*actor, 0, len(r.actors))
	for a := r.newest; a != nil; a = a.older {
		all = append(all, a)
	}
	return all
}

func (r *roster) link(a *actor) {
	a.older, a.newer = r.newest, nil
	if r.newest == nil {
		r.oldest = a
	} else {
		r.newest.newer = a
	}
	r.newest = a
}

func (r *roster) unlink(a *actor) {
	if a.newer == nil {
		r.newest = a.older
	} else {
		a.newer.older = a.older
	}
	if a.older == nil {
		r.oldest = a.newer
	} else {
		a.older.newer = a.newer
	}
	a.newer, a.older = nil, nil
}
