package single

import (
	"context"
	"errors"
	"io/fs"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage/commitlog"
	"agentd/pkg/storage/engine"
)

// Verified is what Verify looked at.
type Verified struct {
	engine.Verified
	Log commitlog.Report // before the log was opened
}

// Verify checks a data folder that nobody uses: the log as it lies there, then, when
// its entries are applied, the catalog and every page of every agent's file. Problems
// are reported; an error means that it could not look: InUse (a running agentd has the
// folder), NotFound, and those of Open.
func Verify(ctx context.Context, c Config, report func(engine.Problem)) (v Verified, err error) {
	c.Existing = true
	s, err := open(ctx, c, func(fsys disk.FS, logDir string) (err error) {
		v.Log, err = commitlog.Verify(fsys, logDir)
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the first start was cut short
		}
		return err
	})
	for _, d := range v.Log.Damage {
		report(engine.Problem{Path: d.Path, What: describe(d)})
	}
	if err != nil {
		return v, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	for shard := range s.Shards() {
		if err := s.Damage(shard); err != nil {
			report(engine.Problem{Path: c.Dir, What: err.Error()})
		}
	}
	v.Verified, err = s.Store.Verify(ctx, report)
	return v, err
}

// Dump writes one agent's database of a data folder that nobody uses to path, as a
// plain SQLite file. Errors: those of Open and engine.Store.Dump.
func Dump(ctx context.Context, c Config, id agent.ID, path string) (err error) {
	c.Existing = true
	s, err := Open(ctx, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return s.Dump(ctx, id, path)
}
