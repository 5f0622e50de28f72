// Package record is the form in which an agent's commits travel: into the commit
// log, to other replicas, and into agents' files. It is pure: bytes in, values out.
package record

import (
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// Kind says what a record does to its agent.
type Kind uint8

const (
	Commit     Kind = 1 // one transaction: Delta, Pages, Wake, Seq = Base+1
	Delete     Kind = 2 // the agent and its file go; Base is its last number, Seq is 0
	Quarantine Kind = 3 // Reason is set, or lifted if empty; no part of the chain: Base and Seq are 0
)

// Record is one change of one agent. Its numbers form a chain: a replica applies a
// record only if Base is the number that it has reached.
type Record struct {
	Kind      Kind
	Agent     agent.ID
	Base, Seq uint64
	At        time.Time // of the commit, in milliseconds; never before that of Base
	CreatedAt time.Time // of the agent's first commit, in milliseconds
	Wake      storage.Wake
	Pages     uint32 // pages of the database after the commit
	Delta     Delta
	Reason    string
}

// PageBytes is the size of a database page; the last TrailerBytes of each are ours
// (SQLite's reserved bytes) and hold its checksum.
const (
	PageBytes    = 4096
	TrailerBytes = 8
)

// Delta is the changed bytes of a commit, page by page in ascending order, as the
// capture layer (internal/sqlite/capture.c) writes them. All numbers are
// little-endian. A page entry is
//
//	u32 page number (from 1)
//	u16 number of runs n, 1 to 1024; 0xFFFF for a whole page
//	n times: u16 offset, u16 length (at least 1), length bytes; runs ascend and do
//	not overlap or touch
//	or, for a whole page, PageBytes bytes
//
// Bytes are absolute: to apply a delta twice, or over a page that a crash tore, gives
// the same page. A page that did not exist before counts as zeros. Bytes include the
// page's trailer.
type Delta []byte
