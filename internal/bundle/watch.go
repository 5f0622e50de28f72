package bundle

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"

	"agentd/pkg/agent"
)

// Settle is how long the files must be quiet before onChange is called: editors
// write a file in several steps, version control many files.
const Settle = 50 * time.Millisecond

// MaxWatched bounds the folders that one Watch looks at.
const MaxWatched = 1024

// Watch calls onChange when one of the inputs changed, was replaced or removed, or
// when a new source file appeared beside one, and then asks for the inputs again.
// onChange runs on Watch's goroutine; changes meanwhile lead to one more call.
// Watch returns nil when ctx ends and an *agent.Error when the system refuses to
// watch.
func Watch(ctx context.Context, inputs func() []string, onChange func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return refused("start", err)
	}
	set := &watchSet{add: w.Add, remove: w.Remove}
	err = watch(ctx, set, w.Events, w.Errors, inputs, onChange)
	if closeErr := w.Close(); err == nil && closeErr != nil {
		err = refused("stop", closeErr)
	}
	return err
}

func refused(what string, err error) error {
	return &agent.Error{Op: "watch files", Kind: agent.Unavailable, Err: err,
		Msg: "cannot " + what + " watching; if a limit of the system is reached (Linux: fs.inotify.max_user_watches, max_user_instances), raise it"}
}

// watch is Watch with the system's part given: events may come from anywhere.
func watch(ctx context.Context, set *watchSet, events <-chan fsnotify.Event, failures <-chan error, inputs func() []string, onChange func()) error {
	if err := set.update(inputs()); err != nil {
		return err
	}
	quiet := time.NewTimer(Settle)
	quiet.Stop()
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev, ok := <-events:
			if !ok {
				return refused("go on", errors.New("the system ended it"))
			}
			if set.concerns(ev) {
				quiet.Reset(Settle)
			}
		case err, ok := <-failures:
			if !ok {
				return refused("go on", errors.New("the system ended it"))
			}
			if !errors.Is(err, fsnotify.ErrEventOverflow) {
				return refused("go on", err)
			}
			quiet.Reset(Settle) // events were lost: assume that they concerned us
		case <-quiet.C:
			onChange()
			if err := set.update(inputs()); err != nil {
				return err
			}
		}
	}
}

// watchSet is what is watched: folders, because a file that an editor replaces
// keeps its name and not its identity. It belongs to Watch's goroutine.
type watchSet struct {
	add, remove func(dir string) error
	dirs        []string
	inputs      []string
	missing     []string // folders that do not exist now; a folder above is watched
}

func (s *watchSet) update(inputs []string) error {
	s.inputs = s.inputs[:0]
	s.missing = s.missing[:0]
	var dirs []string
	for _, path := range inputs {
		path, err := filepath.Abs(path)
		if err != nil {
			return refused("find "+path+" for", err)
		}
		s.inputs = append(s.inputs, path)
		dir := filepath.Dir(path)
		for !isDir(dir) && dir != filepath.Dir(dir) {
			s.missing = append(s.missing, dir)
			dir = filepath.Dir(dir)
		}
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	if len(dirs) > MaxWatched {
		return &agent.Error{Op: "watch files", Kind: agent.TooLarge,
			Msg: fmt.Sprintf("the sources lie in %d folders; at most %d are watched", len(dirs), MaxWatched)}
	}
	for _, dir := range s.dirs {
		if slices.Contains(dirs, dir) {
			continue
		}
		if err := s.remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
			return refused("leave "+dir+" while", err)
		}
	}
	for _, dir := range dirs {
		// Also for a folder known already: it may have been removed and made again.
		if err := s.add(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return refused("see "+dir+" while", err)
		}
	}
	s.dirs = dirs
	return nil
}

// concerns says whether an event may change the bundle.
func (s *watchSet) concerns(ev fsnotify.Event) bool {
	if ev.Op == fsnotify.Chmod {
		return false
	}
	if slices.Contains(s.inputs, ev.Name) || slices.Contains(s.missing, ev.Name) || slices.Contains(s.dirs, ev.Name) {
		return true
	}
	if !ev.Has(fsnotify.Create) {
		return false
	}
	if _, script := scriptLoader(ev.Name); script { // perhaps the import that was missing
		return true
	}
	_, data := dataLoaders[filepath.Ext(ev.Name)]
	return data
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
