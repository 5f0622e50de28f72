package placement

import (
	"maps"
	"slices"
	"time"

	"agentd/pkg/agent"
)

// NamespaceLimits bounds what one tenant may use in the whole cluster. A field of
// 0 means: no limit but the nodes' own.
type NamespaceLimits struct {
	Agents         int64 `json:"agents,omitempty"`         // that exist
	Bytes          int64 `json:"bytes,omitempty"`          // of all databases together, one copy counted
	DatabaseBytes  int64 `json:"databaseBytes,omitempty"`  // of one agent's database
	CallsPerSecond int64 `json:"callsPerSecond,omitempty"` // taken by one node
}

// SetNamespace declares a namespace or changes its limits.
type SetNamespace struct {
	Name   string
	Limits NamespaceLimits
}

// DropNamespace forgets a namespace's limits. It is refused while the namespace
// has classes; its agents' data is not touched.
type DropNamespace struct {
	Name string
}

// Namespace is what was set for a namespace; one that was never declared has no
// limits of its own.
func (t *Table) Namespace(name string) (limits NamespaceLimits, declared bool) {
	limits, declared = t.namespaces[name]
	return limits, declared
}

// Namespaces are the names that are declared or have classes, sorted.
func (t *Table) Namespaces() []string {
	names := slices.AppendSeq(slices.Collect(maps.Keys(t.namespaces)), maps.Keys(t.classes))
	slices.Sort(names)
	return slices.Compact(names)
}

func (s *SetNamespace) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	const op = "set namespace"
	if err := agent.ValidateNamespace(s.Name); err != nil {
		return t, nil, err
	}
	if l := s.Limits; l.Agents < 0 || l.Bytes < 0 || l.DatabaseBytes < 0 || l.CallsPerSecond < 0 {
		return t, nil, refuse(op, agent.Invalid, "a limit of namespace %s is negative; use 0 for none", s.Name)
	}
	old, declared := t.namespaces[s.Name]
	if declared && old == s.Limits {
		return t, nil, nil
	}
	if !declared && len(t.namespaces) >= MaxNamespaces {
		return t, nil, refuse(op, agent.TooLarge, "there are %d namespaces already, and no more are allowed", len(t.namespaces))
	}
	next := t.clone()
	next.namespaces = maps.Clone(t.namespaces)
	if next.namespaces == nil {
		next.namespaces = map[string]NamespaceLimits{}
	}
	next.namespaces[s.Name] = s.Limits
	return next, nil, nil
}

func (d *DropNamespace) apply(t *Table, _ time.Time) (*Table, []ClassVersion, error) {
	if n := len(t.classes[d.Name]); n > 0 {
		return t, nil, refuse("drop namespace", agent.Conflict, "namespace %s still has %d classes", d.Name, n)
	}
	if _, declared := t.namespaces[d.Name]; !declared {
		return t, nil, nil // already gone
	}
	next := t.clone()
	next.namespaces = maps.Clone(t.namespaces)
	delete(next.namespaces, d.Name)
	return next, nil, nil
}
