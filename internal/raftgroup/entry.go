package raftgroup

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"
)

// Entry is one committed proposal as a Machine sees it.
type Entry struct {
	Index uint64 // in the group's log; ascends, with holes where raft keeps its own entries
	Term  uint64 // of the leader that proposed it
	Data  []byte // as given to Propose; on the proposing leader the very same bytes
}

// seal travels beside every proposal (raft calls it the entry's extensions). It holds
// the term in which the proposal was made: raft may log what waits in its queue in a
// later term, after the proposer was told that its term is over. Such an entry is
// void, on every replica alike, since each compares the two terms.
//
// marker is 0 for data, else the number of a Barrier that waits for this entry.
type seal struct{ term, marker uint64 }

const sealBytes = 16

func (s seal) encode() []byte {
	b := make([]byte, sealBytes)
	binary.LittleEndian.PutUint64(b, s.term)
	binary.LittleEndian.PutUint64(b[8:], s.marker)
	return b
}

func decodeSeal(l *raft.Log) (seal, error) {
	if len(l.Extensions) != sealBytes {
		return seal{}, fmt.Errorf("entry %d has %d bytes of extensions, not %d: it was written by another version", l.Index, len(l.Extensions), sealBytes)
	}
	return seal{term: binary.LittleEndian.Uint64(l.Extensions), marker: binary.LittleEndian.Uint64(l.Extensions[8:])}, nil
}

// void says whether the entry was logged in another term than it was meant for.
func (s seal) void(l *raft.Log) bool { return s.term != l.Term }
