package sqlite

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"pgregory.net/rapid"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealed sets the page's trailer.
func sealed(no uint32, page [pageBytes]byte) [pageBytes]byte {
	sum := crc32.Update(crc32.Checksum(binary.LittleEndian.AppendUint32(nil, no), castagnoli), castagnoli, page[:pageBytes-8])
	binary.LittleEndian.PutUint32(page[pageBytes-8:], sum)
	clear(page[pageBytes-4:])
	return page
}

func drawPage(t *rapid.T) (page [pageBytes]byte) {
	for range rapid.IntRange(0, 20).Draw(t, "pieces") {
		at := rapid.IntRange(0, pageBytes-9).Draw(t, "at")
		copy(page[at:pageBytes-8], rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "bytes"))
	}
	return page
}

// With the processor's instruction and without it.
func TestChecksum_IsThatOfTheStandardLibrary(t *testing.T) {
	_ = initialize()
	rapid.Check(t, func(t *rapid.T) {
		no, page := rapid.Uint32Min(1).Draw(t, "no"), drawPage(t)
		if rapid.Bool().Draw(t, "full") {
			copy(page[:], rapid.SliceOfN(rapid.Byte(), pageBytes, pageBytes).Draw(t, "page"))
		}
		good := sealed(no, page)
		want := binary.LittleEndian.Uint32(good[pageBytes-8:])
		if sum, plain := checksumPage(no, &page); sum != want || plain != want {
			t.Fatalf("sums %x and %x, want %x", sum, plain, want)
		}
	})
}

// runsOf cuts an entry into its runs, as from and to.
func runsOf(t interface{ Fatal(...any) }, entry []byte) (runs [][2]int) {
	err := eachRun(entry, 1<<31, func(at int64, run []byte) error {
		from := int(at % pageBytes)
		runs = append(runs, [2]int{from, from + len(run)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return runs
}

func TestDeltaEntry_TurnsTheOldPageIntoTheNew(t *testing.T) {
	_ = initialize()
	rapid.Check(t, func(t *rapid.T) {
		no := uint32(rapid.IntRange(1, 3).Draw(t, "no"))
		var old [pageBytes]byte
		isNew := rapid.Bool().Draw(t, "new")
		if !isNew {
			old = sealed(no, drawPage(t))
		}
		page := old
		for range rapid.IntRange(0, 30).Draw(t, "changes") {
			at := rapid.IntRange(0, pageBytes-9).Draw(t, "at")
			copy(page[at:pageBytes-8], rapid.SliceOfN(rapid.Byte(), 1, 300).Draw(t, "bytes"))
		}
		want := sealed(no, page)
		entry := deltaEntry(no, &page, &old)
		if len(entry) == 0 {
			if isNew || want != old {
				t.Fatal("a changed page has no entry")
			}
			return
		}
		if !isNew && want == old {
			t.Fatal("an unchanged page has an entry")
		}
		image, err := replay(bytes.Clone(append(make([]byte, int(no-1)*pageBytes), old[:]...)), entry, no)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(image[int(no-1)*pageBytes:], want[:]) || page != want {
			t.Fatal("the entry does not give the new page")
		}
		if runs := runsOf(t, entry); isNew && runs[len(runs)-1][1] != pageBytes {
			t.Fatal("the last byte of a new page is not in its entry")
		}
	})
}

// The size of an entry, for changes whose shortest form is known.
func TestDeltaEntry_IsShort(t *testing.T) {
	_ = initialize()
	const trailer = 4 + 4
	set := func(at ...int) (page [pageBytes]byte) {
		for _, i := range at {
			page[i]++
		}
		return page
	}
	every := func(step int) (page [pageBytes]byte) {
		for i := 0; i < pageBytes-8; i += step {
			page[i]++
		}
		return page
	}
	for _, c := range []struct {
		name string
		page [pageBytes]byte
		want int
	}{
		{"nothing", set(), 0},
		{"first byte", set(0), 6 + 5 + trailer},
		{"last byte of the body", set(pageBytes - 9), 6 + 4 + 5},
		{"gap of three is kept in the run", set(103, 107), 6 + 4 + 5 + trailer},
		{"gap of five makes two runs", set(103, 109), 6 + 2*5 + trailer},
		{"far apart", set(8, 1000, 3000), 6 + 3*5 + trailer},
		{"each byte", every(1), 6 + pageBytes},
		{"each 16th byte", every(16), 6 + 5*256 + trailer},
	} {
		t.Run(c.name, func(t *testing.T) {
			var zero [pageBytes]byte
			old := sealed(1, zero)
			page := c.page
			copy(page[pageBytes-8:], old[pageBytes-8:])
			if got := len(deltaEntry(1, &page, &old)); got != c.want && !(c.want > 0 && got == c.want-1) { // a byte of the sum may be equal
				t.Errorf("%d bytes, want %d", got, c.want)
			}
		})
	}
}
