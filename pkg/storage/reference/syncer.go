package reference

import (
	"errors"
	"os"
	"sync"

	"golang.org/x/sync/errgroup"

	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/session"
)

const (
	// syncWorkers is how many files are synced at once: a device takes several
	// flushes together, and a file system joins them into one journal commit.
	syncWorkers = 16
	// maxUnsettled bounds the commits of one agent that wait for the disk; Commit
	// waits for the oldest beyond that.
	maxUnsettled = 4096
)

// syncer makes agents' logs durable, off their loops. A log with new commits is
// queued once; while a worker syncs it, further commits gather and share the next
// sync.
type syncer struct {
	folder *folder
	fail   func(error)  // the store can promise nothing more
	failed func() error // non-nil once that happened

	queue   chan *commitLog // capacity: the limit of open databases, so sending never blocks
	workers sync.WaitGroup
}

func newSyncer(f *folder, maxOpen int, fail func(error), failed func() error) *syncer {
	s := &syncer{folder: f, fail: fail, failed: failed, queue: make(chan *commitLog, maxOpen)}
	for range syncWorkers {
		s.workers.Go(func() {
			for log := range s.queue {
				log.drain(s)
			}
		})
	}
	return s
}

// close waits until everything queued was synced.
func (s *syncer) close() {
	close(s.queue)
	s.workers.Wait()
}

// commitLog is the durable side of one open database: its write-ahead log and the
// commits in it that wait for the disk.
type commitLog struct {
	path string // of the database

	mu      sync.Mutex // guards pending and queued; nothing is synced or settled under it
	idle    *sync.Cond // queued became false
	pending []*storage.Ticket
	queued  bool // a worker has this log or will

	// Set by the loop before its first add, read by workers after.
	file *os.File // the log; nil until the first commit
	born bool     // the database file was made in this life

	linked bool  // by the worker that has this log: the files' existence is durable
	room   int64 // by the loop: bytes of the log file that are allocated
}

func newCommitLog(path string) *commitLog {
	l := &commitLog{path: path}
	l.idle = sync.NewCond(&l.mu)
	return l
}

// add queues a commit's ticket. It waits if too many are unsettled.
func (l *commitLog) add(s *syncer, t *storage.Ticket) {
	l.mu.Lock()
	for len(l.pending) >= maxUnsettled {
		l.idle.Wait()
	}
	l.pending = append(l.pending, t)
	send := !l.queued
	l.queued = true
	l.mu.Unlock()
	if send {
		s.queue <- l
	}
}

// drain syncs until nothing is pending. Only one worker at a time has a log, so
// tickets settle in order.
func (l *commitLog) drain(s *syncer) {
	for {
		l.mu.Lock()
		batch := l.pending
		l.pending = nil
		if len(batch) == 0 {
			l.queued = false
			l.idle.Broadcast()
			l.mu.Unlock()
			return
		}
		l.idle.Broadcast()
		l.mu.Unlock()
		err := l.sync(s)
		for _, t := range batch {
			t.Settle(err)
		}
	}
}

// sync makes everything in the log durable, with the files' existence the first
// time. It is never tried again after a failure: the kernel has dropped the pages,
// and a second sync would succeed without them.
func (l *commitLog) sync(s *syncer) error {
	if err := s.failed(); err != nil {
		return session.OutcomeUnknown(l.path, err)
	}
	err := l.syncFiles(s.folder)
	if err == nil {
		return nil
	}
	s.fail(err)
	return session.OutcomeUnknown(l.path, err)
}

func (l *commitLog) syncFiles(f *folder) error {
	if l.linked {
		return f.disk(syncLog, l.file)
	}
	// All at once: a file system joins them into one commit of its journal.
	var g errgroup.Group
	g.Go(func() error { return f.disk(syncLog, l.file) })
	g.Go(func() error { return f.syncFile(l.path) })
	if l.born {
		g.Go(func() error {
			file, err := os.Open(l.path)
			if err != nil {
				return err
			}
			return errors.Join(f.disk(syncNew, file), file.Close())
		})
	}
	err := g.Wait()
	l.linked = err == nil
	return err
}

// Growth of the log file: a write beyond its end makes the file system commit its
// journal in the next sync, which doubles the time of that sync. So the log is
// filled with zeros ahead, in steps that grow with it; a zero page ends it as well
// as the end of the file does.
const (
	minRoomBytes = 64 << 10
	maxRoomBytes = 256 << 10
)

// reserve opens the log file and keeps room ahead of the next commits. The loop
// calls it after a commit that left the log at used bytes; SQLite does not write
// meanwhile.
func (l *commitLog) reserve(used int64) error {
	if l.file == nil {
		file, err := os.OpenFile(l.path+"-wal", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		info, err := file.Stat()
		if err != nil {
			return errors.Join(err, file.Close())
		}
		l.file, l.room = file, info.Size()
		return nil // an agent that commits once per life needs no room
	}
	l.room = fillAhead(l.file, used, l.room)
	return nil
}

// fillAhead keeps zeros ahead of a log that holds used of room bytes, and gives the
// new room. A failure to grow is no error: a full disk shows in the next commit.
func fillAhead(log *os.File, used, room int64) int64 {
	if used+minRoomBytes/4 <= room {
		return room
	}
	room = max(room, used)
	n, _ := log.WriteAt(zeros[:min(max(room, minRoomBytes), maxRoomBytes)], room)
	return room + int64(n)
}

var zeros [maxRoomBytes]byte

// close waits for the worker and gives the descriptor back.
func (l *commitLog) close() error {
	l.mu.Lock()
	for l.queued {
		l.idle.Wait()
	}
	l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}
