package sqlite

// #include "engine.h"
import "C"

import (
	"fmt"
	"math"
	"unsafe"
)

// value has the layout of agentd_value: its bits are an integer, a float, an
// offset (arguments) or a pointer into SQLite's memory (columns).
type value struct {
	kind int32
	size int32
	bits uint64
}

var _ [unsafe.Sizeof(value{})]byte = [unsafe.Sizeof(C.agentd_value{})]byte{}

// SQLite's type codes.
const (
	typeInteger = 1
	typeFloat   = 2
	typeText    = 3
	typeBlob    = 4
	typeNull    = 5
)

// bytes is a view of a text or blob column in SQLite's memory.
func (v *value) bytes() []byte {
	if v.size == 0 {
		return nil
	}
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&v.bits)), int(v.size))
}

func (c *Conn) scan(dst []any) {
	row := unsafe.Slice((*value)(unsafe.Pointer(c.c.row)), int(c.c.ncol))
	for i := range min(len(dst), len(row)) {
		v := &row[i]
		switch v.kind {
		case typeInteger:
			dst[i] = int64(v.bits)
		case typeFloat:
			dst[i] = math.Float64frombits(v.bits)
		case typeText:
			dst[i] = string(v.bytes())
		case typeBlob:
			blob := make([]byte, v.size)
			copy(blob, v.bytes())
			dst[i] = blob
		default:
			dst[i] = nil
		}
	}
}

// pack lays the arguments out for C: an array without pointers and one buffer.
func (c *Conn) pack(args []any) error {
	c.args, c.data = c.args[:0], c.data[:0]
	for i, arg := range args {
		v := value{kind: typeNull}
		switch x := arg.(type) {
		case nil:
		case int64:
			v = value{kind: typeInteger, bits: uint64(x)}
		case int:
			v = value{kind: typeInteger, bits: uint64(x)}
		case bool:
			v.kind = typeInteger
			if x {
				v.bits = 1
			}
		case float64:
			v = value{kind: typeFloat, bits: math.Float64bits(x)}
		case string:
			v = value{kind: typeText, size: int32(len(x)), bits: uint64(len(c.data))}
			c.data = append(c.data, x...)
		case []byte:
			if x != nil {
				v = value{kind: typeBlob, size: int32(len(x)), bits: uint64(len(c.data))}
				c.data = append(c.data, x...)
			}
		default:
			return &Error{Code: Mismatch, Msg: fmt.Sprintf("argument %d has the type %T; use nil, bool, int, int64, float64, string or []byte", i+1, arg)}
		}
		if len(c.data) > math.MaxInt32 {
			return &Error{Code: TooBig, Msg: "string or blob too big"}
		}
		c.args = append(c.args, v)
	}
	return nil
}
