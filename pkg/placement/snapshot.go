package placement

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"agentd/pkg/agent"
)

// A snapshot of the table is a header and its JSON form:
//
//	8 bytes  "agentdPT"
//	u32      format of this header: 1
//	u32      CRC32C of the JSON
//	u64      bytes of JSON that follow, at most MaxTableBytes
//
// Numbers are little-endian. Equal tables give equal bytes.
const (
	snapshotMagic  = "agentdPT"
	snapshotFormat = 1
	snapshotHeader = 24
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// WriteSnapshot writes a table so that ReadSnapshot gives the same one. Error
// kinds: TooLarge, else the writer's.
func WriteSnapshot(w io.Writer, t *Table) error {
	const op = "write placement snapshot"
	data, err := t.marshalCluster()
	if err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	if len(data) > MaxTableBytes {
		return refuse(op, agent.TooLarge, "the table has %d bytes; at most %d are possible", len(data), MaxTableBytes)
	}
	head := make([]byte, 0, snapshotHeader)
	head = append(head, snapshotMagic...)
	head = binary.LittleEndian.AppendUint32(head, snapshotFormat)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(data, castagnoli))
	head = binary.LittleEndian.AppendUint64(head, uint64(len(data)))
	for _, b := range [][]byte{head, data} {
		if _, err := w.Write(b); err != nil {
			return fmt.Errorf("%s: %w", op, err)
		}
	}
	return nil
}

// ReadSnapshot reads what WriteSnapshot wrote, to the end of r. Error kinds:
// Corrupt (damaged), Unavailable (of a newer agentd). It takes no more memory than
// bytes arrive.
func ReadSnapshot(r io.Reader) (*Table, error) {
	const op = "read placement snapshot"
	damaged := func(msg string, err error) (*Table, error) {
		return nil, &agent.Error{Op: op, Kind: agent.Corrupt, Msg: msg, Err: err}
	}
	var head [snapshotHeader]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return damaged("its header is cut short", err)
	}
	if string(head[:8]) != snapshotMagic {
		return damaged("it is not a snapshot of a placement table", nil)
	}
	if format := binary.LittleEndian.Uint32(head[8:]); format != snapshotFormat {
		return nil, refuse(op, agent.Unavailable, "it has format %d and this agentd reads %d: start the version that the other nodes run", format, snapshotFormat)
	}
	size := binary.LittleEndian.Uint64(head[16:])
	if size > MaxTableBytes {
		return damaged(fmt.Sprintf("it claims %d bytes; at most %d are possible", size, MaxTableBytes), nil)
	}
	data, err := io.ReadAll(io.LimitReader(r, int64(size)+1)) // one more, to see a tail
	switch {
	case err != nil:
		return damaged("", err)
	case uint64(len(data)) != size:
		return damaged(fmt.Sprintf("it claims %d bytes and does not have just these", size), nil)
	case crc32.Checksum(data, castagnoli) != binary.LittleEndian.Uint32(head[12:]):
		return damaged("its checksum does not match", nil)
	}
	t := new(Table)
	if err := t.UnmarshalJSON(data); err != nil {
		return damaged("", err)
	}
	return t, nil
}
