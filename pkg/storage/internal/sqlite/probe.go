package sqlite

// #include "engine.h"
// #include "capture.h"
import "C"

import "unsafe"

// What the self-test and the tests see of a capture, page by page and without SQL.
// All of it is for the owner's goroutine.

// page reads page no (from 1) as the connection does.
func (c *Capture) page(no uint32, to *[pageBytes]byte) error {
	return codeError(C.agentd_capture_read(c.c, C.uint32_t(no), bytesOf(to)))
}

func (c *Capture) write(no uint32, from *[pageBytes]byte) error {
	return codeError(C.agentd_capture_write(c.c, C.uint32_t(no), bytesOf(from)))
}

func (c *Capture) truncate(pages uint32) { C.agentd_capture_truncate(c.c, C.uint32_t(pages)) }

func (c *Capture) commit() error { return codeError(C.agentd_capture_commit(c.c)) }

func (c *Capture) discard() { C.agentd_capture_discard(c.c) }

// hold begins the part of a commit that compares pages with the overlay's; release
// ends it and returns how many pages were taken out of the overlay meanwhile.
func (c *Capture) hold() { C.agentd_capture_hold(c.c) }

func (c *Capture) release() (gone int) {
	for p := c.c.limbo; p != nil; p = p.chain {
		gone++
	}
	C.agentd_capture_release(c.c)
	return gone
}

// finals counts the commits that SQLite announced.
func (c *Capture) finals() int { return int(c.c.finals) }

// pages and staged are the size of the database, and how many pages the open
// transaction has written.
func (c *Capture) pages() uint32  { return uint32(c.c.pages) }
func (c *Capture) staged() uint32 { return uint32(c.c.staging.count) }

// overlaid counts the pages in memory.
func (c *Capture) overlaid() uint32 { return uint32(c.c.overlay.count) }

// limitWritten sets Options.MaxWrittenPages.
func (c *Conn) limitWritten(pages int) { c.c.written_max = C.int64_t(pages) }

// limitAttached lets SQL attach n databases.
func (c *Conn) limitAttached(n int) { C.agentd_limit(c.c, limitAttached, C.int(n)) }

// failAllocation has the nth allocation of captures on this thread fail; 0 ends
// that. It returns whether the one asked for before did not come.
func failAllocation(n int) (left bool) { return C.agentd_fail_allocation(C.int(n)) != 0 }

// checksumPage is the sum that belongs into the page's trailer; plain computes it
// without the processor's instruction.
func checksumPage(no uint32, page *[pageBytes]byte) (sum, plain uint32) {
	return uint32(C.agentd_checksum(C.uint32_t(no), bytesOf(page))), uint32(C.agentd_checksum_plain(C.uint32_t(no), bytesOf(page)))
}

// deltaEntry is what a page's change takes in a delta; page gets its trailer.
func deltaEntry(no uint32, page, old *[pageBytes]byte) []byte {
	out := make([]byte, C.DELTA_ENTRY_MAX)
	n := C.agentd_delta_entry((*C.uchar)(unsafe.Pointer(&out[0])), C.uint32_t(no), bytesOf(page), bytesOf(old))
	return out[:n]
}

func bytesOf(page *[pageBytes]byte) *C.uchar { return (*C.uchar)(unsafe.Pointer(page)) }

func codeError(rc C.int) error {
	if rc == 0 {
		return nil
	}
	return &Error{Code: Code(rc), Msg: "capture"}
}
