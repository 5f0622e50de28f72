package disktest

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// World is a folder after some operations, with all that a crash may make of it:
//
//   - A sector of 512 bytes that was written since its file was last synced has its
//     durable content or that after any of those writes, each sector for itself.
//   - A size that was changed since then is the durable one or any that it had after.
//   - In each folder the creations, renamings and removals since it was last synced
//     have happened up to one of them and not after it. A file whose creation did not
//     happen is lost, whatever of it was synced.
//
// A World is not changed by Crash and Kill; any number of goroutines may call them.
type World struct {
	files   []*content // by number
	folders map[string]*folder
}

// folder is the names in one folder.
type folder struct {
	live, durable map[string]node
	pending       []change
}

type node struct {
	dir  bool
	file int
}

// change is an operation on names: Create, Mkdir, Rename or Remove.
type change struct {
	op   int
	what Op
}

func newFolder() *folder {
	return &folder{live: make(map[string]node), durable: make(map[string]node)}
}

// load reads a folder as it is; paths receives the number of each file.
func load(root string, paths map[string]int) (*World, error) {
	w := &World{folders: map[string]*folder{".": newFolder()}}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		parent := w.folders[filepath.Dir(rel)]
		n := node{dir: d.IsDir(), file: len(w.files)}
		if n.dir {
			w.folders[rel] = newFolder()
		} else {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			paths[rel] = n.file
			w.files = append(w.files, newContent(data))
		}
		parent.live[d.Name()], parent.durable[d.Name()] = n, n
		return nil
	})
	return w, err
}

// clone copies a world in which everything is durable.
func (w *World) clone() *World {
	out := &World{folders: make(map[string]*folder)}
	for _, f := range w.files {
		out.files = append(out.files, f.clone())
	}
	for path, f := range w.folders {
		out.folders[path] = &folder{live: maps.Clone(f.live), durable: maps.Clone(f.durable)}
	}
	return out
}

// apply does operation i.
func (w *World) apply(i int, op Op) {
	switch op.Kind {
	case Create:
		for len(w.files) <= op.File {
			w.files = append(w.files, newContent(nil))
		}
		w.change(i, op)
	case Mkdir:
		w.folders[op.Path] = newFolder()
		w.change(i, op)
	case Rename, Remove:
		w.change(i, op)
	case Write:
		w.files[op.File].write(i, op.Offset, op.Data)
	case Resize:
		w.files[op.File].resize(i, op.Offset)
	default:
		w.sync(op)
	}
}

func (w *World) sync(op Op) {
	switch op.Kind {
	case Sync:
		w.files[op.File].sync(op.Upto)
	case Written:
		w.files[op.File].written(op.Upto, op.Offset, op.Offset+int64(len(op.Data)))
	case SyncDir:
		if f := w.folders[op.Path]; f != nil {
			f.sync(op.Upto)
		}
	case SyncFS:
		for _, f := range w.files {
			f.sync(op.Upto)
		}
		for _, f := range w.folders {
			f.sync(op.Upto)
		}
	}
}

func (w *World) change(i int, op Op) {
	f := w.folders[filepath.Dir(op.Path)]
	f.pending = append(f.pending, change{i, op})
	apply(f.live, op)
}

func (f *folder) sync(upto int) {
	for len(f.pending) > 0 && f.pending[0].op < upto {
		apply(f.durable, f.pending[0].what)
		f.pending = f.pending[1:]
	}
}

// apply does an operation on the names of a folder.
func apply(names map[string]node, op Op) {
	name := filepath.Base(op.Path)
	switch op.Kind {
	case Create:
		names[name] = node{file: op.File}
	case Mkdir:
		names[name] = node{dir: true}
	case Remove:
		delete(names, name)
	case Rename:
		names[filepath.Base(op.To)] = names[name]
		delete(names, name)
	}
}

// Crash makes the folder into as one of the states that a crash of the machine can
// leave. What into held before is removed.
func (w *World) Crash(choose Chooser, into string) error {
	return w.make(into, func(f *folder) map[string]node {
		names := maps.Clone(f.durable)
		if len(f.pending) > 0 {
			for _, c := range f.pending[:choose(len(f.pending)+1)] {
				apply(names, c.what)
			}
		}
		return names
	}, func(c *content) []byte { return c.crash(choose) })
}

// Kill makes the folder into as it is when the process dies and the machine does
// not: all operations happened, none after.
func (w *World) Kill(into string) error {
	return w.make(into, func(f *folder) map[string]node { return f.live }, func(c *content) []byte { return c.live })
}

func (w *World) make(into string, names func(*folder) map[string]node, bytes func(*content) []byte) error {
	if err := os.RemoveAll(into); err != nil {
		return err
	}
	return w.makeFolder(".", into, names, bytes)
}

func (w *World) makeFolder(rel, into string, names func(*folder) map[string]node, bytes func(*content) []byte) error {
	if err := os.MkdirAll(into, 0o700); err != nil {
		return err
	}
	f := w.folders[rel]
	if f == nil {
		return errors.New("disktest: no record of folder " + rel)
	}
	have := names(f)
	for _, name := range sortedKeys(have) {
		n, path := have[name], filepath.Join(into, name)
		var err error
		if n.dir {
			err = w.makeFolder(filepath.Join(rel, name), path, names, bytes)
		} else {
			err = os.WriteFile(path, bytes(w.files[n.file]), 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	return slices.Sorted(maps.Keys(m))
}
