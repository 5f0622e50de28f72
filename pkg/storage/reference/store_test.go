package reference

import (
	"testing"
	"time"

	"go.uber.org/goleak"

	"agentd/pkg/storage"
	"agentd/pkg/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	storagetest.Run(t, storagetest.Engine{Open: func(dir string) (storage.Store, error) {
		return Open(Config{Dir: dir, Now: time.Now})
	}})
}
