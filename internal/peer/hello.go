package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"agentd/pkg/agent"
)

// Versions of the protocol that this release speaks; two nodes use the newest that
// both know. A release speaks its own and the one before.
const (
	oldestVersion = 1
	newestVersion = 1
)

const (
	magic    = "agentd\x00\x70"
	maxHello = 1 << 10
	maxName  = 64
)

// hello is the first thing that either side says: the magic, the size of the rest in two
// bytes, a status (0, or 1 for a refusal: then a kind, a zero byte and a message
// follow), and the fields, little endian, texts after their length in one byte.
type hello struct {
	oldest, newest uint16
	class          Class
	from           Identity
	to             string // the node that is meant; "" in an answer
}

func (h hello) encode() []byte {
	b := binary.LittleEndian.AppendUint16([]byte{0}, h.oldest)
	b = binary.LittleEndian.AppendUint16(b, h.newest)
	b = append(b, byte(h.class))
	b = append(b, h.from.UUID[:]...)
	b = binary.LittleEndian.AppendUint64(b, h.from.Incarnation)
	for _, text := range []string{h.from.Cluster, h.from.Node, h.to} {
		b = append(append(b, byte(len(text))), text...)
	}
	return envelope(b)
}

func encodeRefusal(err error) []byte { return envelope(append([]byte{1}, encodeFailure(err)...)) }

func envelope(b []byte) []byte {
	if len(b) > maxHello {
		b = b[:maxHello]
	}
	return append(binary.LittleEndian.AppendUint16([]byte(magic), uint16(len(b))), b...) //nolint:gosec // at most maxHello
}

var errGarbage = errors.New("it does not speak the protocol of nodes")

// readHello reads not one byte more than the greeting. A refusal is returned as its error.
func readHello(r io.Reader) (hello, error) {
	var head [len(magic) + 2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return hello{}, err
	}
	size := binary.LittleEndian.Uint16(head[len(magic):])
	if string(head[:len(magic)]) != magic || size == 0 || size > maxHello {
		return hello{}, errGarbage
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return hello{}, err
	}
	return decodeHello(b)
}

func decodeHello(b []byte) (hello, error) {
	if len(b) > 0 && b[0] == 1 {
		kind, msg, _ := strings.Cut(string(b[1:]), "\x00")
		return hello{}, &agent.Error{Op: "greet", Kind: agent.ParseKind(kind), Msg: "refused: " + strings.ToValidUTF8(msg, "?")}
	}
	const fixed = 1 + 2 + 2 + 1 + 16 + 8
	if len(b) < fixed || b[0] != 0 {
		return hello{}, errGarbage
	}
	h := hello{oldest: binary.LittleEndian.Uint16(b[1:]), newest: binary.LittleEndian.Uint16(b[3:]), class: Class(b[5])}
	copy(h.from.UUID[:], b[6:22])
	h.from.Incarnation = binary.LittleEndian.Uint64(b[22:])
	rest := b[fixed:]
	for _, text := range []*string{&h.from.Cluster, &h.from.Node, &h.to} {
		if len(rest) == 0 || len(rest) < 1+int(rest[0]) {
			return hello{}, errGarbage
		}
		*text, rest = string(rest[1:1+int(rest[0])]), rest[1+int(rest[0]):]
	}
	if !validName(h.from.Cluster) || !validName(h.from.Node) || len(h.to) > maxName {
		return hello{}, errGarbage
	}
	return h, nil // a newer version may say more after this
}

func validName(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= maxName
}

// negotiate is the version that both sides use.
func negotiate(h hello) (uint16, error) {
	version := min(h.newest, newestVersion)
	if version < oldestVersion || version < h.oldest {
		return 0, &agent.Error{Op: "greet", Kind: agent.Invalid, Msg: fmt.Sprintf(
			"node %q speaks versions %d to %d of the protocol of nodes, this one %d to %d: upgrade one release at a time",
			h.from.Node, h.oldest, h.newest, oldestVersion, newestVersion)}
	}
	return version, nil
}
