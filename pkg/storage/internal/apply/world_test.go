package apply

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"agentd/internal/disk"
	"agentd/pkg/agent"
	"agentd/pkg/storage/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var birth = time.UnixMilli(1_700_000_000_000).UTC()

func named(name string) agent.ID {
	return agent.ID{Namespace: "default", Class: "Counter", Name: name}
}

// image is an agent's database: all its pages, one after the other.
type image []byte

// diff is the delta from one image to the next. Changed bytes that are at most gap
// apart share a run; a page with more than wholeAt runs is given whole.
func diff(before, after image, gap, wholeAt int) record.Delta {
	var d record.Delta
	for at := 0; at < len(after); at += record.PageBytes {
		old, now := make([]byte, record.PageBytes), after[at:][:record.PageBytes]
		if at < len(before) {
			copy(old, before[at:])
		}
		d = appendPage(d, uint32(at/record.PageBytes+1), old, now, gap, wholeAt)
	}
	return d
}

func appendPage(d record.Delta, page uint32, old, now []byte, gap, wholeAt int) record.Delta {
	type span struct{ from, to int }
	var spans []span
	for i := range now {
		if now[i] == old[i] {
			continue
		}
		if n := len(spans); n > 0 && i <= spans[n-1].to+max(gap, 0) {
			spans[n-1].to = i + 1
		} else {
			spans = append(spans, span{i, i + 1})
		}
	}
	le := binary.LittleEndian
	switch {
	case len(spans) == 0:
		return d
	case len(spans) > min(wholeAt, 1024):
		return append(le.AppendUint16(le.AppendUint32(d, page), 0xFFFF), now...)
	}
	d = le.AppendUint16(le.AppendUint32(d, page), uint16(len(spans)))
	for _, s := range spans {
		d = le.AppendUint16(le.AppendUint16(d, uint16(s.from)), uint16(s.to-s.from))
		d = append(d, now[s.from:s.to]...)
	}
	return d
}

// state is what an agent should be.
type state struct {
	Seq    uint64
	Image  image
	Reason string
}

// history is the log of some shards, and what every prefix of a shard's log means.
type history struct {
	rnd    *rand.Rand
	shards int
	logs   [][]logged // by shard
	order  []logged   // of all shards, as they are handed over
	now    map[agent.ID]state
}

type logged struct {
	shard int
	index uint64
	entry []byte
	after map[agent.ID]state // of the shard's agents
}

func newHistory(seed uint64, shards int) *history {
	return &history{rnd: rand.New(rand.NewPCG(seed, 1)), shards: shards, logs: make([][]logged, shards), now: make(map[agent.ID]state)}
}

func (h *history) shardOf(id agent.ID) int {
	return int(crc32.ChecksumIEEE([]byte(id.Key()))>>8) % h.shards
}

// of is an agent of the shard.
func (h *history) of(shard, number int) agent.ID {
	for i := 0; ; i++ {
		if id := named(fmt.Sprintf("a%d-%d", number, i)); h.shardOf(id) == shard {
			return id
		}
	}
}

// entry closes an entry of a shard with the records that were encoded into it.
func (h *history) entry(shard int, records ...[]byte) logged {
	last := uint64(0)
	if n := len(h.logs[shard]); n > 0 {
		last = h.logs[shard][n-1].index
	}
	after := make(map[agent.ID]state)
	for id, s := range h.now {
		if h.shardOf(id) == shard {
			after[id] = s
		}
	}
	// Indices have holes: the log has entries that are not for the applier.
	l := logged{shard: shard, index: last + 1 + h.rnd.Uint64N(3), entry: bytes.Join(records, nil), after: after}
	h.logs[shard], h.order = append(h.logs[shard], l), append(h.order, l)
	return l
}

// commit makes the agent's next commit lead to an image.
func (h *history) commit(id agent.ID, next image) []byte {
	return h.commitAs(id, next, h.rnd.IntN(20), 1+h.rnd.IntN(12))
}

// commitAs says how the delta is made.
func (h *history) commitAs(id agent.ID, next image, gap, wholeAt int) []byte {
	s := h.now[id]
	r := &record.Record{Kind: record.Commit, Agent: id, Base: s.Seq, Seq: s.Seq + 1, At: birth, CreatedAt: birth,
		Pages: uint32(len(next) / record.PageBytes), Delta: diff(s.Image, next, gap, wholeAt)}
	h.now[id] = state{Seq: s.Seq + 1, Image: next, Reason: s.Reason}
	return record.Append(nil, r)
}

func (h *history) delete(id agent.ID) []byte {
	r := &record.Record{Kind: record.Delete, Agent: id, Base: h.now[id].Seq, At: birth}
	delete(h.now, id)
	return record.Append(nil, r)
}

func (h *history) quarantine(id agent.ID, reason string) []byte {
	s := h.now[id]
	r := &record.Record{Kind: record.Quarantine, Agent: id, Base: s.Seq, Seq: s.Seq, At: birth, Reason: reason}
	if s.Seq > 0 {
		s.Reason = reason
		h.now[id] = s
	}
	return record.Append(nil, r)
}

// change is an image some bytes further: changed in place, grown, shrunk, or all
// together.
func (h *history) change(im image, most int) image {
	pages := len(im) / record.PageBytes
	switch h.rnd.IntN(4) {
	case 0:
		pages = 1 + h.rnd.IntN(most)
	case 1:
		pages = min(pages+1, most)
	}
	next := make(image, max(pages, 1)*record.PageBytes)
	copy(next, im)
	for range h.rnd.IntN(12) {
		at := h.rnd.IntN(len(next))
		for i := at; i < min(at+1+h.rnd.IntN(40), len(next)); i++ {
			next[i] = byte(h.rnd.Uint32())
		}
	}
	return next
}

// random adds entries of everything that can happen to few agents.
func (h *history) random(entries, agents, pages int) {
	for len(h.order) < entries {
		shard := h.rnd.IntN(h.shards)
		var records [][]byte
		for range h.rnd.IntN(5) {
			id := h.of(shard, h.rnd.IntN(agents))
			switch h.rnd.IntN(12) {
			case 0, 1:
				records = append(records, h.delete(id))
			case 2:
				records = append(records, h.quarantine(id, fmt.Sprint(h.rnd.IntN(2))))
			default:
				records = append(records, h.commit(id, h.change(h.now[id].Image, pages)))
			}
		}
		h.entry(shard, records...)
	}
}

// ids are all agents that ever were.
func (h *history) ids() []agent.ID {
	seen := make(map[agent.ID]bool)
	for _, l := range h.order {
		for id := range l.after {
			seen[id] = true
		}
	}
	ids := make([]agent.ID, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b agent.ID) int { return cmp.Compare(a.Key(), b.Key()) })
	return ids
}

// ledger is a catalog as the applier needs it, kept in one file that is replaced by
// each Write.
type ledger struct {
	fs   disk.FS
	path string

	mu      sync.Mutex // guards what follows
	rows    []map[string]row
	index   []uint64
	durable saved
	fail    error // of the next Write
}

type row struct {
	Seq    uint64
	Pages  uint32
	Reason string
}

type saved struct {
	Rows  []map[string]row
	Index []uint64
}

type ledgerCut struct {
	shard int
	index uint64
	rows  map[string]row
}

func openLedger(fsys disk.FS, path string, shards int) (*ledger, error) {
	l := &ledger{fs: fsys, path: path, index: make([]uint64, shards)}
	b, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(b, &l.durable)
	} else if errors.Is(err, fs.ErrNotExist) {
		l.durable, err = saved{make([]map[string]row, shards), make([]uint64, shards)}, nil
	}
	for _, rows := range l.durable.Rows {
		l.rows = append(l.rows, clone(rows))
	}
	copy(l.index, l.durable.Index)
	return l, err
}

func clone(rows map[string]row) map[string]row {
	c := make(map[string]row, len(rows))
	for k, r := range rows {
		c[k] = r
	}
	return c
}

func (l *ledger) Seq(id agent.ID) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rows := range l.rows {
		if r, ok := rows[id.Key()]; ok {
			return r.Seq, nil
		}
	}
	return 0, nil
}

func (l *ledger) Commit(shard int, _ uint64, r *record.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := strings.Clone(r.Agent.Key())
	now := l.rows[shard][key]
	switch r.Kind {
	case record.Commit:
		now.Seq, now.Pages = r.Seq, r.Pages
	case record.Quarantine:
		now.Reason = r.Reason
	}
	l.rows[shard][key] = now
	return nil
}

func (l *ledger) Delete(shard int, _ uint64, id agent.ID) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.rows[shard], id.Key())
	return nil
}

func (l *ledger) AppliedIndex(shard int) uint64 { return l.index[shard] }

func (l *ledger) Cut(shard int, index uint64) Cut {
	l.mu.Lock()
	defer l.mu.Unlock()
	return ledgerCut{shard, index, clone(l.rows[shard])}
}

func (l *ledger) Write(_ context.Context, cuts []Cut) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fail; err != nil {
		l.fail = nil
		return err
	}
	next := saved{slices.Clone(l.durable.Rows), slices.Clone(l.durable.Index)}
	for _, c := range cuts {
		c := c.(ledgerCut)
		next.Rows[c.shard], next.Index[c.shard] = c.rows, c.index
	}
	b, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := l.replace(b); err != nil {
		return err
	}
	l.durable = next
	return nil
}

func (l *ledger) replace(b []byte) error {
	f, err := l.fs.Open(l.path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	if _, err = f.WriteAt(b, 0); err == nil {
		err = f.Truncate(int64(len(b)))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := l.fs.Rename(l.path+".new", l.path); err != nil {
		return err
	}
	return l.fs.SyncDir(filepath.Dir(l.path))
}

// home is an applier with its files and its catalog in a folder.
type home struct {
	*Applier
	files  *Files
	ledger *ledger
}

func openHome(t testing.TB, fsys disk.FS, dir string, h *history, change ...func(*Config)) *home {
	t.Helper()
	files, err := OpenFiles(fsys, filepath.Join(dir, "agents"), 4)
	if err != nil {
		t.Fatal(err)
	}
	l, err := openLedger(fsys, filepath.Join(dir, "ledger"), h.shards)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Files: files, FS: fsys, Dir: dir, Catalog: l, Shards: h.shards, ShardOf: h.shardOf,
		Failed: func(err error) { t.Error("failed:", err) }}
	for _, fn := range change {
		fn(&c)
	}
	return &home{New(c), files, l}
}

func (o *home) close(t testing.TB) {
	t.Helper()
	if err := errors.Join(o.Close(), o.files.Close()); err != nil {
		t.Error(err)
	}
}

// hand gives entries to the applier.
func (o *home) hand(t testing.TB, entries ...logged) {
	t.Helper()
	for _, l := range entries {
		if err := o.Apply(l.shard, l.index, l.entry); err != nil {
			t.Fatal(err)
		}
	}
}

// wait waits for the last of each shard among the entries.
func (o *home) wait(t testing.TB, entries ...logged) {
	t.Helper()
	for _, l := range entries {
		if err := o.Wait(t.Context(), l.shard, l.index); err != nil {
			t.Fatal(err)
		}
	}
}

// differs says how the files and the catalog are not what the entries mean; "" if
// they are.
func (o *home) differs(h *history, entries ...logged) string {
	want := make(map[agent.ID]state)
	for shard := range h.shards {
		for i := len(entries) - 1; i >= 0; i-- {
			if entries[i].shard == shard {
				for id, s := range entries[i].after {
					want[id] = s
				}
				break
			}
		}
	}
	for _, id := range h.ids() {
		s, exists := want[id]
		b, err := os.ReadFile(o.files.Path(id))
		if exists != (err == nil) {
			return fmt.Sprintf("%s: exists: %v, file: %v", id, exists, err)
		}
		if exists && !bytes.Equal(b, s.Image) {
			return fmt.Sprintf("%s at commit %d: %s", id, s.Seq, firstDifference(b, s.Image))
		}
		got := o.ledger.rows[h.shardOf(id)][id.Key()]
		if got != (row{s.Seq, uint32(len(s.Image) / record.PageBytes), s.Reason}) {
			return fmt.Sprintf("%s: the catalog says %+v, the log %d %q", id, got, s.Seq, s.Reason)
		}
	}
	return ""
}

func firstDifference(got, want []byte) string {
	if len(got) != len(want) {
		return fmt.Sprintf("the file has %d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			return fmt.Sprintf("byte %d of page %d is %d, want %d", i%record.PageBytes, i/record.PageBytes+1, got[i], want[i])
		}
	}
	return "equal"
}

// seal puts the right trailer into a page.
func seal(page uint32, im []byte) {
	le := binary.LittleEndian
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	sum.Write(le.AppendUint32(nil, page))
	sum.Write(im[:record.PageBytes-record.TrailerBytes])
	clear(im[record.PageBytes-record.TrailerBytes:])
	le.PutUint32(im[record.PageBytes-record.TrailerBytes:], sum.Sum32())
}
