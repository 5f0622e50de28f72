package placement

import (
	"bytes"
	"encoding/json"
	"time"

	"agentd/pkg/agent"
)

// MaxCommandBytes bounds the encoded form of a command. Only Form comes near: it
// may carry the table of the node from which the cluster grows.
const MaxCommandBytes = MaxTableBytes + 1<<20

// CommandFormat is the newest form of commands that this program applies. A node
// must not propose a command of a newer form than Table.Oldest: a node
// that cannot read a committed command has to stop.
const CommandFormat = 1

// Command is one change. Exactly one of its parts is set. At is the time at which
// it was proposed; the table never reads a clock.
type Command struct {
	At             time.Time
	Deploy         *Deploy         `json:",omitempty"`
	Rollback       *Rollback       `json:",omitempty"`
	Form           *Form           `json:",omitempty"`
	Join           *Join           `json:",omitempty"`
	Mark           *Mark           `json:",omitempty"`
	Remove         *Remove         `json:",omitempty"`
	AddLearner     *AddLearner     `json:",omitempty"`
	PromoteLearner *PromoteLearner `json:",omitempty"`
	DropLearner    *DropLearner    `json:",omitempty"`
	RemoveReplica  *RemoveReplica  `json:",omitempty"`
	Confirm        *Confirm        `json:",omitempty"`
	Revert         *Revert         `json:",omitempty"`
	SetPreferred   *SetPreferred   `json:",omitempty"`
	SetReplication *SetReplication `json:",omitempty"`
	SetNamespace   *SetNamespace   `json:",omitempty"`
	DropNamespace  *DropNamespace  `json:",omitempty"`
}

// part is what a command says. apply must be a function of its arguments alone:
// every node computes it for itself. It returns t itself when nothing changes.
type part interface {
	apply(t *Table, at time.Time) (*Table, []ClassVersion, error)
}

// Apply returns the table after cmd and the versions of classes that cmd made or
// confirmed. A command that cannot be applied changes nothing; its error has kind
// Invalid (malformed), NotFound or UnknownClass (names what is not there), Conflict
// (does not fit the present state), Denied (the node may not be part of this
// cluster), TooLarge (a limit of the table) or Unavailable (not before Form). A
// command that asks for what is so already is no error and changes nothing.
func (t *Table) Apply(cmd Command) (*Table, []ClassVersion, error) {
	const op = "apply placement command"
	p, err := cmd.part()
	if err != nil {
		return t, nil, err
	}
	// JSON cannot hold other years, and a time zone is no part of the agreed state.
	at := cmd.At.UTC().Round(0)
	if y := at.Year(); y < 1 || y > 9999 {
		return t, nil, refuse(op, agent.Invalid, "the year %d is out of range", y)
	}
	if len(t.shards) == 0 && cmd.Form == nil {
		return t, nil, refuse(op, agent.Unavailable, "the cluster has not been formed yet: wait until enough nodes have joined (--bootstrap-expect)")
	}
	next, made, err := p.apply(t, at)
	if err != nil || next == t {
		return t, made, err
	}
	next.revision = t.revision + 1 // apply gave a copy of its own
	return next, made, nil
}

// part is the only part that is set. Adding one means: the field, a line here.
func (c *Command) part() (part, error) {
	var found part
	n := 0
	take := func(set bool, p part) {
		if set {
			n, found = n+1, p
		}
	}
	take(c.Deploy != nil, c.Deploy)
	take(c.Rollback != nil, c.Rollback)
	take(c.Form != nil, c.Form)
	take(c.Join != nil, c.Join)
	take(c.Mark != nil, c.Mark)
	take(c.Remove != nil, c.Remove)
	take(c.AddLearner != nil, c.AddLearner)
	take(c.PromoteLearner != nil, c.PromoteLearner)
	take(c.DropLearner != nil, c.DropLearner)
	take(c.RemoveReplica != nil, c.RemoveReplica)
	take(c.Confirm != nil, c.Confirm)
	take(c.Revert != nil, c.Revert)
	take(c.SetPreferred != nil, c.SetPreferred)
	take(c.SetReplication != nil, c.SetReplication)
	take(c.SetNamespace != nil, c.SetNamespace)
	take(c.DropNamespace != nil, c.DropNamespace)
	if n != 1 {
		return nil, refuse("apply placement command", agent.Invalid, "the command has %d parts; it must have exactly one", n)
	}
	return found, nil
}

// wireCommand is a command as it stands in the log.
type wireCommand struct {
	Format int `json:"format"`
	Command
}

// EncodeCommand writes a command for the log. Errors: Invalid, TooLarge.
func EncodeCommand(cmd Command) ([]byte, error) {
	const op = "encode placement command"
	if _, err := cmd.part(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(wireCommand{Format: CommandFormat, Command: cmd})
	switch {
	case err != nil:
		return nil, &agent.Error{Op: op, Kind: agent.Invalid, Err: err}
	case len(data) > MaxCommandBytes:
		return nil, refuse(op, agent.TooLarge, "the command has %d bytes; at most %d are allowed", len(data), MaxCommandBytes)
	}
	return data, nil
}

// DecodeCommand reads what EncodeCommand wrote. It refuses what it does not know
// to the last field: applying half of a command would make this node's table
// differ from the others'. An error of kind Unavailable means that a newer agentd
// wrote it; Corrupt, that it is damaged. Either way the node must stop applying.
func DecodeCommand(data []byte) (Command, error) {
	const op = "decode placement command"
	if len(data) > MaxCommandBytes {
		return Command{}, refuse(op, agent.Corrupt, "it has %d bytes; at most %d are possible", len(data), MaxCommandBytes)
	}
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Command{}, &agent.Error{Op: op, Kind: agent.Corrupt, Err: err}
	}
	if head.Format > CommandFormat {
		return Command{}, refuse(op, agent.Unavailable,
			"it has format %d and this agentd reads %d: start the version that the other nodes run", head.Format, CommandFormat)
	}
	var w wireCommand
	if err := decodeStrict(data, &w); err != nil {
		return Command{}, &agent.Error{Op: op, Kind: agent.Corrupt, Err: err}
	}
	if w.Format != CommandFormat {
		return Command{}, refuse(op, agent.Corrupt, "it has format %d", w.Format)
	}
	if _, err := w.part(); err != nil {
		return Command{}, &agent.Error{Op: op, Kind: agent.Corrupt, Err: err}
	}
	return w.Command, nil
}

// decodeStrict reads one JSON value without unknown fields. Its callers have had
// json.Unmarshal look at it, which refuses a tail.
func decodeStrict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
