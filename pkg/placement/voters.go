package placement

import (
	"cmp"
	"slices"
)

// Voters names the nodes that vote on the table itself, in the order of their
// joining: the first five, three or fewer, so that the number is odd where there
// is a choice. Nodes that are draining or out give way to others. The leader of the
// placement group adds and removes voters one at a time until they are these.
func Voters(t *Table) []string {
	rank := func(n Node) int {
		switch {
		case n.State == Joining:
			return 3
		case n.State == Out:
			return 2
		case n.Drain:
			return 1
		}
		return 0
	}
	all := t.Nodes()
	slices.SortStableFunc(all, func(a, b Node) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Joined, b.Joined))
	})
	known := len(all) - t.count(Joining)
	votes := min(known, 2)
	switch {
	case known >= 5:
		votes = 5
	case known >= 3:
		votes = 3
	}
	names := make([]string, 0, votes)
	for _, n := range all[:votes] {
		names = append(names, n.Name)
	}
	return names
}
