package commitlog

import (
	"encoding/binary"
	"hash/crc32"
)

// All numbers are little-endian; checksums are CRC-32C. DESIGN.md draws the layout.
const (
	blockBytes    = 4096
	formatVersion = 1

	segmentMagic  = "agentdLG"
	segmentHead   = 64
	batchMagic    = 0x4274_6761 // "agtB"
	batchHead     = 80
	recordHead    = 24
	entryHead     = recordHead + 36
	stateBytes    = recordHead + 24
	carryBytes    = recordHead + 20
	seqBytes      = 12
	truncateBytes = recordHead + 8
)

var (
	le     = binary.LittleEndian
	castag = crc32.MakeTable(crc32.Castagnoli)
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castag) }

func roundUp(n int) int { return (n + blockBytes - 1) &^ (blockBytes - 1) }

// segmentHeader is the first block of a segment. Magic, version and checksum keep
// their places in all versions to come.
type segmentHeader struct {
	logID [16]byte
	gen   uint64 // counts the lives of segments; from 1
	prev  uint64 // the generation before this one in the log; 0 for the first
	first uint64 // the position of the first batch
	size  int64  // of the file
}

func (h segmentHeader) encode(block []byte) {
	clear(block[:blockBytes])
	copy(block, segmentMagic)
	le.PutUint32(block[8:], formatVersion)
	copy(block[16:], h.logID[:])
	le.PutUint64(block[32:], h.gen)
	le.PutUint64(block[40:], h.prev)
	le.PutUint64(block[48:], h.first)
	le.PutUint64(block[56:], uint64(h.size))
	le.PutUint32(block[12:], headerSum(block))
}

// headerSum is the checksum of a segment header, whose own field counts as zero.
func headerSum(block []byte) uint32 {
	var b [segmentHead]byte
	copy(b[:], block)
	clear(b[12:16])
	return checksum(b[:])
}

// decodeSegment reads a segment header. ok means that it is whole; the version is
// the caller's to check, and if it is another one nothing else is known.
func decodeSegment(block []byte) (h segmentHeader, version uint32, ok bool) {
	if len(block) < segmentHead || string(block[:8]) != segmentMagic || le.Uint32(block[12:]) != headerSum(block) {
		return h, 0, false
	}
	version = le.Uint32(block[8:])
	copy(h.logID[:], block[16:])
	h.gen, h.prev, h.first = le.Uint64(block[32:]), le.Uint64(block[40:]), le.Uint64(block[48:])
	h.size = int64(le.Uint64(block[56:]))
	return h, version, version != formatVersion || h.gen > 0 && h.size >= 2*blockBytes && h.size <= MaxSegmentBytes
}

// batchHeader is in front of what one write wrote.
type batchHeader struct {
	logID    [16]byte
	gen      uint64
	position uint64 // of the batch's first byte in the whole log
	durable  uint64 // all below was known durable when the batch was built
	wall     int64  // Unix nanoseconds, for people
	length   uint32 // of the payload; the batch is padded to whole blocks
	count    uint32 // records
	chain    uint32 // checksum in the header of the batch before
	payload  uint32 // checksum of the payload
	sum      uint32 // checksum of the header
}

// size is what the batch takes of the segment.
func (h batchHeader) size() int64 { return int64(roundUp(batchHead + int(h.length))) }

// encode writes the header and returns its checksum.
func (h batchHeader) encode(b []byte) uint32 {
	le.PutUint32(b, batchMagic)
	le.PutUint32(b[4:], formatVersion)
	copy(b[8:], h.logID[:])
	le.PutUint64(b[24:], h.gen)
	le.PutUint64(b[32:], h.position)
	le.PutUint64(b[40:], h.durable)
	le.PutUint64(b[48:], uint64(h.wall))
	le.PutUint32(b[56:], h.length)
	le.PutUint32(b[60:], h.count)
	le.PutUint32(b[64:], h.chain)
	le.PutUint32(b[68:], h.payload)
	le.PutUint32(b[72:], 0)
	sum := checksum(b[:76])
	le.PutUint32(b[76:], sum)
	return sum
}

// decodeBatch reads a batch header; ok means that it is whole and of this version.
func decodeBatch(b []byte) (h batchHeader, ok bool) {
	if len(b) < batchHead || le.Uint32(b) != batchMagic || le.Uint32(b[4:]) != formatVersion || le.Uint32(b[72:]) != 0 {
		return h, false
	}
	h.sum = le.Uint32(b[76:])
	if h.sum != checksum(b[:76]) {
		return h, false
	}
	copy(h.logID[:], b[8:])
	h.gen, h.position, h.durable = le.Uint64(b[24:]), le.Uint64(b[32:]), le.Uint64(b[40:])
	h.wall = int64(le.Uint64(b[48:]))
	h.length, h.count = le.Uint32(b[56:]), le.Uint32(b[60:])
	h.chain, h.payload = le.Uint32(b[64:]), le.Uint32(b[68:])
	return h, h.length <= MaxSegmentBytes && h.durable <= h.position
}
