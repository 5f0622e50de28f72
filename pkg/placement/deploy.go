package placement

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"agentd/pkg/agent"
)

// Limits of what classes put into the table.
const (
	MaxClassesPerNamespace = 4096
	maxMethods             = 4096 // per class
	maxMethodBytes         = 1024 // of one method's name
	maxHashBytes           = 128
)

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

func (d *Deploy) apply(t *Table, at time.Time) (*Table, []ClassVersion, error) {
	if err := d.validate(); err != nil {
		return t, nil, err
	}
	next := t.cloneClasses(d.Namespace)
	made := make([]ClassVersion, 0, len(d.Classes))
	changed := false
	for _, c := range d.Classes {
		versions := next.classes[d.Namespace][c.Name]
		if n := len(versions); n > 0 && versions[n-1].Bundle == d.Bundle {
			made = append(made, versions[n-1]) // the same code again: nothing to do
			continue
		}
		v := ClassVersion{Namespace: d.Namespace, Class: c.Name, Bundle: d.Bundle, Methods: slices.Clone(c.Methods), DeployedAt: at}
		made = append(made, next.add(v))
		changed = true
	}
	if n := len(next.classes[d.Namespace]); n > MaxClassesPerNamespace {
		return t, nil, refuse("deploy", agent.TooLarge,
			"namespace %s would have %d classes; at most %d are allowed: use another namespace", d.Namespace, n, MaxClassesPerNamespace)
	}
	if n := len(next.classes); n > MaxNamespaces {
		return t, nil, refuse("deploy", agent.TooLarge, "there would be %d namespaces with classes; at most %d are allowed", n, MaxNamespaces)
	}
	if !changed {
		return t, made, nil
	}
	return next, made, nil
}

func (d *Deploy) validate() error {
	if err := agent.ValidateNamespace(d.Namespace); err != nil {
		return err
	}
	if n := len(d.Classes); n == 0 || n > MaxClassesPerBundle {
		return refuse("deploy", agent.Invalid, "a bundle must hold 1 to %d classes, this one holds %d", MaxClassesPerBundle, n)
	}
	if len(d.Bundle) > maxHashBytes {
		return refuse("deploy", agent.Invalid, "%.80q is no bundle hash", d.Bundle)
	}
	for _, c := range d.Classes {
		if err := agent.ValidateClass(c.Name); err != nil {
			return err
		}
		if n := len(c.Methods); n > maxMethods {
			return refuse("deploy", agent.TooLarge, "class %s has %d public methods; at most %d are allowed", c.Name, n, maxMethods)
		}
		for _, m := range c.Methods {
			if len(m) > maxMethodBytes {
				return refuse("deploy", agent.TooLarge, "method %.80q… of class %s has a name of %d bytes; at most %d are allowed", m, c.Name, len(m), maxMethodBytes)
			}
		}
	}
	return nil
}

func (r *Rollback) apply(t *Table, at time.Time) (*Table, []ClassVersion, error) {
	versions := t.classes[r.Namespace][r.Class]
	if len(versions) == 0 {
		return t, nil, unknownClass("roll back", r.Namespace, r.Class)
	}
	i := slices.IndexFunc(versions, func(v ClassVersion) bool { return v.Version == r.Version })
	if i < 0 {
		return t, nil, refuse("roll back", agent.NotFound, "class %s has no version %d; kept are %d to %d",
			r.Class, r.Version, versions[0].Version, versions[len(versions)-1].Version)
	}
	next := t.cloneClasses(r.Namespace)
	v := versions[i]
	v.DeployedAt = at
	return next, []ClassVersion{next.add(v)}, nil
}

// cloneClasses copies what a change of one namespace's classes may touch.
func (t *Table) cloneClasses(namespace string) *Table {
	next := t.clone()
	next.classes = maps.Clone(t.classes)
	if next.classes == nil {
		next.classes = map[string]map[string][]ClassVersion{}
	}
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

func unknownClass(op, namespace, class string) error {
	return &agent.Error{Op: op, Kind: agent.UnknownClass,
		Msg: fmt.Sprintf("no class %q is deployed in namespace %q; `agentd class ls` shows what is, `agentd deploy FILE` adds one", class, namespace)}
}
