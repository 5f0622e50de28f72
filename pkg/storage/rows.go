package storage

import (
	"errors"
	"io"
)

// Rows is the answer of a statement, read forward. It belongs to the goroutine
// that owns the DB.
type Rows struct {
	Columns []string
	// NextFunc and CloseFunc are set by the engine. NextFunc fills dst (len(Columns))
	// and reports io.EOF after the last row.
	NextFunc  func(dst []Value) error
	CloseFunc func() error
	// Changes is how many rows the statement inserted, updated or deleted; valid
	// after the last row was read or after Close.
	Changes func() int64
	closed  bool
}

// Next reads one row into dst, which has len(Columns) places; io.EOF at the end.
// Text and blobs are copies that the caller keeps.
func (r *Rows) Next(dst []Value) error { return r.NextFunc(dst) }

// Close runs what is left of the statement's effects and frees it. Closing twice
// is harmless.
func (r *Rows) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	return r.CloseFunc()
}

// Each gives every row to fn, which may be nil and may end the reading early with
// io.EOF, closes the rows and returns Changes. The slice is used again for the next
// row.
func (r *Rows) Each(fn func(row []Value) error) (changes int64, err error) {
	defer func() { err = errors.Join(err, r.Close()) }()
	row := make([]Value, len(r.Columns))
	for {
		err := r.Next(row)
		if err == nil && fn != nil {
			err = fn(row)
		}
		if errors.Is(err, io.EOF) {
			return r.Changes(), nil
		}
		if err != nil {
			return 0, err
		}
	}
}
