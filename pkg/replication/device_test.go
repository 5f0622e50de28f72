package replication_test

import (
	"syscall"
	"time"

	"agentd/internal/raftgroup"
	"agentd/internal/raftgroup/raftgrouptest"
)

// device is one disk that the logs of all shards write to together, each write taking
// a while: what arrives meanwhile goes with the next.
type device struct {
	writes chan chan struct{}
	end    chan struct{}
	took   time.Duration
	count  int
}

func newDevice(took time.Duration) *device {
	d := &device{writes: make(chan chan struct{}, 1024), end: make(chan struct{}), took: took}
	go d.run()
	return d
}

func (d *device) run() {
	var batch []chan struct{}
	for {
		select {
		case w := <-d.writes:
			batch = append(batch[:0], w)
		case <-d.end:
			return
		}
		for more := true; more; {
			select {
			case w := <-d.writes:
				batch = append(batch, w)
			default:
				more = false
			}
		}
		pause := syscall.NsecToTimespec(d.took.Nanoseconds())
		_ = syscall.Nanosleep(&pause, nil) // a system call, as a write is
		d.count++
		for _, w := range batch {
			close(w)
		}
	}
}

// deviceLog is a log in memory whose Append waits for the device.
type deviceLog struct {
	*raftgrouptest.Log
	device *device
}

func (l deviceLog) Append(entries []raftgroup.LogEntry) error {
	done := make(chan struct{})
	l.device.writes <- done
	<-done
	return l.Log.Append(entries)
}

// onDevice is a node's logs on a device.
type onDevice struct {
	*node
	device *device
}

func (d onDevice) Group(shard int) (raftgroup.Log, error) {
	return deviceLog{d.logs[shard], d.device}, nil
}
