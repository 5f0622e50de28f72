package session

import (
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
	"agentd/pkg/storage/internal/sqlite"
)

// Meta is the row that every agent's database holds about itself. It is written in
// the transaction of each commit, so it cannot disagree with the data.
type Meta struct {
	Key         string // agent.ID.Key
	Seq         uint64 // 0: never committed; there is no row then
	Wake        storage.Wake
	CreatedAt   time.Time // kept in whole milliseconds, as is the next
	CommittedAt time.Time // of commit Seq; zero if the engine keeps no such times
}

// MetaSchema makes the table of the row. Files from before there was a committed_at
// are read, and written by engines that leave it out.
const MetaSchema = `CREATE TABLE agentd_meta(id INTEGER PRIMARY KEY CHECK(id=1), key TEXT NOT NULL, seq INTEGER NOT NULL, wake_at INTEGER, resume INTEGER NOT NULL, created_at INTEGER NOT NULL, committed_at INTEGER)`

const (
	metaRead  = `SELECT * FROM agentd_meta`
	metaWidth = 7

	metaWrite      = `INSERT INTO agentd_meta(id,key,seq,wake_at,resume,created_at) VALUES(1,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET seq=excluded.seq, wake_at=excluded.wake_at, resume=excluded.resume`
	metaWriteTimed = `INSERT INTO agentd_meta VALUES(1,?,?,?,?,?,?) ON CONFLICT(id) DO UPDATE SET seq=excluded.seq, wake_at=excluded.wake_at, resume=excluded.resume, committed_at=excluded.committed_at`
)

// ReadMeta reads the row; the zero Meta if there is none. Errors are SQLite's; a row
// that cannot be right is one of them (code Corrupt).
func ReadMeta(conn *sqlite.Conn) (Meta, error) {
	row, err := QueryRow(conn, metaRead, metaWidth)
	if err != nil || row == nil {
		return Meta{}, err
	}
	key, ok1 := row[1].(string)
	seq, ok2 := row[2].(int64)
	created, ok3 := row[5].(int64)
	if !ok1 || !ok2 || !ok3 || seq < 1 {
		return Meta{}, &sqlite.Error{Code: sqlite.Corrupt, Msg: "agentd_meta holds impossible values"}
	}
	m := Meta{Key: key, Seq: uint64(seq), Wake: WakeFromColumns(row[3], row[4]), CreatedAt: time.UnixMilli(created)}
	if committed, ok := row[6].(int64); ok {
		m.CommittedAt = time.UnixMilli(committed)
	}
	return m, nil
}

// WriteMeta writes the row. Key and time of creation are those of the first commit.
func WriteMeta(w Writer, m Meta) error {
	at, resume := WakeColumns(m.Wake)
	if m.CommittedAt.IsZero() {
		return w.Exec(metaWrite, m.Key, int64(m.Seq), at, resume, m.CreatedAt.UnixMilli())
	}
	return w.Exec(metaWriteTimed, m.Key, int64(m.Seq), at, resume, m.CreatedAt.UnixMilli(), m.CommittedAt.UnixMilli())
}

// Entry is a catalog's view of the row of a database of size bytes.
func (m Meta) Entry(size int64) (storage.Entry, error) {
	id, err := agent.ParseKey(m.Key)
	if err != nil {
		return storage.Entry{}, err
	}
	return storage.Entry{ID: id, Wake: m.Wake, Seq: m.Seq, SizeBytes: size, CreatedAt: m.CreatedAt}, nil
}

// WakeColumns and WakeFromColumns are the two ways between a Wake and its columns:
// milliseconds or NULL, and 0 or 1.
func WakeColumns(w storage.Wake) (at any, resume int64) {
	if !w.At.IsZero() {
		at = w.At.UnixMilli()
	}
	if w.Resume {
		resume = 1
	}
	return at, resume
}

// WakeFromColumns: see WakeColumns.
func WakeFromColumns(at, resume any) storage.Wake {
	var w storage.Wake
	if ms, ok := at.(int64); ok {
		w.At = time.UnixMilli(ms)
	}
	w.Resume = resume == int64(1)
	return w
}

// QueryRow runs one statement of the platform outside a session and returns a copy
// of its first row; nil if none.
func QueryRow(conn *sqlite.Conn, sql string, columns int, args ...any) ([]any, error) {
	stmt, _, err := conn.Prepare(sqlite.Platform, sqlite.Terminated(sql))
	if err != nil {
		return nil, err
	}
	defer stmt.Finalize()
	row, err := stmt.Run(args)
	if err != nil || !row {
		return nil, err
	}
	dst := make([]any, columns)
	return dst, stmt.Scan(dst)
}
