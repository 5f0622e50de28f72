package disktrial

import (
	"testing"
	"time"
)

// TestKilled kills the process at random moments of its work and of its start.
func TestKilled(t *testing.T) {
	tr := newTrial(t, t.TempDir()+"/data")
	starting := 50 * time.Millisecond // how long a start takes
	for end := time.Now().Add(budget()); time.Now().Before(end) || tr.rounds < 6; {
		tr.vary()
		child := tr.start()
		child.await("it began", child.opening)
		if tr.rounds%3 == 0 { // redo is under way
			select {
			case <-time.After(time.Duration(tr.random.Int64N(int64(starting)))):
			case <-child.ended:
			}
		} else {
			begin := time.Now()
			child.await("the store was open", child.ready)
			starting = time.Since(begin) + time.Millisecond
			child.await("enough commits", tr.ledger.await(1+tr.random.IntN(1500)))
		}
		child.kill()
		tr.settle()
		if tr.random.IntN(3) > 0 {
			tr.check()
		}
	}
	tr.check()
	t.Log(tr.summary())
}
