package cli

import (
	"os"
	"time"
)

// clockSlack is how far a file system's clock may lag behind ours.
const clockSlack = 20 * time.Millisecond

// snapshot remembers what files looked like, to tell whether they have changed.
type snapshot struct {
	files map[string]stamp
	doubt bool // a file changed while it may have been read: nobody knows which half was
}

// stamp is what stat says of a file; zero if it is not there.
type stamp struct {
	modified int64 // ns since 1970
	size     int64
}

// takeSnapshot looks at files that were read between began and ended.
func takeSnapshot(paths []string, began, ended time.Time) snapshot {
	s := snapshot{files: make(map[string]stamp, len(paths))}
	from, to := began.Add(-clockSlack).UnixNano(), ended.UnixNano()
	for _, path := range paths {
		now := stampOf(path)
		s.files[path] = now
		s.doubt = s.doubt || (now.modified >= from && now.modified <= to)
	}
	return s
}

// stale says whether the files must be read again.
func (s snapshot) stale() bool {
	if s.doubt {
		return true
	}
	for path, was := range s.files {
		if stampOf(path) != was {
			return true
		}
	}
	return false
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{}
	}
	return stamp{modified: info.ModTime().UnixNano(), size: info.Size()}
}
