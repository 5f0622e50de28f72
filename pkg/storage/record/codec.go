package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"time"
	"unicode/utf8"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// The form of a record, little-endian:
//
//	 0  u32 length of what follows this field
//	 4  u32 CRC32C of the length and of everything from byte 8
//	 8  u8  version
//	 9  u8  kind
//	10  u8  flags: bit 0 is Wake.Resume
//	11  u8  0
//	12  u64 Base
//	20  u64 Seq
//	28  i64 At, milliseconds since 1970
//	36  i64 CreatedAt, likewise
//	44  i64 Wake.At, likewise
//	52  u32 Pages
//	56  u16 bytes of the agent's key
//	58  u16 bytes of Reason
//	60  the key, Reason, and Delta to the end
//
// Every version keeps the first nine bytes, so that a node can tell a record of a
// newer agentd from a damaged one. A record has exactly one form: what Decode
// accepts, Append writes back byte for byte.
const (
	version     = 1
	headerBytes = 60
	resumeFlag  = 1

	keyBytesMax = agent.MaxNamespaceBytes + agent.MaxClassBytes + agent.MaxNameBytes + 2
)

// Limits of a record.
const (
	// MaxBytes is the most that an encoded record has: every page of the largest
	// transaction whole, and room to spare.
	MaxBytes = 80 << 20
	// MaxReasonBytes is what Append keeps of Reason.
	MaxReasonBytes = 4 << 10
	// MaxPages is the most that a database has.
	MaxPages = storage.MaxDatabaseBytes / PageBytes
)

// A record that is sound but means nothing to this version of agentd. It must not be
// skipped: what follows builds on it. Both come wrapped in an *agent.Error of kind
// Invalid that says to upgrade this node.
var (
	ErrVersion = errors.New("the record's version is newer than this agentd")
	ErrKind    = errors.New("the record's kind is unknown to this agentd")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Append appends the encoded form of r, which must be valid (Validate). Reason is
// cut to MaxReasonBytes. It takes no reference of r.
func Append(dst []byte, r *Record) []byte {
	start := len(dst)
	reason := clip(r.Reason)
	dst = slices.Grow(dst, headerBytes+len(r.Agent.Namespace)+len(r.Agent.Class)+len(r.Agent.Name)+2+len(reason)+len(r.Delta))
	dst = append(dst, make([]byte, headerBytes)...)
	dst = append(dst, r.Agent.Namespace...)
	dst = append(dst, '/')
	dst = append(dst, r.Agent.Class...)
	dst = append(dst, '/')
	dst = append(dst, r.Agent.Name...)
	keyBytes := len(dst) - start - headerBytes
	dst = append(dst, reason...)
	dst = append(dst, r.Delta...)

	b := dst[start:]
	le := binary.LittleEndian
	le.PutUint32(b, uint32(len(b)-4))
	b[8], b[9] = version, byte(r.Kind)
	if r.Wake.Resume {
		b[10] = resumeFlag
	}
	le.PutUint64(b[12:], r.Base)
	le.PutUint64(b[20:], r.Seq)
	le.PutUint64(b[28:], uint64(r.At.UnixMilli()))
	le.PutUint64(b[36:], uint64(r.CreatedAt.UnixMilli()))
	le.PutUint64(b[44:], uint64(r.Wake.At.UnixMilli()))
	le.PutUint32(b[52:], r.Pages)
	le.PutUint16(b[56:], uint16(keyBytes))
	le.PutUint16(b[58:], uint16(len(reason)))
	le.PutUint32(b[4:], checksum(b))
	return dst
}

// checksum is that of an encoded record, over all but the checksum itself.
func checksum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[8:])
}

func clip(reason string) string {
	if len(reason) <= MaxReasonBytes {
		return reason
	}
	n := MaxReasonBytes
	for n > 0 && !utf8.RuneStart(reason[n]) {
		n--
	}
	return reason[:n]
}

// Decode reads the record at the beginning of b, and returns what follows it. r's
// Delta aliases b and has not been looked into: call Delta.Validate before it is
// applied. Errors: kind Corrupt for bytes that Append has not written or that
// changed since; ErrVersion and ErrKind (kind Invalid) for those of a newer agentd.
func Decode(b []byte) (r Record, rest []byte, err error) {
	b, rest, err = frame(b)
	if err != nil {
		return Record{}, nil, err
	}
	switch Kind(b[9]) {
	case Commit, Delete, Quarantine:
	default:
		return Record{}, nil, newer(ErrKind, "kind", int(b[9]))
	}
	if b[10]&^resumeFlag != 0 || b[11] != 0 {
		return Record{}, nil, corrupt("unknown flags %#x %#x", b[10], b[11])
	}
	le := binary.LittleEndian
	keyBytes, reasonBytes := int(le.Uint16(b[56:])), int(le.Uint16(b[58:]))
	body := b[headerBytes:]
	if keyBytes > keyBytesMax || reasonBytes > MaxReasonBytes || keyBytes+reasonBytes > len(body) {
		return Record{}, nil, corrupt("a key of %d bytes and a reason of %d in a body of %d", keyBytes, reasonBytes, len(body))
	}
	r = Record{
		Kind: Kind(b[9]), Base: le.Uint64(b[12:]), Seq: le.Uint64(b[20:]),
		At: milli(b[28:]), CreatedAt: milli(b[36:]),
		Wake:  storage.Wake{At: milli(b[44:]), Resume: b[10]&resumeFlag != 0},
		Pages: le.Uint32(b[52:]), Reason: string(body[keyBytes : keyBytes+reasonBytes]),
	}
	if delta := body[keyBytes+reasonBytes:]; len(delta) > 0 {
		r.Delta = delta
	}
	if r.Agent, err = agent.ParseKey(string(body[:keyBytes])); err != nil {
		return Record{}, nil, corrupt("%v", err)
	}
	if err := r.Validate(); err != nil {
		return Record{}, nil, err
	}
	return r, rest, nil
}

// frame cuts the first record off b, having checked its checksum and version.
func frame(b []byte) (record, rest []byte, err error) {
	if len(b) < headerBytes {
		return nil, nil, corrupt("%d bytes are left, a record has at least %d", len(b), headerBytes)
	}
	le := binary.LittleEndian
	n := 4 + uint64(le.Uint32(b))
	switch {
	case n < headerBytes || n > MaxBytes:
		return nil, nil, corrupt("a length of %d bytes", n)
	case n > uint64(len(b)):
		return nil, nil, corrupt("%d bytes are left of a record of %d", len(b), n)
	}
	record, rest = b[:n:n], b[n:]
	if want, got := le.Uint32(record[4:]), checksum(record); want != got {
		return nil, nil, corrupt("checksum %08x, expected %08x", got, want)
	}
	switch v := record[8]; {
	case v > version:
		return nil, nil, newer(ErrVersion, "version", int(v))
	case v < version:
		return nil, nil, corrupt("version %d", v)
	}
	return record, rest, nil
}

func milli(b []byte) time.Time {
	return time.UnixMilli(int64(binary.LittleEndian.Uint64(b))).UTC()
}

// Validate says what is wrong with the record's numbers, in an error of kind
// Corrupt. It does not look into Delta and does not check Agent.
func (r *Record) Validate() error {
	switch r.Kind {
	case Commit:
		if r.Base == math.MaxUint64 || r.Seq != r.Base+1 {
			return corrupt("commit %d does not follow %d", r.Seq, r.Base)
		}
		if r.Pages == 0 || r.Pages > MaxPages {
			return corrupt("a database of %d pages", r.Pages)
		}
		if r.Reason != "" {
			return corrupt("a commit with a reason")
		}
		return nil
	case Delete:
		if r.Seq != 0 || r.Reason != "" {
			return corrupt("a deletion with number %d, reason %.40q", r.Seq, r.Reason)
		}
	case Quarantine:
		if r.Seq != r.Base {
			return corrupt("a quarantine that leads from commit %d to %d", r.Base, r.Seq)
		}
	default:
		return newer(ErrKind, "kind", int(r.Kind))
	}
	if r.Pages != 0 || len(r.Delta) != 0 {
		return corrupt("%d pages and a delta of %d bytes outside a commit", r.Pages, len(r.Delta))
	}
	return nil
}

func corrupt(format string, args ...any) error {
	return &agent.Error{Op: "read record", Kind: agent.Corrupt, Msg: "the record is damaged: " + fmt.Sprintf(format, args...)}
}

func newer(cause error, what string, n int) error {
	return &agent.Error{Op: "read record", Kind: agent.Invalid, Err: cause,
		Msg: fmt.Sprintf("a record of %s %d: upgrade agentd on this node", what, n)}
}
