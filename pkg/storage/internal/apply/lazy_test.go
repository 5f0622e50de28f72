package apply

import "agentd/internal/disk"

// lazy is the operating system's file system without syncs, which only take time
// where nothing crashes.
type lazy struct{ disk.OS }

func (l lazy) Open(path string, flags int) (disk.File, error) {
	f, err := l.OS.Open(path, flags)
	if err != nil {
		return nil, err
	}
	return lazyFile{f}, nil
}

func (lazy) SyncDir(string) error { return nil }
func (lazy) SyncFS(string) error  { return nil }

type lazyFile struct{ disk.File }

func (lazyFile) Sync() error { return nil }
