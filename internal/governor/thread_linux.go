package governor

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// lowest is the nice value of a thread that runs a long turn: it gets about a
// seventieth of the weight of an ordinary one.
const lowest = 19

// threadID is a kernel thread of this process.
type threadID int

func currentThread() threadID { return threadID(unix.Gettid()) }

// lowerPriority acts on the one thread: on Linux a nice value belongs to a thread,
// not to the process (setpriority(2), NOTES).
func (t threadID) lowerPriority() error {
	return unix.Setpriority(unix.PRIO_PROCESS, int(t), lowest)
}

// pageFaults is the number of minor faults of the thread so far (proc(5), minflt),
// 0 when it cannot be read.
func (t threadID) pageFaults() uint64 {
	stat, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(int(t)) + "/stat")
	if err != nil {
		return 0
	}
	// The second field is a name in parentheses that may hold spaces.
	i := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[i+1:])
	const minflt = 10 - 3 // field 10 of the line; fields begins with field 3
	if len(fields) <= minflt {
		return 0
	}
	n, err := strconv.ParseUint(string(fields[minflt]), 10, 64)
	if err != nil {
		return 0
	}
	return n
}
