package record

import (
	"encoding/binary"
	"testing"
)

func TestSoundPage_NoticesEveryFlippedBit(t *testing.T) {
	image := make([]byte, PageBytes)
	for i := range PageBytes - TrailerBytes {
		image[i] = byte(i * 7)
	}
	binary.LittleEndian.PutUint32(image[PageBytes-TrailerBytes:], pageSum(3, image))
	if !SoundPage(3, image) || SoundPage(4, image) {
		t.Error("a page is sound in its own place only")
	}
	for i := range PageBytes * 8 {
		image[i/8] ^= 1 << (i % 8)
		if SoundPage(3, image) {
			t.Fatalf("bit %d of byte %d", i%8, i/8)
		}
		image[i/8] ^= 1 << (i % 8)
	}
	clear(image)
	if !SoundPage(9, image) {
		t.Error("a page of zeros was never written")
	}
	image[17] = 1
	if SoundPage(9, image) {
		t.Error("one bit in a page of zeros")
	}
}
