package apply

import (
	"bytes"
	"os"
	"testing"

	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

// Whatever a delta holds, the file becomes what the delta says byte by byte, or the
// shard stops and the file stays as it was.
func FuzzApply_DeltaOverAFile(f *testing.F) {
	before := filled(3, 7)
	after := append(append(image(nil), before[:5000]...), make(image, 3*4096)...)[:4*4096]
	f.Add([]byte(diff(before, after, 0, 9)), []byte(diff(after, before, 3, 1)), uint32(4), uint32(3))
	f.Add([]byte{}, []byte{1, 0, 0, 0, 1, 0, 0, 16, 1, 0, 5}, uint32(1), uint32(2))
	f.Fuzz(func(t *testing.T, one, two []byte, pagesOne, pagesTwo uint32) {
		pagesOne, pagesTwo = 1+pagesOne%20, 1+pagesTwo%20
		h := newHistory(1, 1)
		a := named("a")
		o := openHome(t, lazy{}, t.TempDir(), h)
		defer o.close(t)
		want := filled(3, 7)
		entries := [][]byte{h.commit(a, want)}
		for i, d := range []record.Delta{one, two} {
			pages := []uint32{pagesOne, pagesTwo}[i]
			entries = append(entries, record.Append(nil, &record.Record{Kind: record.Commit, Agent: a, Base: uint64(i + 1), Seq: uint64(i + 2),
				At: birth, CreatedAt: birth, Pages: pages, Delta: d}))
		}
		for i, e := range entries {
			if err := o.Apply(0, uint64(i+1), e); err != nil && agent.KindOf(err) != agent.Corrupt {
				t.Fatal(err)
			}
		}
		for i, d := range []record.Delta{one, two} {
			pages := []uint32{pagesOne, pagesTwo}[i]
			err := o.Wait(t.Context(), 0, uint64(i+2))
			if bad := d.Validate(pages); (bad == nil) != (err == nil) {
				t.Fatalf("the delta: %v, the applier: %v", bad, err)
			}
			if err != nil {
				break
			}
			want = resized(want, int(pages)*record.PageBytes)
			if err := d.Each(func(page uint32, offset int, b []byte) error {
				copy(want[int(page-1)*record.PageBytes+offset:], b)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(o.files.Path(a))
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s, %v", firstDifference(got, want), err)
		}
	})
}

func resized(im image, size int) image {
	next := make(image, size)
	copy(next, im)
	return next
}
