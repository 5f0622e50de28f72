package record

import (
	"encoding/binary"
	"hash/crc32"
)

// SoundPage checks the trailer that the capture layer puts into the last TrailerBytes
// of a page of PageBytes: CRC32C, little-endian, of the page's number (u32,
// little-endian) and of the bytes before the trailer, then zeros. A page of zeros was
// never written and is sound.
func SoundPage(page uint32, image []byte) bool {
	trailer := image[PageBytes-TrailerBytes : PageBytes]
	le := binary.LittleEndian
	if le.Uint32(trailer[4:]) != 0 {
		return false
	}
	return le.Uint32(trailer) == pageSum(page, image) || allZero(image[:PageBytes])
}

func pageSum(page uint32, image []byte) uint32 {
	var number [4]byte
	binary.LittleEndian.PutUint32(number[:], page)
	return crc32.Update(crc32.Checksum(number[:], castagnoli), castagnoli, image[:PageBytes-TrailerBytes])
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
