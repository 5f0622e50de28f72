// Package catalog is the fast engine's list of agents: who exists, who is open, who
// must be woken and when. It is derived from the log: the applier brings it every
// record, and after a crash the records since the last checkpoint once more. It
// stores no agent's data and makes no decision about waking.
//
// See DESIGN.md.
package catalog
