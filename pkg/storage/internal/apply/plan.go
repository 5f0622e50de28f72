package apply

import (
	"slices"

	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// plan is what a batch does to one agent. It belongs to a worker.
type plan struct {
	id  agent.ID
	seq uint64 // number reached, with every record of the batch that was checked

	// What is to be written to the file: commits that follow each other, the first of
	// which may make the file shorter and the others may not.
	dirty   bool
	fresh   bool           // they begin with the agent's first
	commits int            // how many
	last    uint64         // number of the last
	low     uint32         // pages after the first
	pages   uint32         // pages after the last
	patches []record.Patch // in order of the commits, each's by page
}

// fits says whether the commit can be written with those before it. A commit that
// makes the file shorter cannot: what grows again later must grow from zeros.
func (p *plan) fits(r *record.Record) bool {
	return !p.dirty || r.Base == 0 || r.Pages >= p.pages
}

// add puts a commit, whose delta is sound, behind those before it.
func (p *plan) add(r *record.Record) error {
	if r.Base == 0 {
		p.drop()
	}
	if !p.dirty {
		p.dirty, p.fresh, p.low = true, r.Base == 0, r.Pages
	}
	p.commits++
	p.last, p.pages = r.Seq, r.Pages
	return r.Delta.Patches(r.Pages, func(patch record.Patch) { p.patches = append(p.patches, patch) })
}

// drop forgets what is to be written.
func (p *plan) drop() {
	clear(p.patches)
	p.dirty, p.fresh, p.commits, p.patches = false, false, 0, p.patches[:0]
}

// write brings the file to the last commit. It may be repeated after an error.
func (p *plan) write(h *Handle, o *output) error {
	file, size, err := h.begin()
	if err != nil {
		return err
	}
	o.begin(file, size)
	err = p.writeTo(o)
	o.file = nil
	h.end(p.pages, err)
	return err
}

func (p *plan) writeTo(o *output) error {
	keep := int64(p.low) * record.PageBytes
	if p.fresh {
		keep = 0 // whatever a file without commits holds is not the agent's
	}
	if err := o.shorten(keep); err != nil {
		return err
	}
	if p.commits > 1 {
		slices.SortStableFunc(p.patches, func(a, b record.Patch) int { return int(a.Page) - int(b.Page) })
	}
	for rest := p.patches; len(rest) > 0; {
		n := 1
		for n < len(rest) && rest[n].Page == rest[0].Page {
			n++
		}
		if err := o.page(rest[:n]); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return o.finish(int64(p.pages) * record.PageBytes)
}
