package apply

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

const (
	inspectPages = 64  // read at once
	badPagesMax  = 100 // numbers kept in a Report
	rereadsMax   = 16  // of a page that is written at the same time
)

// Report is what Verify found.
type Report struct {
	Path     string
	Pages    uint32
	Bad      []uint32 // numbers of damaged pages, the first 100
	BadPages int      // how many there are
	Tail     int64    // bytes behind the last whole page
}

// Sound says whether nothing is wrong.
func (r Report) Sound() bool { return r.BadPages == 0 && r.Tail == 0 }

// Verify checks every page of the agent's file against its checksum. The agent may be
// in use. A file says what its log said only once the log has been applied again
// after a crash. Errors: NotFound, Conflict (written to all the time), those of
// Acquire, and those of reading.
func (f *Files) Verify(ctx context.Context, id agent.ID) (Report, error) {
	const op = "verify agent"
	h, file, err := f.existing(op, id)
	if err != nil {
		return Report{}, err
	}
	defer h.Release()
	return verify(ctx, op, id, h.path, file, h.writes.Load)
}

// VerifyPath is Verify for a path that Walk found; nobody may write to the file.
func (f *Files) VerifyPath(ctx context.Context, path string) (Report, error) {
	const op = "verify database file"
	file, err := f.fs.Open(path, os.O_RDONLY)
	if err != nil {
		return Report{}, fileError(op, agent.ID{}, path, err)
	}
	r, err := verify(ctx, op, agent.ID{}, path, file, func() uint64 { return 0 })
	return r, errors.Join(err, file.Close())
}

// existing acquires a handle that has a file.
func (f *Files) existing(op string, id agent.ID) (*Handle, disk.File, error) {
	if err := id.Validate(); err != nil {
		return nil, nil, err
	}
	h, err := f.Acquire(id)
	if err != nil {
		return nil, nil, err
	}
	h.mu.Lock()
	file := h.file
	h.mu.Unlock()
	if file == nil {
		h.Release()
		return nil, nil, &agent.Error{Op: op, Agent: id, Kind: agent.NotFound, Err: fs.ErrNotExist, Msg: "the agent has no file"}
	}
	return h, file, nil
}

// verify reads a file page by page. writes is odd while the file is changed and
// different afterwards.
func verify(ctx context.Context, op string, id agent.ID, path string, file disk.File, writes func() uint64) (Report, error) {
	size, err := file.Size()
	if err != nil {
		return Report{}, fileError(op, id, path, err)
	}
	r := Report{Path: path, Pages: uint32(size / record.PageBytes), Tail: size % record.PageBytes}
	buf := make([]byte, inspectPages*record.PageBytes)
	for page := uint32(1); page <= r.Pages; {
		if ctx.Err() != nil {
			return r, agent.FromContext(ctx, op, id)
		}
		n := min(r.Pages-page+1, inspectPages)
		part := buf[:int(n)*record.PageBytes]
		if err := readPages(file, page, part); err != nil {
			return r, fileError(op, id, path, err)
		}
		for i := range n {
			if record.SoundPage(page+i, part[i*record.PageBytes:][:record.PageBytes]) {
				continue
			}
			sound, err := reread(op, id, path, file, page+i, writes)
			if err != nil {
				return r, err
			}
			if !sound {
				r.note(page + i)
			}
		}
		page += n
	}
	return r, nil
}

func (r *Report) note(page uint32) {
	if r.BadPages++; len(r.Bad) < badPagesMax {
		r.Bad = append(r.Bad, page)
	}
}

// reread reads a page that looked bad until no write came in between.
func reread(op string, id agent.ID, path string, file disk.File, page uint32, writes func() uint64) (sound bool, err error) {
	image := make([]byte, record.PageBytes)
	for range rereadsMax {
		before := writes()
		if err := readPages(file, page, image); err != nil {
			return false, fileError(op, id, path, err)
		}
		if sound = record.SoundPage(page, image); sound || before%2 == 0 && writes() == before {
			return sound, nil
		}
	}
	return false, busy(op, id)
}

// readPages reads whole pages; what the file has lost meanwhile is zero.
func readPages(file disk.File, page uint32, b []byte) error {
	n, err := file.ReadAt(b, int64(page-1)*record.PageBytes)
	if err == io.EOF {
		clear(b[n:])
		return nil
	}
	return err
}

func busy(op string, id agent.ID) error {
	return &agent.Error{Op: op, Agent: id, Kind: agent.Conflict,
		Msg: "the agent's file was written to at the same time: try again when the agent is idle, or stop agentd first"}
}

// Dump copies the agent's file to w: an SQLite database that any SQLite opens. Every
// page is checked. Errors: NotFound, Corrupt (a damaged page), Conflict (the agent
// was written to meanwhile: what w got is of no use), those of Acquire, of reading
// and of w.
func (f *Files) Dump(ctx context.Context, id agent.ID, w io.Writer) error {
	const op = "dump agent"
	h, file, err := f.existing(op, id)
	if err != nil {
		return err
	}
	defer h.Release()
	writes := h.writes.Load()
	if writes%2 != 0 {
		return busy(op, id)
	}
	size, err := file.Size()
	if err != nil {
		return fileError(op, id, h.path, err)
	}
	if err := dumpPages(ctx, op, h, file, uint32(size/record.PageBytes), w); err != nil && h.writes.Load() == writes {
		return err
	}
	if h.writes.Load() != writes {
		return busy(op, id)
	}
	return nil
}

func dumpPages(ctx context.Context, op string, h *Handle, file disk.File, pages uint32, w io.Writer) error {
	buf := make([]byte, inspectPages*record.PageBytes)
	for page := uint32(1); page <= pages; {
		if ctx.Err() != nil {
			return agent.FromContext(ctx, op, h.id)
		}
		n := min(pages-page+1, inspectPages)
		part := buf[:int(n)*record.PageBytes]
		if err := readPages(file, page, part); err != nil {
			return fileError(op, h.id, h.path, err)
		}
		for i := range n {
			if !record.SoundPage(page+i, part[i*record.PageBytes:][:record.PageBytes]) {
				return &agent.Error{Op: op, Agent: h.id, Kind: agent.Corrupt,
					Msg: fmt.Sprintf("page %d of %s is damaged: restore the file from another node or a backup", page+i, h.path)}
			}
		}
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("%s %s: %w", op, h.id, err)
		}
		page += n
	}
	return nil
}
