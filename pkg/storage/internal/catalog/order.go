package catalog

import (
	"strings"

	"agentd/pkg/agent"
)

// order keeps nodes sorted: a treap whose links lie in the nodes, so that moving a
// node allocates nothing. What less compares must not change while a node is in.
// It belongs to its part's mutex.
type order struct {
	which int // the node's link that is this order's
	less  func(a, b *node) bool
	root  *node
	seed  uint32
}

const (
	byTime = iota // of agents in memory that have a wake: place, then ID
	byName        // of agents in memory that may have no row: ID
	orders
)

type link struct {
	left, right *node
	weight      uint32 // never above the parent's; 0: not in the order
}

func (o *order) has(n *node) bool { return n.links[o.which].weight != 0 }

func (o *order) insert(n *node) {
	// Xorshift: weights need not be unpredictable, only unrelated to the keys.
	if o.seed == 0 {
		o.seed = 2463534242
	}
	o.seed ^= o.seed << 13
	o.seed ^= o.seed >> 17
	o.seed ^= o.seed << 5
	n.links[o.which] = link{weight: o.seed}
	o.root = o.insertBelow(o.root, n)
}

func (o *order) insertBelow(t, n *node) *node {
	if t == nil {
		return n
	}
	l := &t.links[o.which]
	if own := &n.links[o.which]; own.weight > l.weight {
		own.left, own.right = o.split(t, n)
		return n
	}
	if o.less(n, t) {
		l.left = o.insertBelow(l.left, n)
	} else {
		l.right = o.insertBelow(l.right, n)
	}
	return t
}

// split divides t into what is before at and what is not.
func (o *order) split(t, at *node) (before, rest *node) {
	if t == nil {
		return nil, nil
	}
	l := &t.links[o.which]
	if o.less(t, at) {
		l.right, rest = o.split(l.right, at)
		return t, rest
	}
	before, l.left = o.split(l.left, at)
	return before, t
}

func (o *order) remove(n *node) {
	at := &o.root
	for *at != n {
		if o.less(n, *at) {
			at = &(*at).links[o.which].left
		} else {
			at = &(*at).links[o.which].right
		}
	}
	*at = o.merge(n.links[o.which].left, n.links[o.which].right)
	n.links[o.which] = link{}
}

func (o *order) merge(a, b *node) *node {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	if l := &a.links[o.which]; l.weight > b.links[o.which].weight {
		l.right = o.merge(l.right, b)
		return a
	}
	l := &b.links[o.which]
	l.left = o.merge(a, l.left)
	return b
}

// from gives, in order, the nodes for which before is false until yield returns
// false. before must be true for a beginning of the order only.
func (o *order) from(before, yield func(*node) bool) { o.walk(o.root, before, yield) }

func (o *order) walk(t *node, before, yield func(*node) bool) bool {
	if t == nil {
		return true
	}
	l := &t.links[o.which]
	if !before(t) && (!o.walk(l.left, before, yield) || !yield(t)) {
		return false
	}
	return o.walk(l.right, before, yield)
}

func compareIDs(a, b agent.ID) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	if c := strings.Compare(a.Class, b.Class); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}
