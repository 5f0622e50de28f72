package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"agentd/pkg/agent"
	"agentd/pkg/storage/internal/apply"
)

// Problem is one finding of Verify.
type Problem struct {
	Path  string   // of the file
	Agent agent.ID // zero if it is not known
	What  string
}

// Verified counts what Verify looked at.
type Verified struct {
	Agents int // rows of the catalog
	Files  int
	Pages  int64
}

// Verify reads the whole catalog and every page of every agent's file, and compares
// the two: each agent has a file that says the same of it. It should be called on a
// store that is idle and has applied its log. Problems are reported; an error means
// that it could not look.
func (s *Store) Verify(ctx context.Context, report func(Problem)) (Verified, error) {
	var v Verified
	if err := s.Checkpoint(ctx); err != nil { // rows are as of the last one
		return v, err
	}
	catalog, err := s.catalog.Verify(ctx)
	if err != nil {
		return v, err
	}
	v.Agents = catalog.Agents
	for _, what := range catalog.Problems {
		report(Problem{Path: s.catalogPath(), What: what})
	}
	err = s.files.Walk(ctx, func(path string) error {
		r, err := s.files.VerifyPath(ctx, path)
		if err != nil {
			return err
		}
		v.Files++
		v.Pages += int64(r.Pages)
		s.compare(r, report)
		return nil
	})
	if err == nil && v.Files < v.Agents {
		report(Problem{Path: s.catalogPath(), What: fmt.Sprintf("%d agents are listed but there are only %d files", v.Agents, v.Files)})
	}
	return v, err
}

// Shards is their number.
func (s *Store) Shards() int { return len(s.shards) }

// Damage says why the shard cannot be served; nil if it is or may be.
func (s *Store) Damage(shard int) error {
	if err := s.applier.Damage(shard); err != nil {
		return err
	}
	sh := &s.shards[shard]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if agent.KindOf(sh.reason) == agent.Corrupt {
		return sh.reason
	}
	return nil
}

// compare holds a file against itself and against the catalog.
func (s *Store) compare(r apply.Report, report func(Problem)) {
	found := Problem{Path: r.Path}
	problem := func(format string, args ...any) {
		found.What = fmt.Sprintf(format, args...)
		report(found)
	}
	if r.Tail != 0 {
		problem("%d bytes follow the last whole page", r.Tail)
	}
	if r.BadPages > 0 {
		problem("%d of %d pages are damaged, the first are %v", r.BadPages, r.Pages, r.Bad)
		return
	}
	entry, err := s.inspect(r.Path)
	if err != nil {
		problem("%v", err)
		return
	}
	found.Agent = entry.ID
	known, ok, err := s.catalog.Entry(entry.ID)
	switch {
	case err != nil:
		problem("%v", err)
	case !ok:
		problem("the catalog does not know this agent")
	case known.Seq != entry.Seq:
		problem("the file holds commit %d, the catalog knows %d", entry.Seq, known.Seq)
	case !known.Wake.Equal(entry.Wake):
		problem("the file wants to be woken at %v, the catalog says %v", entry.Wake, known.Wake)
	case known.SizeBytes != entry.SizeBytes:
		problem("the file has %d bytes, the catalog says %d", entry.SizeBytes, known.SizeBytes)
	}
}

// Dump writes the agent's database to path, which must not exist: a plain SQLite
// file as of the agent's last applied commit. Errors: NotFound, Corrupt (a damaged
// page), Conflict (the agent wrote meanwhile), Invalid (path exists).
func (s *Store) Dump(ctx context.Context, id agent.ID, path string) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return &agent.Error{Op: "dump agent", Agent: id, Kind: agent.Invalid, Msg: path + " exists: choose another file"}
	}
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, file.Close()); err != nil {
			_ = os.Remove(path) // half of a database is of no use
		}
	}()
	if err := s.files.Dump(ctx, id, io.Writer(file)); err != nil {
		return err
	}
	return file.Sync()
}
