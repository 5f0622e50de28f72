package apply

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// counted is a disk that counts open files and allows so many.
type counted struct {
	lazy
	mu   sync.Mutex
	open int
	most int
	ever int
}

func (c *counted) Open(path string, flags int) (disk.File, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= c.most {
		return nil, &fs.PathError{Op: "open", Path: path, Err: unix.EMFILE}
	}
	f, err := c.lazy.Open(path, flags)
	if err != nil {
		return nil, err
	}
	c.open++
	c.ever++
	return &countedFile{File: f, of: c}, nil
}

type countedFile struct {
	disk.File
	of *counted
}

func (f *countedFile) Close() error {
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	f.of.open--
	return f.File.Close()
}

// stored makes agents with a page each.
func stored(t *testing.T, fsys disk.FS, spares int, names ...string) *Files {
	t.Helper()
	f, err := OpenFiles(fsys, filepath.Join(t.TempDir(), "agents"), spares)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := f.Path(named(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, make([]byte, record.PageBytes), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func acquire(t *testing.T, f *Files, name string) *Handle {
	t.Helper()
	h, err := f.Acquire(named(name))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestFiles_HoldersShareAHandle(t *testing.T) {
	c := &counted{most: 9}
	f := stored(t, c, 4, "a")
	x, y := acquire(t, f, "a"), acquire(t, f, "a")
	if x != y || x.FD() < 0 || x.Pages() != 1 || c.ever != 1 {
		t.Errorf("%p and %p, descriptor %d, %d pages, opened %d times", x, y, x.FD(), x.Pages(), c.ever)
	}
	if none := acquire(t, f, "nobody"); none.FD() != -1 || none.Pages() != 0 {
		t.Errorf("descriptor %d of a file that does not exist", none.FD())
	} else {
		none.Release()
	}
	x.Release()
	if y.FD() < 0 {
		t.Error("closed while it is held")
	}
	y.Release()
	if err := f.Close(); err != nil || c.open != 0 {
		t.Errorf("%d are open, %v", c.open, err)
	}
}

func TestFiles_KeepsTheYoungestSpares(t *testing.T) {
	c := &counted{most: 99}
	f := stored(t, c, 2, "a", "b", "c")
	for _, name := range []string{"a", "b", "a", "c"} { // b is the oldest then
		acquire(t, f, name).Release()
	}
	if held, spare := f.Open(); held != 0 || spare != 2 || c.open != 2 {
		t.Errorf("%d held, %d spare, %d open", held, spare, c.open)
	}
	before := c.ever
	acquire(t, f, "a").Release()
	acquire(t, f, "c").Release()
	if c.ever != before {
		t.Error("a spare was not used")
	}
	acquire(t, f, "b").Release()
	if c.ever != before+1 {
		t.Error("the oldest was kept")
	}
	kept := acquire(t, f, "a")
	if err := f.Close(); err != nil || c.open != 1 {
		t.Errorf("%d are open while one is held, %v", c.open, err)
	}
	kept.Release()
	if c.open != 0 {
		t.Error("the last release did not close it")
	}
	if _, err := f.Acquire(named("a")); agent.KindOf(err) != agent.Unavailable {
		t.Error(err)
	}
}

func TestFiles_MakesDoWithFewDescriptors(t *testing.T) {
	c := &counted{most: 3}
	f := stored(t, c, 10, "a", "b", "c", "d", "e")
	for _, name := range []string{"a", "b", "c", "d"} {
		acquire(t, f, name).Release()
	}
	x, y, z := acquire(t, f, "a"), acquire(t, f, "b"), acquire(t, f, "e")
	if _, err := f.Acquire(named("c")); agent.KindOf(err) != agent.Overloaded || !errors.Is(err, unix.EMFILE) {
		t.Error(err)
	}
	for _, h := range []*Handle{x, y, z} {
		h.Release()
	}
	acquire(t, f, "c").Release()
	if err := f.Close(); err != nil || c.open != 0 {
		t.Error(c.open, err)
	}
}

func TestFiles_WalkFindsAgentsOnly(t *testing.T) {
	f := stored(t, lazy{}, 1, "a", "b")
	for _, name := range []string{"x.db", "ab/x.db", "README", "ab/cd/x.txt", "ab/cd/ef/x.db", "abc/de/x.db"} {
		path := filepath.Join(f.dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{f.Path(named("a")), f.Path(named("b"))}
	slices.Sort(want)
	var got []string
	err := f.Walk(t.Context(), func(path string) error { got = append(got, path); return nil })
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
	stop := errors.New("stop")
	if err := f.Walk(t.Context(), func(string) error { return stop }); err != stop {
		t.Error(err)
	}
}

func TestFiles_SaysWhoMayNotWrite(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root may do everything")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFiles(lazy{}, filepath.Join(dir, "agents"), 1); agent.KindOf(err) != agent.Denied {
		t.Error(err)
	}
}

// sealed is an image with right checksums.
func sealed(pages int) image {
	im := filled(pages, 7)
	for page := range pages {
		seal(uint32(page+1), im[page*record.PageBytes:][:record.PageBytes])
	}
	return im
}

func TestVerify_FindsEveryDamagedPage(t *testing.T) {
	f := stored(t, lazy{}, 1, "a")
	im := sealed(200)
	path := f.Path(named("a"))
	write := func(b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(im)
	for _, verify := range []func() (Report, error){
		func() (Report, error) { return f.Verify(t.Context(), named("a")) },
		func() (Report, error) { return f.VerifyPath(t.Context(), path) },
	} {
		write(im)
		if r, err := verify(); err != nil || !r.Sound() || r.Pages != 200 || r.Path != path {
			t.Errorf("%+v, %v", r, err)
		}
		broken := bytes.Clone(im)
		broken[0] ^= 1
		broken[70*4096+5] ^= 1
		write(append(broken, 1, 2, 3))
		if r, err := verify(); err != nil || r.Sound() || !slices.Equal(r.Bad, []uint32{1, 71}) || r.BadPages != 2 || r.Tail != 3 {
			t.Errorf("%+v, %v", r, err)
		}
		fill(broken, 9)
		write(broken)
		if r, err := verify(); err != nil || len(r.Bad) != badPagesMax || r.BadPages != 200 {
			t.Errorf("%d numbers of %d bad pages, %v", len(r.Bad), r.BadPages, err)
		}
	}
	if _, err := f.Verify(t.Context(), named("nobody")); agent.KindOf(err) != agent.NotFound {
		t.Error(err)
	}
}

func TestDump_CopiesASoundFileOnly(t *testing.T) {
	f := stored(t, lazy{}, 1, "a")
	im := sealed(70)
	path := f.Path(named("a"))
	if err := os.WriteFile(path, im, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := f.Dump(t.Context(), named("a"), &out); err != nil || !bytes.Equal(out.Bytes(), im) {
		t.Errorf("%d bytes, %v", out.Len(), err)
	}
	if err := f.Dump(t.Context(), named("nobody"), &out); agent.KindOf(err) != agent.NotFound {
		t.Error(err)
	}
	// A write in the middle.
	err := f.Dump(t.Context(), named("a"), writerFunc(func(b []byte) (int, error) {
		h := acquire(t, f, "a")
		defer h.Release()
		if _, _, err := h.begin(); err != nil {
			t.Error(err)
		}
		h.end(70, nil)
		return len(b), nil
	}))
	if agent.KindOf(err) != agent.Conflict {
		t.Error(err)
	}
	im[69*4096+1] ^= 1
	if err := os.WriteFile(path, im, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := f.Dump(t.Context(), named("a"), &out); agent.KindOf(err) != agent.Corrupt {
		t.Error(err)
	}
}

// While a worker writes, a page may be read half written: that is no damage.
func TestVerify_IsNotMisledByWrites(t *testing.T) {
	f := stored(t, lazy{}, 1, "a")
	h := acquire(t, f, "a")
	defer h.Release()
	bad := filled(1, 1)
	if err := os.WriteFile(h.Path(), bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.begin(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Verify(t.Context(), named("a")); agent.KindOf(err) != agent.Conflict {
		t.Error("during a write:", err)
	}
	if err := f.Dump(t.Context(), named("a"), &bytes.Buffer{}); agent.KindOf(err) != agent.Conflict {
		t.Error("during a write:", err)
	}
	h.end(1, nil)
	if r, err := f.Verify(t.Context(), named("a")); err != nil || r.BadPages != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

type writerFunc func([]byte) (int, error)

func (fn writerFunc) Write(b []byte) (int, error) { return fn(b) }
