package cli

import (
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// memoryLimit is the memory of the machine in bytes, or of the tightest cgroup
// around this process if that is less; 0 if neither can be read.
func memoryLimit() uint64 {
	total := machineMemory()
	if limit := cgroupMemory(); limit > 0 && (total == 0 || limit < total) {
		return limit
	}
	return total
}

func machineMemory() uint64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// cgroupMemory is the smallest limit on the way from this process's group to the
// root; 0 if there is none.
func cgroupMemory() uint64 {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return 0
	}
	var least uint64
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		root, file := "/sys/fs/cgroup", "memory.max"
		if parts[1] == "memory" {
			root, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
		} else if parts[1] != "" {
			continue
		}
		for dir := path.Clean("/" + parts[2]); ; dir = path.Dir(dir) {
			if limit := readLimit(path.Join(root, dir, file)); limit > 0 && (least == 0 || limit < least) {
				least = limit
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// readLimit is the number in a cgroup file. Version 1 writes an absurd number for
// "none", version 2 the word max.
func readLimit(file string) uint64 {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	limit, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || limit >= 1<<60 {
		return 0
	}
	return limit
}

// kernel is the system's name and release.
func kernel() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(name.Sysname[:]) + " " + unix.ByteSliceToString(name.Release[:])
}

// descriptorLimit is how many files this process may open.
func descriptorLimit() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	return limit.Cur, nil
}

// freeBytes is what an ordinary user may still write to the file system of dir,
// and a warning about file systems that do not keep data as a disk does.
func freeBytes(dir string) (free uint64, doubt string, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, "", err
	}
	switch int64(fs.Type) {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		doubt = "this file system is in memory: everything is lost when the machine restarts"
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC:
		doubt = fmt.Sprintf("this file system (type %#x) may not keep what it acknowledged: use a local disk", int64(fs.Type))
	}
	return fs.Bavail * uint64(fs.Bsize), doubt, nil
}
