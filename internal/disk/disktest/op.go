package disktest

import "fmt"

// Kind is what an operation does.
type Kind uint8

const (
	Create  Kind = iota // Path appears, empty; of file File
	Mkdir               // Path appears, a folder
	Write               // Data at Offset of file File
	Resize              // file File has Offset bytes now
	Rename              // Path becomes To
	Remove              // Path goes
	Sync                // the file's bytes as of operation Upto are durable
	Written             // the write that is operation Upto is durable (O_DSYNC)
	SyncDir             // the names in Path as of operation Upto are durable
	SyncFS              // all bytes and names as of operation Upto are durable
)

var kindNames = [...]string{"create", "mkdir", "write", "resize", "rename", "remove", "sync", "written", "syncdir", "syncfs"}

func (k Kind) String() string { return kindNames[k] }

// Op is one operation that changed the folder or made something durable. Paths are
// relative to the Recorder's folder, which is ".".
type Op struct {
	Kind     Kind
	Path, To string // of Write, Resize, Sync and Written: as the file was opened
	File     int    // which file: a number that renames do not change
	Offset   int64
	Data     []byte
	Upto     int
}

func (o Op) String() string {
	switch o.Kind {
	case Write:
		return fmt.Sprintf("write %s %d+%d", o.Path, o.Offset, len(o.Data))
	case Resize:
		return fmt.Sprintf("resize %s %d", o.Path, o.Offset)
	case Rename:
		return fmt.Sprintf("rename %s %s", o.Path, o.To)
	}
	return fmt.Sprintf("%s %s", o.Kind, o.Path)
}
