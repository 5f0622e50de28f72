package disktrial

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"sync"
)

// ledger is what the test knows of a store from outside: what was tried and what was
// acknowledged. It is kept in the test's own process, which survives every crash.
type ledger struct {
	mu     sync.Mutex // guards what follows
	agents map[int]*known
	acks   int
	wrong  []string // promises that were broken
	noted  string   // the last words of the child
	enough chan struct{}
	goal   int // acks at which enough is closed; 0 for none
}

// known is the newest life of an agent.
type known struct {
	life         int64
	tried, acked int64 // commits
	dropped      bool  // its deletion was tried
	gone         bool  // and acknowledged
}

func newLedger() *ledger { return &ledger{agents: make(map[int]*known)} }

// await gives a channel that is closed when so many more commits are acknowledged.
func (l *ledger) await(acks int) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.enough, l.goal = make(chan struct{}), l.acks+acks
	return l.enough
}

// follow reads a child's events until its end of the pipe is closed. ready is closed
// when the child has opened its store and every agent.
func (l *ledger) follow(pipe io.Reader, opening, ready chan<- struct{}) {
	lines := bufio.NewScanner(pipe)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "opening":
			close(opening)
		case "ready":
			close(ready)
		default:
			l.event(word, rest)
		}
	}
}

func (l *ledger) event(word, rest string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var k int
	var c content
	_, _ = fmt.Sscan(rest, &k, &c.life, &c.n) // not all have three numbers
	a := l.agents[k]
	if a == nil {
		a = &known{}
		l.agents[k] = a
	}
	switch word {
	case "try":
		if c.life != a.life {
			*a = known{life: c.life}
		}
		a.tried = max(a.tried, c.n)
	case "ack":
		a.acked = c.n
		if l.acks++; l.acks == l.goal {
			close(l.enough)
		}
	case "drop":
		a.dropped = true
	case "gone":
		a.gone = true
	case "found":
		l.foundLocked(k, c)
	case "failed":
		l.noted = rest
	default:
		l.wrong = append(l.wrong, word+" "+rest)
	}
}

// found holds what a crash left of an agent against what was promised. Afterwards
// that is promised too.
func (l *ledger) found(k int, c content) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.agents[k] == nil {
		l.agents[k] = &known{}
	}
	l.foundLocked(k, c)
}

func (l *ledger) foundLocked(k int, c content) {
	a := l.agents[k]
	wrong := func(format string, args ...any) {
		l.wrong = append(l.wrong, fmt.Sprintf("agent %d: ", k)+fmt.Sprintf(format, args...))
	}
	switch {
	case c.n == 0:
		if a.acked > 0 && !a.dropped {
			wrong("commit %d of life %d was acknowledged, and the agent is gone", a.acked, a.life)
		}
	case a.gone:
		wrong("its life %d was deleted, and life %d is there with commit %d", a.life, c.life, c.n)
	case c.life != a.life:
		wrong("life %d is there with commit %d; the newest was %d", c.life, c.n, a.life)
	case c.n < a.acked:
		wrong("commit %d of life %d was acknowledged, %d is there", a.acked, a.life, c.n)
	case c.n > a.tried:
		wrong("commit %d of life %d is there, which nobody made (%d was the last)", c.n, a.life, a.tried)
	}
	*a = known{life: c.life, tried: c.n, acked: c.n}
}

// broken is what was wrong so far.
func (l *ledger) broken() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.wrong...)
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acks
}
