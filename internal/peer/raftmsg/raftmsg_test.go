package raftmsg

import (
	"bytes"
	"reflect"
	"testing"
	"time"
)

var header = Header{Protocol: 3, Node: []byte("a"), Address: []byte("a:1")}

var samples = []interface{ Encode() []byte }{
	&Append{Header: header, Term: 1},
	&Append{Header: header, Term: 1, PrevIndex: 2, PrevTerm: 3, Commit: 4, Entries: []Entry{
		{Index: 3, Term: 1, Type: 0, AppendedAt: time.Unix(5, 6).UTC(), Data: []byte("data"), Extensions: []byte("ext")},
		{Index: 4, Term: 1, Type: 5}}},
	&Vote{Header: header, Term: 5, LastIndex: 6, LastTerm: 7, Transfer: true},
	&Install{Header: header, SnapshotVersion: 1, Term: 8, LastIndex: 9, LastTerm: 10, ConfigurationIndex: 11, Size: 12, Configuration: []byte("peers")},
	&Reply{Header: header, Term: 13, LastLog: 14, Success: true},
	&Reply{NoBackoff: true},
	&header,
}

// decode reads what a sample was made of.
func decode(like any, b []byte) (interface{ Encode() []byte }, error) {
	switch like.(type) {
	case *Append:
		return DecodeAppend(b)
	case *Vote:
		return DecodeVote(b)
	case *Install:
		return DecodeInstall(b)
	case *Reply:
		return DecodeReply(b)
	}
	return DecodeHeader(b)
}

func TestMessages_SurviveTheWay(t *testing.T) {
	for _, m := range samples {
		b := m.Encode()
		got, err := decode(m, b)
		if err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%+v became %+v, %v", m, got, err)
		}
		for n := range b {
			if _, err := decode(m, b[:n]); err == nil {
				t.Errorf("%T was read from %d of %d bytes", m, n, len(b))
			}
		}
		if _, err := decode(m, append(bytes.Clone(b), 0)); err == nil {
			t.Errorf("%T was read with a byte too many", m)
		}
		b[0]++
		if _, err := decode(m, b); err == nil {
			t.Errorf("%T of another version was read", m)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for i, m := range samples {
		f.Add(i, m.Encode())
	}
	f.Fuzz(func(t *testing.T, i int, b []byte) {
		like := samples[uint(i)%uint(len(samples))]
		m, err := decode(like, b)
		if err != nil {
			return
		}
		if again := m.Encode(); !bytes.Equal(again, b) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

// A count of entries that the message cannot hold costs no memory.
func TestDecodeAppend_BelievesNoCount(t *testing.T) {
	b := (&Append{Header: header}).Encode()
	for i := 1; i <= 4; i++ {
		b[len(b)-i] = 0xff
	}
	if n := testing.AllocsPerRun(10, func() { DecodeAppend(b) }); n > 4 { //nolint:errcheck // only its cost matters
		t.Errorf("%v allocations", n)
	}
	if _, err := DecodeAppend(b); err == nil {
		t.Error("it was read")
	}
}
