package disktrial

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/replication/single"
	"agentd/pkg/storage"
)

// content is what an agent of a trial holds: the number of the life that it is in, and
// of the commit in that life. Everything else in its database follows from the two.
type content struct {
	life, n int64 // zero for an agent that does not exist
}

func agentID(k int) agent.ID {
	return agent.ID{Namespace: "default", Class: "Trial", Name: "agent-" + strconv.Itoa(k)}
}

const keptRows = 100 // of the log table; older ones are deleted

const schema = `CREATE TABLE pair(id INTEGER PRIMARY KEY, life INTEGER, n INTEGER);
	INSERT INTO pair VALUES(1, 0, 0), (2, 0, 0);
	CREATE TABLE log(n INTEGER PRIMARY KEY, sum INTEGER, body BLOB)`

// wake is that of a commit.
func (c content) wake() storage.Wake {
	w := storage.Wake{Resume: c.n%5 == 0}
	if c.n%3 != 0 {
		w.At = time.UnixMilli(4_000_000_000_000 + c.life*1000 + c.n)
	}
	return w
}

// write makes the agent's next turn, up to its commit. size is that of the row.
func (c content) write(db storage.DB, size int) error {
	if c.n == 1 {
		if err := exec1(db, schema); err != nil {
			return err
		}
	}
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(int64(i)*7 + c.n*31 + c.life)
	}
	if err := exec1(db, "UPDATE pair SET life=?, n=? WHERE id=1", c.life, c.n); err != nil {
		return err
	}
	if err := exec1(db, "INSERT INTO log VALUES(?, ?, ?)", c.n, int64(crc32.ChecksumIEEE(body)), body); err != nil {
		return err
	}
	if err := exec1(db, "DELETE FROM log WHERE n <= ?", c.n-keptRows); err != nil {
		return err
	}
	return exec1(db, "UPDATE pair SET life=?, n=? WHERE id=2", c.life, c.n)
}

func exec1(db storage.DB, sql string, args ...storage.Value) error {
	rows, err := db.Query(sql, args...)
	if err == nil {
		_, err = rows.Each(nil)
	}
	return err
}

// read is what a database holds; the error says what of it does not fit.
func read(db storage.DB) (content, error) {
	var c content
	if n, err := number(db, "SELECT count(*) FROM sqlite_schema WHERE name IN ('pair', 'log')"); err != nil || n == 0 {
		return c, err
	}
	var rows []content
	err := each(db, "SELECT life, n FROM pair ORDER BY id", func(row []storage.Value) error {
		rows = append(rows, content{row[0].(int64), row[1].(int64)})
		return nil
	})
	if err != nil {
		return c, err
	}
	if len(rows) != 2 || rows[0] != rows[1] {
		return c, fmt.Errorf("half a transaction: the two rows are %v", rows)
	}
	c = rows[0]
	if err := c.checkLog(db); err != nil {
		return c, err
	}
	if !db.Wake().Equal(c.wake()) {
		return c, fmt.Errorf("commit %d wants to be woken at %v, the database says %v", c.n, c.wake(), db.Wake())
	}
	err = each(db, "PRAGMA integrity_check", func(row []storage.Value) error {
		if row[0] != "ok" {
			return fmt.Errorf("integrity_check: %v", row[0])
		}
		return nil
	})
	return c, err
}

// checkLog reads every row of the log table.
func (c content) checkLog(db storage.DB) error {
	next := max(1, c.n-keptRows+1)
	err := each(db, "SELECT n, sum, body FROM log ORDER BY n", func(row []storage.Value) error {
		if row[0] != next {
			return fmt.Errorf("row %v where %d should be", row[0], next)
		}
		body, _ := row[2].([]byte)
		if row[1] != int64(crc32.ChecksumIEEE(body)) {
			return fmt.Errorf("row %d is not what was written", next)
		}
		next++
		return nil
	})
	if err == nil && next != c.n+1 {
		err = fmt.Errorf("rows end with %d, the last commit is %d", next-1, c.n)
	}
	return err
}

func each(db storage.DB, sql string, fn func([]storage.Value) error) error {
	rows, err := db.Query(sql)
	if err == nil {
		_, err = rows.Each(fn)
	}
	return err
}

func number(db storage.DB, sql string) (n int64, err error) {
	err = each(db, sql, func(row []storage.Value) error {
		n = row[0].(int64)
		return nil
	})
	return n, err
}

// readAgent opens an agent, reads it, and compares it with the catalog.
func readAgent(ctx context.Context, s *single.Store, k int) (c content, err error) {
	db, err := s.Open(ctx, agentID(k))
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if c, err = read(db); err != nil {
		return c, err
	}
	return c, c.compare(ctx, s, k)
}

func (c content) compare(ctx context.Context, s *single.Store, k int) error {
	entry, err := s.Catalog().Get(ctx, agentID(k))
	switch {
	case c.n == 0 && agent.KindOf(err) == agent.NotFound:
		return nil
	case err != nil:
		return err
	case entry.Seq != uint64(c.n):
		return fmt.Errorf("the database holds commit %d, the catalog says %d", c.n, entry.Seq)
	case !entry.Wake.Equal(c.wake()):
		return fmt.Errorf("commit %d wants to be woken at %v, the catalog says %v", c.n, c.wake(), entry.Wake)
	}
	return nil
}
