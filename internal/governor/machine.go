package governor

import (
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
)

// guessedMemory is what a machine is taken to have that does not say: little
// enough for a small one.
const guessedMemory = 4 << 30

// unlimited is where numbers of a cgroup begin to mean "none": version 1 writes the
// largest multiple of a page, version 2 the word max.
const unlimited = 1 << 60

// MachineMemory is how many bytes of memory this process may come to use: those of
// the machine, or of the tightest cgroup around the process (version 1 or 2) if
// that is less. Where neither can be read, as outside Linux, it is a careful guess
// of 4 GiB. It reads a few files of the kernel; any goroutine.
func MachineMemory() uint64 { return machineMemory(os.DirFS("/")) }

func machineMemory(root fs.FS) uint64 {
	total := installedMemory(root)
	if limit := cgroupMemory(root); limit > 0 && (total == 0 || limit < total) {
		total = limit
	}
	if total == 0 {
		return guessedMemory
	}
	return total
}

// installedMemory is what the kernel manages (proc(5), meminfo); 0 if it cannot be
// read.
func installedMemory(root fs.FS) uint64 {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "MemTotal:" {
			continue
		}
		kib, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil || kib >= unlimited>>10 {
			return 0
		}
		return kib << 10
	}
	return 0
}

// cgroupMemory is the smallest limit on the way from this process's group to the
// root; 0 if there is none. In a container the group's path may be that of the
// host, and only the root of what is mounted exists: missing groups are passed over.
func cgroupMemory(root fs.FS) uint64 {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	var least uint64
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // number, controllers, path
		if len(parts) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		if version1 := parts[1] != ""; version1 {
			if !hasController(parts[1], "memory") {
				continue
			}
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			if limit := readLimit(root, path.Join(mount, dir, file)); limit > 0 && (least == 0 || limit < least) {
				least = limit
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

func hasController(list, name string) bool {
	for c := range strings.SplitSeq(list, ",") {
		if c == name {
			return true
		}
	}
	return false
}

// readLimit is the number in a cgroup's file; 0 for none.
func readLimit(root fs.FS, file string) uint64 {
	text, err := fs.ReadFile(root, file)
	if err != nil {
		return 0
	}
	limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || limit >= unlimited {
		return 0
	}
	return limit
}
