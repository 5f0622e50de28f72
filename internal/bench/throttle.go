package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// throttled compares the engine with one sync for each commit on a disk that takes
// 500 writes a second, where the machine lets us say so.
func (r *run) throttled(ctx context.Context) error {
	undo, err := throttle(r.dir, 500)
	if err != nil {
		r.note("The slow disk was not measured: %v.", err)
		return nil
	}
	defer undo()
	plain, err := plainLoad(ctx, filepath.Join(r.dir, "plain-slow"), busyAgents, 10)
	if err != nil {
		return err
	}
	s, err := openSingle(ctx, filepath.Join(r.dir, "engine-slow"))
	if err != nil {
		return err
	}
	defer s.Close()
	if err := settledLog(ctx, s); err != nil {
		return err
	}
	many, err := storeLoad(ctx, s, busyAgents, 10)
	if err != nil {
		return err
	}
	r.add("64 busy agents on a disk of 500 writes a second", fmt.Sprintf("%.0f/s", many.perSecond), fmt.Sprintf("SQLite, one sync a commit: %.0f/s", plain.perSecond), ratio(many.perSecond, plain.perSecond), "≥ 10×")
	return nil
}

// throttle puts this process into a group of cgroup v1 whose writes to dir's disk
// are limited.
func throttle(dir string, perSecond int) (undo func(), err error) {
	const root = "/sys/fs/cgroup/blkio"
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return nil, err
	}
	group := filepath.Join(root, fmt.Sprintf("agentd-bench-%d", os.Getpid()))
	if err := os.Mkdir(group, 0o755); err != nil {
		return nil, err
	}
	own := []byte(fmt.Sprint(os.Getpid()))
	limit := fmt.Sprintf("%d:%d %d", unix.Major(st.Dev), unix.Minor(st.Dev), perSecond)
	undo = func() {
		_ = os.WriteFile(filepath.Join(root, "cgroup.procs"), own, 0) // leaving an empty group behind is harmless
		_ = os.Remove(group)
	}
	if err := os.WriteFile(filepath.Join(group, "blkio.throttle.write_iops_device"), []byte(limit), 0); err != nil {
		undo()
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), own, 0); err != nil {
		undo()
		return nil, err
	}
	return undo, nil
}
