package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"agentd/pkg/agent"
	"agentd/pkg/storage"
)

var (
	counter = agent.ID{Namespace: "default", Class: "Counter", Name: "a/б"}
	noon    = time.UnixMilli(1_700_000_000_123).UTC()
)

func commit() *Record {
	return &Record{Kind: Commit, Agent: counter, Base: 6, Seq: 7, At: noon, CreatedAt: noon.Add(-time.Hour),
		Wake: storage.Wake{At: noon.Add(time.Minute), Resume: true}, Pages: 3, Delta: runs(2, at(8, "abc"), at(4088, "12345678"))}
}

func deletion() *Record {
	return &Record{Kind: Delete, Agent: counter, Base: 7, At: noon}
}

func quarantine() *Record {
	return &Record{Kind: Quarantine, Agent: counter, Base: 7, Seq: 7, At: noon, Reason: "reset five times"}
}

// reseal makes the checksum of a changed record right again.
func reseal(b []byte) []byte {
	binary.LittleEndian.PutUint32(b[4:], checksum(b))
	return b
}

func TestRecord_RoundTrips(t *testing.T) {
	var b []byte
	want := []*Record{commit(), deletion(), quarantine(), {Kind: Commit, Agent: counter, Seq: 1, Pages: 1}}
	for _, r := range want {
		b = Append(b, r)
	}
	for _, w := range want {
		var got Record
		var err error
		if got, b, err = Decode(b); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(&got, w) {
			t.Errorf("got %+v, want %+v", got, *w)
		}
	}
	if len(b) != 0 {
		t.Errorf("%d bytes are left", len(b))
	}
}

func TestRecord_KeepsMilliseconds(t *testing.T) {
	r := commit()
	r.At = noon.Add(999 * time.Microsecond)
	got, _, err := Decode(Append(nil, r))
	if err != nil || !got.At.Equal(noon) {
		t.Errorf("got %v, %v", got.At, err)
	}
}

func TestAppend_CutsALongReasonBetweenRunes(t *testing.T) {
	r := quarantine()
	r.Reason = strings.Repeat("x", MaxReasonBytes-1) + "бб"
	got, _, err := Decode(Append(nil, r))
	if want := strings.Repeat("x", MaxReasonBytes-1); err != nil || got.Reason != want {
		t.Errorf("%d bytes are kept, %v", len(got.Reason), err)
	}
}

// Every bit counts: whatever changes, in whatever field, is noticed.
func TestDecode_NoticesEveryFlippedBit(t *testing.T) {
	for _, r := range []*Record{commit(), deletion(), quarantine()} {
		b := Append(nil, r)
		for i := range len(b) * 8 {
			b[i/8] ^= 1 << (i % 8)
			if _, _, err := Decode(b); agent.KindOf(err) != agent.Corrupt {
				t.Fatalf("bit %d of byte %d: %v", i%8, i/8, err)
			}
			b[i/8] ^= 1 << (i % 8)
		}
	}
}

func TestDecode_NoticesEveryMissingByte(t *testing.T) {
	b := Append(nil, commit())
	for n := range b {
		if _, _, err := Decode(b[:n]); agent.KindOf(err) != agent.Corrupt {
			t.Fatalf("the first %d of %d bytes: %v", n, len(b), err)
		}
	}
}

func TestDecode_TellsNewerFromDamaged(t *testing.T) {
	newVersion := Append(nil, commit())
	newVersion[8] = version + 1
	newVersion = reseal(append(newVersion[:headerBytes:headerBytes], make([]byte, len(newVersion)-headerBytes)...))
	newKind := Append(nil, commit())
	newKind[9] = 4
	for want, b := range map[error][]byte{ErrVersion: newVersion, ErrKind: reseal(newKind)} {
		_, _, err := Decode(b)
		if !errors.Is(err, want) || agent.KindOf(err) != agent.Invalid || !strings.Contains(err.Error(), "upgrade agentd") {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

// A record that is whole by its checksum may still say what no commit can.
func TestDecode_RefusesWhatContradictsItself(t *testing.T) {
	for name, change := range map[string]func(r *Record){
		"a hole in the numbers": func(r *Record) { r.Seq++ },
		"numbers that wrap":     func(r *Record) { r.Base, r.Seq = math.MaxUint64, 0 },
		"no pages":              func(r *Record) { r.Pages = 0 },
		"too many pages":        func(r *Record) { r.Pages = MaxPages + 1 },
		"a commit's reason":     func(r *Record) { r.Reason = "x" },
		"a numbered deletion":   func(r *Record) { *r = *deletion(); r.Seq = 8 },
		"a deletion with bytes": func(r *Record) { *r = *deletion(); r.Delta = Delta{1} },
		"a deletion with pages": func(r *Record) { *r = *deletion(); r.Pages = 1 },
		"a reasoned deletion":   func(r *Record) { *r = *deletion(); r.Reason = "x" },
		"a quarantine's number": func(r *Record) { *r = *quarantine(); r.Seq++ },
		"an impossible agent":   func(r *Record) { r.Agent.Class = "no class" },
		"a name that is large":  func(r *Record) { r.Agent.Name = strings.Repeat("n", 600) },
	} {
		r := commit()
		change(r)
		if _, _, err := Decode(Append(nil, r)); agent.KindOf(err) != agent.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := Append(nil, commit())
	for name, change := range map[string]func(b []byte){
		"an unknown flag":  func(b []byte) { b[10] |= 2 },
		"a reserved byte":  func(b []byte) { b[11] = 1 },
		"a key too long":   func(b []byte) { b[56], b[57] = 0xFF, 0xFF },
		"a reason beyond":  func(b []byte) { b[58], b[59] = 0xFF, 0x0F },
		"version 0":        func(b []byte) { b[8] = 0 },
		"a length too big": func(b []byte) { b[3] = 0xFF },
	} {
		changed := bytes.Clone(b)
		change(changed)
		if _, _, err := Decode(reseal(changed)); agent.KindOf(err) != agent.Corrupt {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// drawRecord draws any valid record.
func drawRecord(t *rapid.T) *Record {
	ms := rapid.Int64Range(-1<<50, 1<<50)
	r := &Record{Kind: Kind(rapid.IntRange(1, 3).Draw(t, "kind")), Base: rapid.Uint64Range(0, math.MaxUint64-1).Draw(t, "base"),
		At: time.UnixMilli(ms.Draw(t, "at")).UTC(), CreatedAt: time.UnixMilli(ms.Draw(t, "created")).UTC(),
		Agent: agent.ID{Namespace: rapid.StringMatching(`[a-z0-9]{1,63}`).Draw(t, "namespace"),
			Class: rapid.StringMatching(`[A-Za-z_$][A-Za-z0-9_$]{0,127}`).Draw(t, "class"),
			Name:  rapid.StringMatching(`[^\x00]{1,100}`).Draw(t, "name")}}
	switch r.Kind {
	case Commit:
		r.Seq = r.Base + 1
		r.Pages = rapid.Uint32Range(1, MaxPages).Draw(t, "pages")
		if delta := rapid.SliceOf(rapid.Byte()).Draw(t, "delta"); len(delta) > 0 {
			r.Delta = delta
		}
		r.Wake = storage.Wake{At: time.UnixMilli(ms.Draw(t, "wake")).UTC(), Resume: rapid.Bool().Draw(t, "resume")}
		if rapid.Bool().Draw(t, "no wake") {
			r.Wake.At = time.Time{}
		}
	case Quarantine:
		r.Seq = r.Base
		r.Reason = rapid.String().Draw(t, "reason")
	}
	return r
}

func TestRecord_RoundTripsWhateverItHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawRecord(t)
		want.Reason = strings.ToValidUTF8(clip(want.Reason), "?")
		if want.Agent.Validate() != nil {
			t.Skip("not an agent's name")
		}
		tail := rapid.SliceOf(rapid.Byte()).Draw(t, "tail")
		got, rest, err := Decode(append(Append(nil, want), tail...))
		if want.Wake.At.IsZero() {
			got.Wake.At = want.Wake.At // the zero time has two forms in memory
		}
		if err != nil || !reflect.DeepEqual(&got, want) || !bytes.Equal(rest, tail) {
			t.Fatalf("got %+v, %v; want %+v", got, err, *want)
		}
	})
}

// What Decode accepts has one form only. The checksum is put right, so that the
// fuzzer reaches what is behind it.
func FuzzDecode(f *testing.F) {
	for _, r := range []*Record{commit(), deletion(), quarantine()} {
		f.Add(Append(nil, r), true)
		f.Add(Append(Append(nil, r), deletion()), false)
	}
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) >= headerBytes {
			b = bytes.Clone(b)
			binary.LittleEndian.PutUint32(b, uint32(len(b)-4))
			reseal(b)
		}
		r, rest, err := Decode(b)
		if err != nil {
			if kind := agent.KindOf(err); kind != agent.Corrupt && kind != agent.Invalid {
				t.Fatalf("kind %v: %v", kind, err)
			}
			return
		}
		if again := Append(nil, &r); !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Fatalf("%x is read as %+v and written as %x", b, r, again)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	r := commit()
	r.Delta = runs(2, at(8, strings.Repeat("x", 600)), at(4088, "12345678"))
	encoded := Append(nil, r)
	b.SetBytes(int64(len(encoded)))
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(encoded); err != nil {
			b.Fatal(err)
		}
	}
}
