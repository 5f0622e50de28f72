package disktest

import "bytes"

const sectorBytes = 512

// content is a file's bytes: as the process sees them, as they are durable, and each
// state between that a sector or the size went through since.
type content struct {
	live, durable []byte
	sectors       map[int64][]version // by number of sector, oldest first
	sizes         []size              // oldest first
}

// version is what a sector held after an operation.
type version struct {
	op   int
	data [sectorBytes]byte
	cut  bool // the file became too short for it: zero if it is long again
}

// size is what the file's size was after an operation.
type size struct {
	op    int
	bytes int64
}

func newContent(data []byte) *content {
	return &content{live: data, durable: bytes.Clone(data), sectors: make(map[int64][]version)}
}

func (c *content) clone() *content { return newContent(bytes.Clone(c.live)) }

// sector copies sector n of data; what is missing is zero.
func sector(data []byte, n int64) (s [sectorBytes]byte) {
	if at := n * sectorBytes; at < int64(len(data)) {
		copy(s[:], data[at:])
	}
	return s
}

func (c *content) write(op int, off int64, data []byte) {
	end := off + int64(len(data))
	if end > int64(len(c.live)) {
		c.live = append(c.live, make([]byte, end-int64(len(c.live)))...)
		c.sizes = append(c.sizes, size{op, end})
	}
	copy(c.live[off:], data)
	for n := off / sectorBytes; n*sectorBytes < end; n++ {
		c.see(op, n, false)
	}
}

func (c *content) resize(op int, to int64) {
	from := int64(len(c.live))
	if to == from {
		return
	}
	c.sizes = append(c.sizes, size{op, to})
	if to > from {
		c.live = append(c.live, make([]byte, to-from)...)
		return
	}
	clear(c.live[to:])
	for n := to / sectorBytes; n*sectorBytes < from; n++ {
		c.see(op, n, true)
	}
	c.live = c.live[:to]
}

// see notes what sector n holds after an operation, if that is something new.
func (c *content) see(op int, n int64, cut bool) {
	now, seen := sector(c.live, n), c.sectors[n]
	last := sector(c.durable, n)
	if len(seen) > 0 {
		last = seen[len(seen)-1].data
	}
	if now != last {
		c.sectors[n] = append(seen, version{op, now, cut})
	}
}

// sync makes what operations before upto left durable.
func (c *content) sync(upto int) {
	c.syncSize(upto)
	for n := range c.sectors {
		c.syncSector(n, upto)
	}
}

// written makes a write, operation op, durable: its sectors, and the size.
func (c *content) written(op int, off, end int64) {
	c.syncSize(op + 1)
	for n := off / sectorBytes; n*sectorBytes < end; n++ {
		c.syncSector(n, op+1)
	}
}

// syncSize makes the size durable, and with it every cut that led to it.
func (c *content) syncSize(upto int) {
	done := 0
	for done < len(c.sizes) && c.sizes[done].op < upto {
		c.setSize(c.sizes[done].bytes)
		done++
	}
	if done == 0 {
		return
	}
	last := c.sizes[done-1].op
	c.sizes = c.sizes[done:]
	for n, seen := range c.sectors {
		for i := len(seen) - 1; i >= 0; i-- {
			if seen[i].cut && seen[i].op <= last {
				c.keep(n, i)
				break
			}
		}
	}
}

func (c *content) setSize(to int64) {
	if to < int64(len(c.durable)) {
		c.durable = c.durable[:to]
		return
	}
	c.durable = append(c.durable, make([]byte, to-int64(len(c.durable)))...)
}

// syncSector makes the newest version before upto durable.
func (c *content) syncSector(n int64, upto int) {
	seen := c.sectors[n]
	last := -1
	for last+1 < len(seen) && seen[last+1].op < upto {
		last++
	}
	if last >= 0 {
		c.keep(n, last)
	}
}

// keep makes version i of sector n durable and forgets those before it.
func (c *content) keep(n int64, i int) {
	if at := n * sectorBytes; at < int64(len(c.durable)) {
		copy(c.durable[at:], c.sectors[n][i].data[:])
	}
	if rest := c.sectors[n][i+1:]; len(rest) > 0 {
		c.sectors[n] = rest
	} else {
		delete(c.sectors, n)
	}
}

// crash is one of the contents that a crash can leave.
func (c *content) crash(choose Chooser) []byte {
	length, at := int64(len(c.durable)), -1
	if len(c.sizes) > 0 {
		if i := choose(len(c.sizes) + 1); i > 0 {
			length, at = c.sizes[i-1].bytes, c.sizes[i-1].op
		}
	}
	out := make([]byte, length)
	copy(out, c.durable)
	for _, n := range sortedKeys(c.sectors) {
		seen := c.sectors[n]
		i := choose(len(seen)+1) - 1
		for j := range seen { // a size that was reached cut all that it cuts
			if seen[j].cut && seen[j].op <= at {
				i = max(i, j)
			}
		}
		for i >= 0 && seen[i].cut && seen[i].op > at { // and one that was not cuts nothing
			i--
		}
		if start := n * sectorBytes; i >= 0 && start < length {
			copy(out[start:], seen[i].data[:])
		}
	}
	return out
}
