// Package raftmsg is how the messages of raft look between two nodes: bytes, little
// endian, without reflection. It does not know raft, and nothing that it reads from
// the network can make it panic or allocate more than the message is long.
//
// Every message begins with its version. A release reads its own version and the one
// before, and writes the one before as long as a member may be of that release.
package raftmsg

import (
	"encoding/binary"
	"errors"
	"time"
)

// Version of the messages that are written.
const Version = 1

// Kind says what a message is; it travels beside the message. Numbers are never reused.
type Kind uint8

const (
	KindHeartbeat  Kind = 1 // an Append without entries that must not wait for a disk
	KindAppend     Kind = 2
	KindVote       Kind = 3
	KindPreVote    Kind = 4
	KindTimeoutNow Kind = 5
	KindInstall    Kind = 6 // its content follows as a stream
)

// Header is who sends a message, and in which version of raft's protocol.
type Header struct {
	Protocol uint8
	Node     []byte
	Address  []byte
}

// Entry is one entry of a group's log.
type Entry struct {
	Index, Term uint64
	Type        uint8
	AppendedAt  time.Time // zero or in nanoseconds; without a zone
	Data        []byte
	Extensions  []byte
}

// Append asks a member to append entries, and tells what is committed.
type Append struct {
	Header
	Term, PrevIndex, PrevTerm, Commit uint64
	Entries                           []Entry
}

// Vote asks for a vote, or whether one would be given.
type Vote struct {
	Header
	Term, LastIndex, LastTerm uint64
	Transfer                  bool
}

// Install announces a snapshot.
type Install struct {
	Header
	SnapshotVersion                               uint8
	Term, LastIndex, LastTerm, ConfigurationIndex uint64
	Size                                          int64
	Configuration                                 []byte
}

// Reply answers all of them; each kind uses what it needs.
type Reply struct {
	Header
	Term, LastLog uint64
	Success       bool // or the vote is granted
	NoBackoff     bool
}

// ErrDamaged is what no node of a known release has sent.
var ErrDamaged = errors.New("a message of raft is damaged or of another version")

// entryBytes is the least that an entry takes.
const entryBytes = 8 + 8 + 1 + 8 + 4 + 4

// EncodedBytes is what an entry takes in an Append.
func (e *Entry) EncodedBytes() int { return entryBytes + len(e.Data) + len(e.Extensions) }

func (h *Header) append(b []byte) []byte {
	b = append(b, Version, h.Protocol)
	return text(text(b, h.Node), h.Address)
}

func text(b, s []byte) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...) //nolint:gosec // messages are bounded far below
}

func numbers(b []byte, list ...uint64) []byte {
	for _, n := range list {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	return b
}

func flags(b []byte, list ...bool) []byte {
	var f byte
	for i, set := range list {
		if set {
			f |= 1 << i
		}
	}
	return append(b, f)
}

// Encode makes the bytes of a message.
func (a *Append) Encode() []byte {
	size := 64 + len(a.Node) + len(a.Address)
	for i := range a.Entries {
		size += a.Entries[i].EncodedBytes()
	}
	b := numbers(a.append(make([]byte, 0, size)), a.Term, a.PrevIndex, a.PrevTerm, a.Commit)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(a.Entries))) //nolint:gosec // bounded by the size of a message
	for i := range a.Entries {
		e := &a.Entries[i]
		var at uint64
		if !e.AppendedAt.IsZero() {
			at = uint64(e.AppendedAt.UnixNano()) //nolint:gosec // two's complement, and back
		}
		b = append(numbers(b, e.Index, e.Term), e.Type)
		b = text(text(numbers(b, at), e.Data), e.Extensions)
	}
	return b
}

// DecodeAppend reads an Append. Its entries share memory with b.
func DecodeAppend(b []byte) (*Append, error) {
	r := reader{b: b}
	a := &Append{Header: r.header(), Term: r.number(), PrevIndex: r.number(), PrevTerm: r.number(), Commit: r.number()}
	n := r.size()
	if r.bad || n > len(r.b)/entryBytes {
		return nil, ErrDamaged
	}
	if n > 0 {
		a.Entries = make([]Entry, n)
	}
	for i := range a.Entries {
		e := &a.Entries[i]
		e.Index, e.Term, e.Type = r.number(), r.number(), r.byte()
		if at := r.number(); at != 0 {
			e.AppendedAt = time.Unix(0, int64(at)).UTC() //nolint:gosec // as above
		}
		e.Data, e.Extensions = r.text(), r.text()
	}
	return a, r.end()
}

// Encode makes the bytes of a message.
func (v *Vote) Encode() []byte {
	return flags(numbers(v.append(nil), v.Term, v.LastIndex, v.LastTerm), v.Transfer)
}

// DecodeVote reads a Vote.
func DecodeVote(b []byte) (*Vote, error) {
	r := reader{b: b}
	v := &Vote{Header: r.header(), Term: r.number(), LastIndex: r.number(), LastTerm: r.number()}
	v.Transfer = r.flags(1)&1 != 0
	return v, r.end()
}

// Encode makes the bytes of a message that is nothing but its sender.
func (h *Header) Encode() []byte { return h.append(nil) }

// DecodeHeader reads a Header.
func DecodeHeader(b []byte) (*Header, error) {
	r := reader{b: b}
	h := r.header()
	return &h, r.end()
}

// Encode makes the bytes of a message.
func (i *Install) Encode() []byte {
	b := append(i.append(nil), i.SnapshotVersion)
	return text(numbers(b, i.Term, i.LastIndex, i.LastTerm, i.ConfigurationIndex, uint64(i.Size)), i.Configuration) //nolint:gosec // not negative
}

// DecodeInstall reads an Install.
func DecodeInstall(b []byte) (*Install, error) {
	r := reader{b: b}
	i := &Install{Header: r.header(), SnapshotVersion: r.byte(), Term: r.number(), LastIndex: r.number(), LastTerm: r.number(),
		ConfigurationIndex: r.number(), Size: int64(r.number()), Configuration: nil} //nolint:gosec // checked below
	i.Configuration = r.text()
	if i.Size < 0 {
		return nil, ErrDamaged
	}
	return i, r.end()
}

// Encode makes the bytes of a message.
func (p *Reply) Encode() []byte {
	return flags(numbers(p.append(nil), p.Term, p.LastLog), p.Success, p.NoBackoff)
}

// DecodeReply reads a Reply.
func DecodeReply(b []byte) (*Reply, error) {
	r := reader{b: b}
	p := &Reply{Header: r.header(), Term: r.number(), LastLog: r.number()}
	f := r.flags(2)
	p.Success, p.NoBackoff = f&1 != 0, f&2 != 0
	return p, r.end()
}

// reader takes a message apart. Once it is bad it yields zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	part := r.b[:n:n]
	r.b = r.b[n:]
	return part
}

func (r *reader) byte() byte {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) number() uint64 {
	if p := r.take(8); p != nil {
		return binary.LittleEndian.Uint64(p)
	}
	return 0
}

func (r *reader) size() int {
	if p := r.take(4); p != nil {
		return int(binary.LittleEndian.Uint32(p))
	}
	return 0
}

// text is nil when it is empty.
func (r *reader) text() []byte {
	n := r.size()
	if n == 0 {
		return nil
	}
	return r.take(n)
}

// flags refuses bits beyond the first n.
func (r *reader) flags(n int) byte {
	f := r.byte()
	if f>>n != 0 {
		r.bad = true
	}
	return f
}

func (r *reader) header() Header {
	if r.byte() != Version {
		r.bad = true
	}
	return Header{Protocol: r.byte(), Node: r.text(), Address: r.text()}
}

func (r *reader) end() error {
	if r.bad || len(r.b) != 0 {
		return ErrDamaged
	}
	return nil
}
