package commitlog

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"agentd/internal/disk"

	"golang.org/x/sys/unix"
)

// BenchmarkAppend is one entry of 650 bytes at a time, by 1 and by 64 groups.
// BenchmarkBareWrite is what the disk itself takes; compare them within one run.
func BenchmarkAppend(b *testing.B) {
	for _, writers := range []int{1, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			l := mustOpen(b, Config{Dir: b.TempDir(), FS: disk.OS{}})
			var next atomic.Uint32
			data := make([]byte, 650)
			// Zeroing spares takes the disk's time.
			eventually(b, "spares", func() bool { return l.Stats().Spares >= l.config.spares() })
			b.SetParallelism((writers + 1) / 2)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				id := next.Add(1)
				if int(id) > writers {
					return
				}
				g := mustGroup(b, l, id)
				for i := uint64(1); pb.Next(); i++ {
					must(b, g.Append([]Entry{{Index: i, Data: data}}))
					if i%1000 == 0 {
						must(b, g.TruncateFront(i-100))
					}
				}
			})
			b.StopTimer()
			st := l.Stats()
			b.ReportMetric(float64(st.Records)/float64(max(st.Batches, 1)), "records/write")
			b.ReportMetric(float64(st.WriteP50.Microseconds()), "write-p50-µs")
		})
	}
}

func BenchmarkBareWrite(b *testing.B) {
	dir := b.TempDir()
	seg, err := prepare(Config{Dir: dir, FS: disk.OS{}, SegmentBytes: DefaultSegmentBytes}, 1, func() error { return nil })
	must(b, err)
	seg.close()
	f, err := disk.OS{}.Open(filepath.Join(dir, segmentName(1)), os.O_RDWR|unix.O_DIRECT|unix.O_DSYNC)
	must(b, err)
	defer f.Close()
	block := aligned(blockBytes)
	at := int64(0)
	for b.Loop() {
		_, err := f.WriteAt(block, at)
		must(b, err)
		at = (at + blockBytes) % DefaultSegmentBytes
	}
}

// BenchmarkOpen reads a log of four full segments.
func BenchmarkOpen(b *testing.B) {
	c := Config{Dir: b.TempDir(), FS: disk.OS{}}
	l := mustOpen(b, c)
	g := mustGroup(b, l, 1)
	data := make([]byte, 650)
	batch := make([]Entry, 500)
	for i := uint64(1); i < 350_000; i += 500 {
		for j := range batch {
			batch[j] = Entry{Index: i + uint64(j), Data: data}
		}
		must(b, g.Append(batch))
	}
	must(b, l.Close())
	for b.Loop() {
		start := time.Now()
		l := mustOpen(b, c)
		b.ReportMetric(float64(time.Since(start).Milliseconds()), "open-ms")
		must(b, l.Close())
	}
}
