package peer

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"testing"

	"agentd/pkg/agent"
)

func FuzzDecodeHello(f *testing.F) {
	h := hello{oldest: 1, newest: 2, class: Data, from: Identity{Cluster: "c", Node: "n", UUID: [16]byte{1}, Incarnation: 7}, to: "m"}
	f.Add(h.encode()[len(magic)+2:])
	f.Add(encodeRefusal(&agent.Error{Kind: agent.Denied, Msg: "no"})[len(magic)+2:])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			return
		}
		again, err := readHello(bytes.NewReader(h.encode()))
		if err != nil || again != h {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}

func (f frame) encode() []byte { return append(f.header(), f.body...) }

func FuzzReadFrame(f *testing.F) {
	f.Add(frame{typ: frameRequest, kind: 3, group: 9, id: 7, body: []byte("abc")}.encode())
	f.Add(frame{typ: framePing}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, err := readFrame(bytes.NewReader(b), 64<<10)
		if err != nil {
			return
		}
		if again := fr.encode(); !bytes.Equal(again, b[:len(again)]) {
			t.Fatalf("%x became %x", b, again)
		}
	})
}

func FuzzDecodeFailure(f *testing.F) {
	f.Add(encodeFailure(&agent.Error{Kind: agent.Denied, Msg: "no"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := decodeFailure("n", b); err == nil || len(err.Error()) > 8*maxFailure {
			t.Fatalf("%v", err)
		}
	})
}

// A header may promise 80 MiB; memory comes with the bytes.
func TestReadFrame_AllocatesWithWhatArrives(t *testing.T) {
	header := frame{typ: frameRequest}.encode()
	header[3], header[2] = 0x04, 0xff // 84 million bytes
	promised := append(header, make([]byte, 3<<20)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := readFrame(bytes.NewReader(promised), 100<<20)
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
		t.Errorf("%d bytes were allocated for 3 MiB", n)
	}
}

func TestReadFrame_LargeBodyArrivesWhole(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 1<<20)
	f, err := readFrame(bytes.NewReader(frame{typ: frameRequest, id: 3, body: body}.encode()), MaxDataBytes)
	if err != nil || !bytes.Equal(f.body, body) || f.id != 3 {
		t.Errorf("%d bytes, %v", len(f.body), err)
	}
}

func TestReadFrame_RefusesMoreThanItsClassAllows(t *testing.T) {
	for size, ok := range map[int]bool{100: true, 101: false} {
		f := frame{typ: frameRequest, body: make([]byte, size)}
		if _, err := readFrame(bytes.NewReader(f.encode()), 100); (err == nil) != ok {
			t.Errorf("a body of %d bytes: %v", size, err)
		}
	}
}
