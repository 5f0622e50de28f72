package record

import "encoding/binary"

const (
	wholePage   = 0xFFFF
	maxRuns     = 1024
	runHeader   = 4
	patchHeader = 6
)

// Patch is what a delta says of one page. It aliases the delta.
type Patch struct {
	Page uint32 // from 1
	Runs int    // 0 for a whole page

	body []byte // the runs with their headers, or the page
}

// Whole says whether the patch holds all bytes of its page.
func (p Patch) Whole() bool { return p.Runs == 0 }

// Each calls fn with the patch's bytes, offsets ascending. bytes aliases the delta.
func (p Patch) Each(fn func(offset int, bytes []byte) error) error {
	if p.Whole() {
		return fn(0, p.body)
	}
	for b := p.body; len(b) > 0; {
		offset, n := run(b)
		if err := fn(offset, b[runHeader:runHeader+n]); err != nil {
			return err
		}
		b = b[runHeader+n:]
	}
	return nil
}

// Apply puts the patch's bytes into an image of the page, of PageBytes bytes.
func (p Patch) Apply(image []byte) {
	if p.Whole() {
		copy(image, p.body)
		return
	}
	for b := p.body; len(b) > 0; {
		offset, n := run(b)
		copy(image[offset:], b[runHeader:runHeader+n])
		b = b[runHeader+n:]
	}
}

func run(b []byte) (offset, n int) {
	return int(binary.LittleEndian.Uint16(b)), int(binary.LittleEndian.Uint16(b[2:]))
}

// Next splits the delta into its first page and the rest; the delta must not be
// empty. The patch is sound; that pages ascend, Validate says. Errors are of kind
// Corrupt.
func (d Delta) Next() (p Patch, rest Delta, err error) {
	if len(d) < patchHeader {
		return Patch{}, nil, corrupt("a delta ends in the middle of a page's header")
	}
	p.Page = binary.LittleEndian.Uint32(d)
	runs := int(binary.LittleEndian.Uint16(d[4:]))
	d = d[patchHeader:]
	n := PageBytes
	switch {
	case p.Page == 0:
		return Patch{}, nil, corrupt("a delta of page 0")
	case runs == wholePage:
		if len(d) < n {
			return Patch{}, nil, corrupt("page %d has %d bytes", p.Page, len(d))
		}
	case runs == 0 || runs > maxRuns:
		return Patch{}, nil, corrupt("page %d has %d runs", p.Page, runs)
	default:
		p.Runs = runs
		if n, err = runsBytes(p.Page, runs, d); err != nil {
			return Patch{}, nil, err
		}
	}
	p.body = d[:n:n]
	return p, d[n:], nil
}

// runsBytes is the length of a page's runs, once each is in order and in its place.
func runsBytes(page uint32, runs int, b []byte) (int, error) {
	at, end := 0, -1 // in b; of the run before, in the page
	for range runs {
		if len(b)-at < runHeader {
			return 0, corrupt("page %d ends in the middle of a run's header", page)
		}
		offset, n := run(b[at:])
		at += runHeader
		switch {
		case n == 0 || offset+n > PageBytes:
			return 0, corrupt("page %d has a run of %d bytes at %d", page, n, offset)
		case offset <= end:
			return 0, corrupt("page %d has a run at %d after one that ends at %d", page, offset, end)
		case n > len(b)-at:
			return 0, corrupt("page %d ends in the middle of a run", page)
		}
		at += n
		end = offset + n
	}
	return at, nil
}

// Validate says what is wrong with the delta of a database that has the given
// number of pages after the commit, in an error of kind Corrupt.
func (d Delta) Validate(pages uint32) error {
	return d.Patches(pages, func(Patch) {})
}

// Patches calls fn for each page in ascending order and checks each before its call:
// after an error fn has seen those before the bad one. It is Validate for a caller
// that collects the pages on the way.
func (d Delta) Patches(pages uint32, fn func(Patch)) error {
	last := uint32(0)
	for len(d) > 0 {
		p, rest, err := d.Next()
		switch {
		case err != nil:
			return err
		case p.Page <= last:
			return corrupt("page %d after page %d", p.Page, last)
		case p.Page > pages:
			return corrupt("page %d of a database of %d pages", p.Page, pages)
		}
		fn(p)
		d, last = rest, p.Page
	}
	return nil
}

// Each calls fn with every run of bytes in order; a whole page is one run. It stops
// at the first error, of fn or of kind Corrupt. bytes aliases the delta.
func (d Delta) Each(fn func(page uint32, offset int, bytes []byte) error) error {
	for len(d) > 0 {
		p, rest, err := d.Next()
		if err != nil {
			return err
		}
		if err := p.Each(func(offset int, bytes []byte) error { return fn(p.Page, offset, bytes) }); err != nil {
			return err
		}
		d = rest
	}
	return nil
}
