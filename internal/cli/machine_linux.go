package cli

import (
	"fmt"

	"golang.org/x/sys/unix"
)

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
