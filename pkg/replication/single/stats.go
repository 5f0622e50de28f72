package single

import (
	"fmt"

	"agentd/pkg/storage/commitlog"
	"agentd/pkg/storage/engine"
)

// Stats is what an operator may want to see of a node's storage.
type Stats struct {
	engine.Stats
	Log commitlog.Stats
}

// Stats may be called at any time.
func (s *Store) Stats() Stats { return Stats{Stats: s.Store.Stats(), Log: s.log.Stats()} }

func describe(d commitlog.Damage) string {
	if d.Bytes == 0 {
		return "files of the log before this one are missing"
	}
	return fmt.Sprintf("%d bytes at offset %d cannot be read", d.Bytes, d.Offset)
}
