package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"agentd/pkg/agent"
)

// frameType is what a frame is for. Numbers are never reused.
type frameType uint8

const (
	framePing    frameType = 1 // id: the sender's clock, which the pong returns
	framePong    frameType = 2
	frameRequest frameType = 3
	frameReply   frameType = 4
	frameFailure frameType = 5 // a reply that is an error
	frameOpen    frameType = 6 // a request whose content follows
	frameContent frameType = 7
	frameEnd     frameType = 8  // of the content
	frameAbort   frameType = 9  // of the content; nobody waits for the reply
	frameCredit  frameType = 10 // size of the content that its reader has taken, 4 bytes
	frameTypeEnd frameType = 11
)

// frame is the unit on a connection: a header of 20 bytes, little endian (size of the
// body 4, type 1, kind 1, zero 2, group 4, id 8), and the body.
type frame struct {
	typ   frameType
	kind  uint8
	group uint32
	id    uint64 // of the request; chosen by its sender
	body  []byte
}

const (
	headerBytes = 20
	firstBytes  = 1 << 20 // a larger body gets its memory as its bytes arrive
)

func (f frame) size() int { return headerBytes + len(f.body) }

func (f frame) header() []byte {
	b := make([]byte, headerBytes)
	binary.LittleEndian.PutUint32(b, uint32(len(f.body))) //nolint:gosec // bodies are bounded by their class
	b[4], b[5] = byte(f.typ), f.kind
	binary.LittleEndian.PutUint32(b[8:], f.group)
	binary.LittleEndian.PutUint64(b[12:], f.id)
	return b
}

// readFrame refuses bodies of more than most bytes before it reads them.
func readFrame(r io.Reader, most int) (frame, error) {
	var h [headerBytes]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return frame{}, err
	}
	size := int64(binary.LittleEndian.Uint32(h[:]))
	f := frame{typ: frameType(h[4]), kind: h[5], group: binary.LittleEndian.Uint32(h[8:]), id: binary.LittleEndian.Uint64(h[12:])}
	switch {
	case f.typ == 0 || f.typ >= frameTypeEnd || h[6] != 0 || h[7] != 0:
		return frame{}, fmt.Errorf("a frame of unknown type %d", f.typ)
	case size > int64(most):
		return frame{}, fmt.Errorf("a frame of %d bytes; %d are the most", size, most)
	case size == 0:
		return f, nil
	}
	var err error
	f.body, err = readBody(r, int(size))
	return f, err
}

func readBody(r io.Reader, size int) ([]byte, error) {
	body := make([]byte, min(size, firstBytes))
	done := 0
	for {
		n, err := io.ReadFull(r, body[done:])
		done += n
		switch {
		case err == io.EOF:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case done == size:
			return body, nil
		}
		grown := make([]byte, min(size, 4*len(body)))
		copy(grown, body)
		body = grown
	}
}

const maxFailure = 1 << 10

// encodeFailure is the body of an error: kind, zero byte, message.
func encodeFailure(err error) []byte {
	var e *agent.Error
	msg := err.Error()
	if errors.As(err, &e) && e.Msg != "" {
		msg = e.Msg
	}
	if len(msg) > maxFailure {
		msg = msg[:maxFailure]
	}
	return append(append([]byte(agent.KindOf(err).String()), 0), strings.ToValidUTF8(msg, "?")...)
}

func decodeFailure(node string, body []byte) error {
	if len(body) > 2*maxFailure {
		body = body[:2*maxFailure]
	}
	kind, msg, _ := strings.Cut(string(body), "\x00")
	return &agent.Error{Op: "ask node " + node, Kind: agent.ParseKind(kind), Msg: strings.ToValidUTF8(msg, "?")}
}
