package governor

import (
	"bytes"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// threadID is a kernel thread of this process.
type threadID int

func currentThread() threadID { return threadID(unix.Gettid()) }

// lowerPriority makes the one thread yield to all others at once: a thread that
// wakes takes the processor from one of class SCHED_IDLE without waiting for the
// end of its slice, which it would with a mere nice value (sched(7)). The price: on
// a machine that other processes keep busy a long turn hardly runs.
func (t threadID) lowerPriority() error {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_IDLE}
	return unix.SchedSetAttr(int(t), &attr, 0)
}

// restorePriority lets a stopped turn reach the point at which it notices, however
// busy the machine is. The kernel allows it to processes with CAP_SYS_NICE only;
// without it the turn ends when the machine has a moment.
func (t threadID) restorePriority() {
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL}
	_ = unix.SchedSetAttr(int(t), &attr, 0) // refused without the capability; see above
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
