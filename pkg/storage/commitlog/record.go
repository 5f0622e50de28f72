package commitlog

import (
	"errors"
	"time"
)

// recordKind says what a record does. The first six are changes of a group, numbered
// by its seq without a gap; the rest repeat what is known.
type recordKind uint8

const (
	kindEntry         recordKind = 1  // an entry, or a chunk of one that is too large for one batch
	kindTruncateBack  recordKind = 2  // entries from index on are forgotten
	kindTruncateFront recordKind = 3  // entries up to index are forgotten
	kindSet           recordKind = 4  // a stable key
	kindReset         recordKind = 5  // the group begins anew, and is sound
	kindCarry         recordKind = 16 // begins a segment: what follows is all groups' state
	kindState         recordKind = 17 // a group's numbers
	kindKey           recordKind = 18 // a stable key of the group of the state before it
	kindClosed        recordKind = 19 // the log was closed: every group's seq
)

const (
	flagStart   = 1 // kindEntry: the group was empty; the index need not follow
	flagDamaged = 1 // kindState: the group is damaged; kindCarry: so is any group it does not name
)

// record is one change of one group as it is in a batch:
//
//	u32 checksum of the rest, u32 length of all, u8 kind, u8 flags, u8 type, u8 0,
//	u32 group, u64 seq, then by kind
//	entry: u64 index, u64 term, i64 time, u32 extension bytes, u32 bytes of the
//	       entry (data, then extensions), u32 offset of this chunk, the chunk
//	truncate: u64 index
//	set, key: u16 length of the key, key, value
//	carry: u64 lowest generation needed, u64 generation before, u32 number of states
//	state: u64 first, u64 last, u64 generation to keep (0 unless damaged)
//	closed: any number of u32 group, u64 seq
type record struct {
	kind  recordKind
	flags uint8
	typ   uint8
	group uint32
	seq   uint64

	index, term        uint64 // entry, truncate; carry: low, prev; state: first, last
	at                 int64  // entry; state: generation to keep
	ext, total, offset uint32 // entry; carry: total is the number of states
	body               []byte // entry: the chunk; set, key: the value; closed: the list
	key                []byte
}

var errRecord = errors.New("malformed record")

// grow makes room for n bytes at the end of b, whose capacity suffices for what is
// built in a batch.
func grow(b []byte, n int) (all, tail []byte) {
	if cap(b)-len(b) < n {
		more := make([]byte, len(b), 2*cap(b)+n)
		copy(more, b)
		b = more
	}
	all = b[:len(b)+n]
	return all, all[len(b):]
}

// begin appends a record of n bytes, all but its checksum and body.
func begin(b []byte, n int, kind recordKind, flags, typ uint8, group uint32, seq uint64) (all, rec []byte) {
	all, rec = grow(b, n)
	le.PutUint32(rec[4:], uint32(n))
	rec[8], rec[9], rec[10], rec[11] = byte(kind), flags, typ, 0
	le.PutUint32(rec[12:], group)
	le.PutUint64(rec[16:], seq)
	return all, rec
}

func seal(rec []byte) { le.PutUint32(rec, checksum(rec[4:])) }

// chunk is bytes [offset, offset+size) of an entry.
type chunk struct{ offset, size int }

func appendEntry(b []byte, group uint32, seq uint64, flags uint8, e *Entry, c chunk) []byte {
	all, rec := begin(b, entryHead+c.size, kindEntry, flags, e.Type, group, seq)
	le.PutUint64(rec[24:], e.Index)
	le.PutUint64(rec[32:], e.Term)
	le.PutUint64(rec[40:], uint64(nanos(e.AppendedAt)))
	le.PutUint32(rec[48:], uint32(len(e.Extensions)))
	le.PutUint32(rec[52:], uint32(e.size()))
	le.PutUint32(rec[56:], uint32(c.offset))
	body := rec[entryHead:]
	n := 0
	if c.offset < len(e.Data) {
		n = copy(body, e.Data[c.offset:])
	}
	if n < len(body) {
		copy(body[n:], e.Extensions[c.offset+n-len(e.Data):])
	}
	seal(rec)
	return all
}

func appendTruncate(b []byte, kind recordKind, group uint32, seq, index uint64) []byte {
	all, rec := begin(b, truncateBytes, kind, 0, 0, group, seq)
	le.PutUint64(rec[24:], index)
	seal(rec)
	return all
}

func appendReset(b []byte, group uint32, seq uint64) []byte {
	all, rec := begin(b, recordHead, kindReset, 0, 0, group, seq)
	seal(rec)
	return all
}

func keySize(key string, value []byte) int { return recordHead + 2 + len(key) + len(value) }

func appendKey(b []byte, kind recordKind, group uint32, seq uint64, key string, value []byte) []byte {
	all, rec := begin(b, keySize(key, value), kind, 0, 0, group, seq)
	le.PutUint16(rec[24:], uint16(len(key)))
	copy(rec[26:], key)
	copy(rec[26+len(key):], value)
	seal(rec)
	return all
}

func appendCarry(b []byte, flags uint8, low, prev uint64, states int) []byte {
	all, rec := begin(b, carryBytes, kindCarry, flags, 0, 0, 0)
	le.PutUint64(rec[24:], low)
	le.PutUint64(rec[32:], prev)
	le.PutUint32(rec[40:], uint32(states))
	seal(rec)
	return all
}

func appendState(b []byte, flags uint8, group uint32, seq, first, last, keep uint64) []byte {
	all, rec := begin(b, stateBytes, kindState, flags, 0, group, seq)
	le.PutUint64(rec[24:], first)
	le.PutUint64(rec[32:], last)
	le.PutUint64(rec[40:], keep)
	seal(rec)
	return all
}

// decodeRecord reads the record at the beginning of b and says how long it is. What
// it returns points into b.
func decodeRecord(b []byte) (r record, n int, err error) {
	if len(b) < recordHead {
		return r, 0, errRecord
	}
	n = int(le.Uint32(b[4:]))
	if n < recordHead || n > len(b) || le.Uint32(b) != checksum(b[4:n]) {
		return r, 0, errRecord
	}
	r = record{kind: recordKind(b[8]), flags: b[9], typ: b[10], group: le.Uint32(b[12:]), seq: le.Uint64(b[16:])}
	return r, n, r.decodeBody(b[recordHead:n])
}

func (r *record) decodeBody(b []byte) error {
	switch need := r.kind.least(); {
	case need < 0 || len(b) < need:
		return errRecord
	case r.kind == kindEntry:
		return r.decodeEntry(b)
	case r.kind == kindSet || r.kind == kindKey:
		n := int(le.Uint16(b))
		if n > MaxKeyBytes || len(b) < 2+n || len(b) > 2+n+MaxValueBytes {
			return errRecord
		}
		r.key, r.body = b[2:2+n], b[2+n:]
	case r.kind == kindTruncateBack || r.kind == kindTruncateFront:
		r.index = le.Uint64(b)
	case r.kind == kindCarry:
		r.index, r.term, r.total = le.Uint64(b), le.Uint64(b[8:]), le.Uint32(b[16:])
	case r.kind == kindState:
		r.index, r.term, r.at = le.Uint64(b), le.Uint64(b[8:]), int64(le.Uint64(b[16:]))
	case r.kind == kindClosed:
		if len(b)%seqBytes != 0 {
			return errRecord
		}
		r.body = b
	}
	return nil
}

// least is the smallest body of a kind, negative for an unknown kind.
func (k recordKind) least() int {
	switch k {
	case kindEntry:
		return entryHead - recordHead
	case kindTruncateBack, kindTruncateFront:
		return 8
	case kindSet, kindKey:
		return 2
	case kindReset, kindClosed:
		return 0
	case kindCarry:
		return carryBytes - recordHead
	case kindState:
		return stateBytes - recordHead
	}
	return -1
}

func (r *record) decodeEntry(b []byte) error {
	r.index, r.term, r.at = le.Uint64(b), le.Uint64(b[8:]), int64(le.Uint64(b[16:]))
	r.ext, r.total, r.offset = le.Uint32(b[24:]), le.Uint32(b[28:]), le.Uint32(b[32:])
	r.body = b[36:]
	if r.index == 0 || r.index > maxIndex || r.ext > r.total || r.total > MaxEntryBytes || uint64(r.offset)+uint64(len(r.body)) > uint64(r.total) {
		return errRecord
	}
	return nil
}

// whole says that an entry is in one record.
func (r *record) whole() bool { return len(r.body) == int(r.total) }

// nanos is a time in the log; the zero time is 0.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}
