package placement

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"agentd/pkg/agent"
)

// Table is one state of what the cluster agrees on. It is immutable: Apply gives
// the next one, so readers need no lock. The zero Table is not valid; see NewTable.
type Table struct {
	shards  []string                             // owner node of each shard
	classes map[string]map[string][]ClassVersion // namespace → class → versions, oldest first
}

// Command is one change. Exactly one of its parts is set. At is the time at which
// it was proposed; the table never reads a clock.
type Command struct {
	At       time.Time
	Deploy   *Deploy   `json:",omitempty"`
	Rollback *Rollback `json:",omitempty"`
}

// Deploy makes a bundle the newest version of each of its classes.
type Deploy struct {
	Namespace string
	Bundle    string // Bundle.Hash
	Classes   []DeployedClass
}

// DeployedClass is a class that was found in a bundle.
type DeployedClass struct {
	Name    string
	Methods []string
}

// Rollback makes an older version of a class its newest again.
type Rollback struct {
	Namespace string
	Class     string
	Version   uint64
}

// NewTable is the table of a new cluster: every shard belongs to the given node.
func NewTable(shards int, node string) *Table {
	t := &Table{shards: make([]string, shards), classes: map[string]map[string][]ClassVersion{}}
	for i := range t.shards {
		t.shards[i] = node
	}
	return t
}

// Apply returns the table after cmd and the versions that cmd made or confirmed.
// A command that cannot be applied changes nothing; its error has kind Invalid,
// NotFound or UnknownClass.
func (t *Table) Apply(cmd Command) (*Table, []ClassVersion, error) {
	switch {
	case cmd.Deploy != nil:
		return t.deploy(cmd.At, cmd.Deploy)
	case cmd.Rollback != nil:
		return t.rollback(cmd.At, cmd.Rollback)
	}
	return t, nil, &agent.Error{Op: "apply placement command", Kind: agent.Invalid, Msg: "the command is empty"}
}

func (t *Table) deploy(at time.Time, d *Deploy) (*Table, []ClassVersion, error) {
	if err := d.validate(); err != nil {
		return t, nil, err
	}
	next := t.clone(d.Namespace)
	made := make([]ClassVersion, 0, len(d.Classes))
	for _, c := range d.Classes {
		versions := next.classes[d.Namespace][c.Name]
		if n := len(versions); n > 0 && versions[n-1].Bundle == d.Bundle {
			made = append(made, versions[n-1]) // the same code again: nothing to do
			continue
		}
		v := ClassVersion{Namespace: d.Namespace, Class: c.Name, Bundle: d.Bundle, Methods: c.Methods, DeployedAt: at}
		made = append(made, next.add(v))
	}
	return next, made, nil
}

func (d *Deploy) validate() error {
	if err := agent.ValidateNamespace(d.Namespace); err != nil {
		return err
	}
	if n := len(d.Classes); n == 0 || n > MaxClassesPerBundle {
		return &agent.Error{Op: "deploy", Kind: agent.Invalid,
			Msg: fmt.Sprintf("a bundle must hold 1 to %d classes, this one holds %d", MaxClassesPerBundle, n)}
	}
	for _, c := range d.Classes {
		if err := agent.ValidateClass(c.Name); err != nil {
			return err
		}
	}
	return nil
}

func (t *Table) rollback(at time.Time, r *Rollback) (*Table, []ClassVersion, error) {
	versions := t.classes[r.Namespace][r.Class]
	if len(versions) == 0 {
		return t, nil, unknownClass("roll back", r.Namespace, r.Class)
	}
	i := slices.IndexFunc(versions, func(v ClassVersion) bool { return v.Version == r.Version })
	if i < 0 {
		return t, nil, &agent.Error{Op: "roll back", Kind: agent.NotFound,
			Msg: fmt.Sprintf("class %s has no version %d; kept are %d to %d", r.Class, r.Version, versions[0].Version, versions[len(versions)-1].Version)}
	}
	next := t.clone(r.Namespace)
	v := versions[i]
	v.DeployedAt = at
	return next, []ClassVersion{next.add(v)}, nil
}

// clone copies what a change of one namespace may touch.
func (t *Table) clone(namespace string) *Table {
	next := &Table{shards: t.shards, classes: maps.Clone(t.classes)}
	next.classes[namespace] = maps.Clone(t.classes[namespace])
	if next.classes[namespace] == nil {
		next.classes[namespace] = map[string][]ClassVersion{}
	}
	return next
}

// add appends v as the newest version and drops what is over MaxVersionsKept. It is
// called on a clone only.
func (t *Table) add(v ClassVersion) ClassVersion {
	old := t.classes[v.Namespace][v.Class]
	v.Version = 1
	if n := len(old); n > 0 {
		v.Version = old[n-1].Version + 1
	}
	versions := append(slices.Clone(old), v)
	if extra := len(versions) - MaxVersionsKept; extra > 0 {
		versions = versions[extra:]
	}
	t.classes[v.Namespace][v.Class] = versions
	return v
}

// Current is the newest version of a class.
func (t *Table) Current(namespace, class string) (ClassVersion, error) {
	versions := t.classes[namespace][class]
	if len(versions) == 0 {
		return ClassVersion{}, unknownClass("find class", namespace, class)
	}
	return versions[len(versions)-1], nil
}

// Versions are the kept versions of a class, newest first.
func (t *Table) Versions(namespace, class string) ([]ClassVersion, error) {
	versions := slices.Clone(t.classes[namespace][class])
	if len(versions) == 0 {
		return nil, unknownClass("list versions", namespace, class)
	}
	slices.Reverse(versions)
	return versions, nil
}

// Classes are the newest versions of a namespace's classes, by name.
func (t *Table) Classes(namespace string) []ClassVersion {
	all := make([]ClassVersion, 0, len(t.classes[namespace]))
	for _, name := range slices.Sorted(maps.Keys(t.classes[namespace])) {
		versions := t.classes[namespace][name]
		all = append(all, versions[len(versions)-1])
	}
	return all
}

// Bundles are the hashes that any kept version needs.
func (t *Table) Bundles() map[string]bool {
	used := map[string]bool{}
	for _, classes := range t.classes {
		for _, versions := range classes {
			for _, v := range versions {
				used[v.Bundle] = true
			}
		}
	}
	return used
}

// Shards is the number of shards, fixed when the cluster was created.
func (t *Table) Shards() int { return len(t.shards) }

// Owner is the node that owns an agent.
func (t *Table) Owner(id agent.ID) string { return t.shards[ShardOf(id, len(t.shards))] }

func unknownClass(op, namespace, class string) error {
	return &agent.Error{Op: op, Kind: agent.UnknownClass,
		Msg: fmt.Sprintf("no class %q is deployed in namespace %q; `agentd class ls` shows what is, `agentd deploy FILE` adds one", class, namespace)}
}

// wireTable is the stored form.
type wireTable struct {
	Format  int                                  `json:"format"`
	Shards  []string                             `json:"shards"`
	Classes map[string]map[string][]ClassVersion `json:"classes"`
}

const tableFormat = 1

// MarshalJSON writes the stored form.
func (t *Table) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireTable{Format: tableFormat, Shards: t.shards, Classes: t.classes})
}

// UnmarshalJSON reads the stored form and refuses a newer one.
func (t *Table) UnmarshalJSON(data []byte) error {
	var w wireTable
	if err := json.Unmarshal(data, &w); err != nil {
		return fmt.Errorf("decode placement table: %w", err)
	}
	if w.Format != tableFormat {
		return fmt.Errorf("placement table has format %d; this agentd reads %d: use the version that wrote it", w.Format, tableFormat)
	}
	if len(w.Shards) == 0 {
		return fmt.Errorf("placement table has no shards")
	}
	for namespace, classes := range w.Classes {
		for class, versions := range classes {
			if len(versions) == 0 {
				return fmt.Errorf("placement table: class %s of namespace %s has no version", class, namespace)
			}
		}
	}
	t.shards, t.classes = w.Shards, w.Classes
	if t.classes == nil {
		t.classes = map[string]map[string][]ClassVersion{}
	}
	return nil
}
