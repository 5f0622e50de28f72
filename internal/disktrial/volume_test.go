package disktrial

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// volume is an ext4 file system of its own in a file.
type volume struct {
	*testing.T
	device  string // the loop device
	dir     string // where it is mounted
	mounted bool
}

func newVolume(t *testing.T, mebibytes int64) *volume {
	t.Helper()
	if os.Getuid() != 0 {
		missing(t, "mounting needs root, this is uid %d", os.Getuid())
	}
	for _, tool := range []string{"mkfs.ext4", "losetup", "mount", "umount"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing(t, "%v", err)
		}
	}
	base := t.TempDir()
	image := filepath.Join(base, "image")
	v := &volume{T: t, dir: filepath.Join(base, "mount")}
	must(t, os.Mkdir(v.dir, 0o755))
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, mebibytes<<20))
	if out, err := run("mkfs.ext4", "-q", "-F", "-m", "0", image); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	out, err := run("losetup", "--find", "--show", image)
	if err != nil {
		missing(t, "losetup: %v: %s", err, out)
	}
	v.device = out
	t.Cleanup(func() {
		if out, err := run("losetup", "-d", v.device); err != nil {
			t.Errorf("losetup -d %s: %v: %s", v.device, err, out)
		}
	})
	t.Cleanup(func() {
		if v.mounted {
			_, _ = run("umount", "-l", v.dir)
		}
	})
	if out, err := run("mount", "-t", "ext4", v.device, v.dir); err != nil {
		missing(t, "mount: %v: %s", err, out)
	}
	v.mounted = true
	return v
}

func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cut is the power cut: nothing that is only in memory gets to the device any more,
// and every later write fails.
func (v *volume) cut() {
	v.Helper()
	const shutdown, noLogFlush = 0x8004587d, 2 // EXT4_IOC_SHUTDOWN
	dir, err := os.Open(v.dir)
	must(v.T, err)
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, noLogFlush); err != nil {
		missing(v.T, "the kernel's ext4 cannot be shut down: %v", err)
	}
}

// remount is what a machine does when power is back.
func (v *volume) remount(options ...string) {
	v.Helper()
	v.unmount()
	args := append([]string{"-t", "ext4"}, options...)
	if out, err := run("mount", append(args, v.device, v.dir)...); err != nil {
		v.Fatalf("mount: %v: %s", err, out)
	}
	v.mounted = true
}

// unmount repeats while the kernel still closes files of a process that has ended.
func (v *volume) unmount() {
	v.Helper()
	poll(v.T, "umount", func() error { return unix.Unmount(v.dir, 0) })
	v.mounted = false
}

// poll repeats fn until it succeeds, for at most 20 s.
func poll(t *testing.T, what string, fn func() error) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s still fails: %v", what, err)
		}
	}
}

// ballast fills the file system until at most spare bytes are left.
func (v *volume) ballast(spare int64) {
	v.Helper()
	f, err := os.OpenFile(v.ballastPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	must(v.T, err)
	defer f.Close()
	for _, piece := range []int{1 << 20, 64 << 10, 4 << 10} {
		for v.free() >= spare+int64(piece) {
			_, err := f.Write(make([]byte, piece))
			if errors.Is(err, unix.ENOSPC) {
				break
			}
			must(v.T, err)
			must(v.T, f.Sync()) // delayed allocation would not count it yet
		}
	}
}

// release gives the ballast's space back.
func (v *volume) release() {
	v.Helper()
	must(v.T, os.Remove(v.ballastPath()))
}

func (v *volume) ballastPath() string { return filepath.Join(v.dir, "ballast") }

func (v *volume) free() int64 {
	v.Helper()
	var st unix.Statfs_t
	must(v.T, unix.Statfs(v.dir, &st))
	return int64(st.Bavail) * st.Bsize
}
