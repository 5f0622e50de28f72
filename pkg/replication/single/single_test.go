package single

import (
	"testing"
	"time"

	"agentd/pkg/storage"
	"agentd/pkg/storage/storagetest"
)

func TestConformance(t *testing.T) {
	storagetest.Run(t, storagetest.Engine{Open: func(dir string) (storage.Store, error) {
		return Open(t.Context(), Config{Dir: dir, Now: time.Now, SegmentBytes: 1 << 20})
	}})
}
