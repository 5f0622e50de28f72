package reference

import (
	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

// life is what the catalog knows of an agent between Open and the moment at which
// its row is written after Close. Its fields are guarded by
// catalog.mu; err may be read once marked is closed.
type life struct {
	entry storage.Entry
	open  bool // false: closed, its row is not written yet
	stale bool // the row of an earlier life was still to be written when this began

	// mark is the durable note "read the file" of this life.
	asked  bool          // it was asked for
	marked chan struct{} // closed when it is known; made by the asker
	err    error         // why it failed; valid once marked is closed
}

// note is one change for the catalog's writer.
type note struct {
	kind  noteKind
	id    agent.ID
	life  *life         // noteMark, noteFinal
	entry storage.Entry // noteMark, noteFinal
	text  string        // noteQuarantine
	done  chan error    // buffered; nil if nobody waits
}

type noteKind uint8

const (
	noteMark       noteKind = iota // the agent is live: its row is no longer to be believed
	noteFinal                      // the agent is closed: its row is right again
	noteRemove                     // the agent is deleted
	noteQuarantine                 // an operator's or the actor's word
	noteDoom                       // the agent is about to be deleted: believe its file, which may be gone
)

// durable says whether somebody waits until the note is on disk. A final row may be
// lost: the older one says "read the file".
func (k noteKind) durable() bool { return k != noteFinal }
