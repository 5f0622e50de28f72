package catalog

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"agentd/pkg/agent"
)

const (
	rowColumns = `namespace, class, name, seq, wake_at, resume, size, created_at, committed_at, sum`
	whereID    = ` WHERE namespace=? AND class=? AND name=?`

	insertRow = `INSERT INTO agents(seq, wake_at, resume, size, created_at, committed_at, sum, namespace, class, name)
  VALUES(?,?,?,?,?,?,?,?,?,?) ON CONFLICT DO NOTHING`
	updateRow = `UPDATE agents SET seq=?, wake_at=?, resume=?, size=?, created_at=?, committed_at=?, sum=?` + whereID
	deleteRow = `DELETE FROM agents` + whereID
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// rowSum is the checksum of a row: SQLite has none, and a wake that is silently
// wrong is a wake lost.
func rowSum(id agent.ID, s *state) int64 {
	var room [768]byte
	b := append(room[:0], id.Namespace...)
	b = append(b, 0)
	b = append(b, id.Class...)
	b = append(b, 0)
	b = append(b, id.Name...)
	b = append(b, 0)
	for _, v := range [...]int64{int64(s.seq), s.wakeAt, s.size, s.createdAt, s.at} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	if s.resume {
		b = append(b, 1)
	}
	return int64(crc32.Checksum(b, castagnoli))
}

// quarantineSum is the checksum of a row of quarantines.
func quarantineSum(id agent.ID, reason string) int64 {
	return int64(crc32.Checksum([]byte(id.Key()+"\x00"+reason), castagnoli))
}

// appliedSum is the checksum of a shard's row of applied.
func appliedSum(shard int, index uint64) int64 {
	b := binary.LittleEndian.AppendUint64(nil, uint64(shard))
	return int64(crc32.Checksum(binary.LittleEndian.AppendUint64(b, index), castagnoli))
}

// put writes a row and says whether it is new. expected is a guess that saves a
// statement.
func (f *file) put(id agent.ID, s *state, expectNew bool) (added bool, err error) {
	var wake any
	if s.wakeAt != noWake {
		wake = s.wakeAt
	}
	args := []any{int64(s.seq), wake, s.resume, s.size, s.createdAt, s.at, rowSum(id, s), id.Namespace, id.Class, id.Name}
	for range 2 {
		sql := updateRow
		if expectNew {
			sql = insertRow
		}
		if n, err := f.exec(sql, args...); err != nil || n > 0 {
			return expectNew, err
		}
		expectNew = !expectNew
	}
	return false, unfit("write catalog", f.path, "a row can be neither added nor changed", nil)
}

func (f *file) get(id agent.ID) (s state, found bool, err error) {
	err = f.each(`SELECT `+rowColumns+` FROM agents`+whereID, []any{id.Namespace, id.Class, id.Name}, func(row []any) (bool, error) {
		found = true
		var err error
		_, s, err = f.decode(row)
		return false, err
	})
	return s, found, err
}

// decode reads the columns of rowColumns.
func (f *file) decode(row []any) (id agent.ID, s state, err error) {
	numbers := [7]int64{}
	for i := range numbers {
		if v, ok := row[3+i].(int64); ok {
			numbers[i] = v
		} else if i == 1 && row[3+i] == nil {
			numbers[i] = noWake
		} else {
			return id, s, unfit("read catalog", f.path, "a row holds impossible values", nil)
		}
	}
	id.Namespace, _ = row[0].(string)
	id.Class, _ = row[1].(string)
	id.Name, _ = row[2].(string)
	s = state{seq: uint64(numbers[0]), wakeAt: numbers[1], resume: numbers[2] != 0, size: numbers[3], createdAt: numbers[4], at: numbers[5]}
	if numbers[6] != rowSum(id, &s) || numbers[0] < 1 {
		return id, s, unfit("read catalog", f.path, "the checksum of a row is wrong", nil)
	}
	return id, s, nil
}

// eachQuarantine gives every quarantine to fn.
func (f *file) eachQuarantine(fn func(id agent.ID, reason string)) error {
	return f.each(`SELECT namespace, class, name, reason, sum FROM quarantines`, nil, func(row []any) (bool, error) {
		var text [4]string
		for i := range text {
			text[i], _ = row[i].(string)
		}
		id, reason := agent.ID{Namespace: text[0], Class: text[1], Name: text[2]}, text[3]
		if reason == "" || row[4] != quarantineSum(id, reason) || id.Validate() != nil {
			return false, unfit("read catalog", f.path, "the checksum of a quarantine is wrong", nil)
		}
		fn(id, reason)
		return true, nil
	})
}

// setQuarantine writes or, with "", removes a quarantine.
func (f *file) setQuarantine(id agent.ID, reason string) error {
	var err error
	if reason == "" {
		_, err = f.exec(`DELETE FROM quarantines`+whereID, id.Namespace, id.Class, id.Name)
	} else {
		_, err = f.exec(`INSERT OR REPLACE INTO quarantines VALUES(?,?,?,?,?)`, id.Namespace, id.Class, id.Name, reason, quarantineSum(id, reason))
	}
	return err
}

// eachApplied gives every shard's index to fn; shards without a row are at 0.
func (f *file) eachApplied(fn func(shard int, index uint64)) error {
	return f.each(`SELECT shard, log_index, sum FROM applied`, nil, func(row []any) (bool, error) {
		shard, _ := row[0].(int64)
		index, _ := row[1].(int64)
		if shard < 0 || shard >= int64(f.shards) || row[2] != appliedSum(int(shard), uint64(index)) {
			return false, unfit("open catalog", f.path, "the log index of a shard is damaged", nil)
		}
		fn(int(shard), uint64(index))
		return true, nil
	})
}

func (f *file) setApplied(shard int, index uint64) error {
	_, err := f.exec(`INSERT OR REPLACE INTO applied VALUES(?,?,?)`, shard, int64(index), appliedSum(shard, index))
	return err
}

func (f *file) setAgents(n int64) error {
	_, err := f.exec(`UPDATE facts SET value=? WHERE name='agents'`, n)
	return err
}

// place is a position in the index of wakes.
type place struct {
	key int64
	id  agent.ID
}

var firstPlace = place{key: math.MinInt64}

// dueRow is a row of that index.
type dueRow struct {
	id    agent.ID
	state state
}

// dueAfter reads up to limit rows behind a place, in order.
func (f *file) dueAfter(at place, limit int) (rows []dueRow, err error) {
	err = f.each(`SELECT `+rowColumns+` FROM agents INDEXED BY agents_due
  WHERE due_at IS NOT NULL AND (due_at, namespace, class, name)>(?,?,?,?) ORDER BY due_at, namespace, class, name LIMIT ?`,
		[]any{at.key, at.id.Namespace, at.id.Class, at.id.Name, limit}, func(row []any) (bool, error) {
			id, s, err := f.decode(row)
			rows = append(rows, dueRow{id, s})
			return true, err
		})
	return rows, err
}

// eachName gives the rows of a namespace behind (class, name) to fn, in order; only
// those of the class with one.
func (f *file) eachName(namespace, class, name string, one bool, fn func(agent.ID, *state) bool) error {
	sql := `SELECT ` + rowColumns + ` FROM agents WHERE namespace=? AND (class, name)>(?,?) ORDER BY class, name`
	if one {
		sql = `SELECT ` + rowColumns + ` FROM agents WHERE namespace=? AND class=? AND name>? ORDER BY name`
	}
	return f.each(sql, []any{namespace, class, name}, func(row []any) (bool, error) {
		id, s, err := f.decode(row)
		return err == nil && fn(id, &s), err
	})
}
