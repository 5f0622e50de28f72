package reference

import (
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/session"
)

const (
	// checkpointFrames is the length of the log, in pages, at which a commit writes it
	// back: 2 MiB keep that stall to a few milliseconds.
	checkpointFrames = 512
	walHeaderBytes   = 32
	walFrameBytes    = session.PageBytes + 24
)

func (db *database) Commit(wake storage.Wake) (*storage.Ticket, error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if err := db.store.Err(); err != nil && db.sql.Usable() == nil {
		db.sql.Break(session.OutcomeUnknown(db.path, err))
	}
	next := session.Meta{Key: db.id.Key(), Seq: db.meta.Seq + 1, Wake: wake, CreatedAt: db.meta.CreatedAt}
	var pages int64
	changed, err := db.sql.Commit(!wake.Equal(db.meta.Wake), func(w session.Writer) error {
		// No wake may be lost: before the file can hold a commit that the catalog does
		// not know, the catalog durably says "read the file".
		if err := db.store.catalog.awaitMark(db.life); err != nil {
			return err
		}
		if next.Seq == 1 {
			next.CreatedAt = db.store.now()
		}
		err := session.WriteMeta(w, next)
		if err == nil {
			pages, err = w.Pages()
		}
		return err
	})
	switch {
	case err != nil:
		return nil, err
	case !changed:
		return db.lastLocked(), nil
	}
	if err := db.log.reserve(walHeaderBytes + int64(db.conn.WALFrames())*walFrameBytes); err != nil {
		err = folderError(db.path, err)
		db.sql.Break(err)
		return nil, err
	}
	db.meta = next
	db.last = storage.NewTicket(next.Seq)
	db.store.catalog.committed(db.life, next, pages*session.PageBytes)
	db.log.add(db.store.syncer, db.last)
	if db.conn.WALFrames() >= checkpointFrames {
		db.checkpointLocked()
	}
	return db.last, nil
}

// lastLocked is the ticket of a turn that changed nothing.
func (db *database) lastLocked() *storage.Ticket {
	if db.last == nil { // the last commit is of an earlier life
		db.last = storage.NewTicket(db.meta.Seq)
		db.last.Settle(nil)
	}
	return db.last
}

// checkpointLocked keeps the log short. What cannot be written back now stays in
// the log, which is safe, so only a failed sync is fatal.
func (db *database) checkpointLocked() {
	if err := db.last.Wait(); err != nil {
		return // the store has failed, and has said so
	}
	if err := writeBack(db.conn); err != nil {
		err = db.fault("checkpoint", err)
		db.store.log.Warn("the log cannot be written back", "agent", db.id.Key(), "error", err)
	}
}
