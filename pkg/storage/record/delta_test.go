package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"agentd/pkg/agent"
)

type piece struct {
	offset int
	bytes  string
}

func at(offset int, bytes string) piece { return piece{offset, bytes} }

// runs is the delta of one page.
func runs(page uint32, pieces ...piece) Delta {
	d := binary.LittleEndian.AppendUint32(nil, page)
	d = binary.LittleEndian.AppendUint16(d, uint16(len(pieces)))
	for _, p := range pieces {
		d = binary.LittleEndian.AppendUint16(d, uint16(p.offset))
		d = binary.LittleEndian.AppendUint16(d, uint16(len(p.bytes)))
		d = append(d, p.bytes...)
	}
	return d
}

func whole(page uint32, b byte) Delta {
	d := binary.LittleEndian.AppendUint32(nil, page)
	d = binary.LittleEndian.AppendUint16(d, wholePage)
	return append(d, bytes.Repeat([]byte{b}, PageBytes)...)
}

func join(deltas ...Delta) Delta { return bytes.Join(toBytes(deltas), nil) }

func toBytes(deltas []Delta) [][]byte {
	var list [][]byte
	for _, d := range deltas {
		list = append(list, d)
	}
	return list
}

func TestDelta_EachGivesRunsInOrder(t *testing.T) {
	d := join(runs(1, at(0, "ab"), at(3, "c")), whole(2, 'w'), runs(9, at(4095, "z")))
	if err := d.Validate(9); err != nil {
		t.Fatal(err)
	}
	type got struct {
		page   uint32
		offset int
		bytes  string
	}
	var list []got
	err := d.Each(func(page uint32, offset int, b []byte) error {
		list = append(list, got{page, offset, string(b)})
		return nil
	})
	want := []got{{1, 0, "ab"}, {1, 3, "c"}, {2, 0, strings.Repeat("w", PageBytes)}, {9, 4095, "z"}}
	if err != nil || len(list) != len(want) {
		t.Fatalf("got %v, %v", list, err)
	}
	for i := range want {
		if list[i] != want[i] {
			t.Errorf("run %d is %v, want %v", i, list[i], want[i])
		}
	}
	stop := errors.New("stop")
	calls := 0
	if err := d.Each(func(uint32, int, []byte) error { calls++; return stop }); err != stop || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestDelta_ValidateRefuses(t *testing.T) {
	many := make([]piece, 1025)
	for i := range many {
		many[i] = at(2*i, "x")
	}
	for name, d := range map[string]Delta{
		"page 0":                   runs(0, at(0, "x")),
		"a page beyond the end":    runs(4, at(0, "x")),
		"pages that descend":       join(runs(2, at(0, "x")), runs(1, at(0, "x"))),
		"a page twice":             join(runs(2, at(0, "x")), whole(2, 'x')),
		"no runs":                  runs(1),
		"too many runs":            runs(1, many...),
		"an empty run":             runs(1, at(0, "")),
		"a run past the page":      runs(1, at(4095, "xy")),
		"a run from past the page": runs(1, at(4096, "x")),
		"runs that overlap":        runs(1, at(0, "xyz"), at(2, "x")),
		"runs that touch":          runs(1, at(0, "xyz"), at(3, "x")),
		"runs that descend":        runs(1, at(8, "x"), at(0, "x")),
	} {
		if err := d.Validate(3); agent.KindOf(err) != agent.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	sound := join(runs(1, at(0, "ab"), at(3, "c")), whole(2, 'w'))
	pages := 0
	for n := range sound {
		err := sound[:n].Validate(3)
		if n == 0 || n == len(runs(1, at(0, "ab"), at(3, "c"))) {
			pages++
			if err != nil {
				t.Errorf("the first %d bytes: %v", n, err)
			}
		} else if agent.KindOf(err) != agent.Corrupt {
			t.Errorf("the first %d bytes: %v", n, err)
		}
	}
	if pages != 2 {
		t.Error("whole prefixes were not seen")
	}
}

func TestPatch_AppliesAsEachSays(t *testing.T) {
	for _, d := range []Delta{runs(1, at(0, "ab"), at(4095, "c")), whole(1, 'w')} {
		p, rest, err := d.Next()
		if err != nil || len(rest) != 0 {
			t.Fatal(rest, err)
		}
		got, want := make([]byte, PageBytes), make([]byte, PageBytes)
		p.Apply(got)
		if err := p.Each(func(offset int, b []byte) error { copy(want[offset:], b); return nil }); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Error("Apply and Each differ")
		}
	}
}

// A delta that is accepted names bytes inside its pages only, and applied twice it
// gives what it gives once.
func FuzzDelta(f *testing.F) {
	f.Add([]byte(join(runs(1, at(0, "ab"), at(3, "c")), runs(9, at(4095, "z")))), uint32(9))
	f.Add([]byte(whole(2, 'w')), uint32(2))
	f.Fuzz(func(t *testing.T, b []byte, pages uint32) {
		d := Delta(b)
		if err := d.Validate(pages); err != nil {
			if agent.KindOf(err) != agent.Corrupt {
				t.Fatal(err)
			}
			return
		}
		images := make(map[uint32][]byte)
		apply := func(page uint32, offset int, b []byte) error {
			if page == 0 || page > pages || offset < 0 || offset+len(b) > PageBytes || len(b) == 0 {
				t.Fatalf("page %d, offset %d, %d bytes", page, offset, len(b))
			}
			if images[page] == nil {
				images[page] = make([]byte, PageBytes)
			}
			copy(images[page][offset:], b)
			return nil
		}
		if err := d.Each(apply); err != nil {
			t.Fatal(err)
		}
		for rest := d; len(rest) > 0; {
			p, next, err := rest.Next()
			if err != nil {
				t.Fatal(err)
			}
			before := bytes.Clone(images[p.Page])
			if p.Apply(images[p.Page]); !bytes.Equal(before, images[p.Page]) {
				t.Fatalf("page %d differs when applied again", p.Page)
			}
			rest = next
		}
	})
}
