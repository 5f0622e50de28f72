package disktrial

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"agentd/pkg/agent"
	"agentd/pkg/replication/single"
	"agentd/pkg/storage"
)

// planVariable makes the test binary a child: a process that writes until it is
// stopped by force, or its disk is.
const planVariable = "AGENTD_DISKTRIAL_PLAN"

// plan is what a child does.
type plan struct {
	Dir             string
	Agents          int
	Base            int64 // lives that it begins have higher numbers
	Seed            uint64
	UID             int // to run as; 0 is that of the test
	OpenOnly        bool
	InTurn          bool // the first agent makes all its turns, then the second
	Deletes         bool
	CheckpointEvery time.Duration
	CheckpointBytes int64
}

func (p plan) config() single.Config {
	return single.Config{Dir: p.Dir, Now: time.Now, SegmentBytes: 1 << 20,
		CheckpointEvery: p.CheckpointEvery, CheckpointBytes: p.CheckpointBytes}
}

// child is the writing process. Its agents' goroutines share what follows.
type child struct {
	plan
	store *single.Store
	pipe  *os.File // to the ledger: one write an event, before or after the deed

	mu   sync.Mutex // guards life
	life int64      // the newest that was begun
}

// childMain is the child's process; its exit code is 0 when what it met is in order.
func childMain(text string) int {
	c := &child{pipe: os.NewFile(3, "ledger")}
	if err := json.Unmarshal([]byte(text), &c.plan); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	c.life = c.Base
	if c.UID != 0 {
		if err := errors.Join(unix.Setresgid(c.UID, c.UID, c.UID), unix.Setresuid(c.UID, c.UID, c.UID)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
	}
	c.say("opening")
	var err error
	if c.store, err = single.Open(context.Background(), c.config()); err != nil {
		c.say("refused %v %s", agent.KindOf(err), oneLine(err))
		return 1
	}
	if c.OpenOnly {
		c.say("ready")
		<-c.store.Failed()
		return 0
	}
	return c.work()
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func (c *child) say(format string, args ...any) {
	if _, err := fmt.Fprintf(c.pipe, format+"\n", args...); err != nil {
		os.Exit(3) // the test is gone
	}
}

func (c *child) work() int {
	for k := range c.Agents {
		found, err := readAgent(context.Background(), c.store, k)
		if err != nil {
			c.wrong(k, err)
			return 1
		}
		c.say("found %d %d %d", k, found.life, found.n)
	}
	c.say("ready")
	if c.InTurn {
		return c.inTurn()
	}
	var wg sync.WaitGroup
	for k := range c.Agents {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(c.Seed, uint64(k)))
			for c.visit(k, random) == nil {
			}
		})
	}
	wg.Wait()
	c.say("failed %v", c.store.Err())
	return 0
}

const turnsInTurn = 20 // of each agent, with one commit or more

// inTurn leaves a log in which each stretch belongs to one agent.
func (c *child) inTurn() int {
	random := rand.New(rand.NewPCG(c.Seed, 0))
	for k := range c.Agents {
		db, err := c.store.Open(context.Background(), agentID(k))
		var now content
		if err == nil {
			now, err = read(db)
		}
		for range turnsInTurn {
			if err == nil {
				now, err = c.turns(db, k, now, random)
			}
		}
		if err != nil {
			c.wrong(k, err)
			return 1
		}
	}
	<-c.store.Failed()
	return 0
}

// wrong reports an error, unless it comes with the failure of the store.
func (c *child) wrong(k int, err error) {
	select {
	case <-c.store.Failed():
	case <-time.After(10 * time.Second):
		c.say("error of agent %d while the store is well: %v: %s", k, agent.KindOf(err), oneLine(err))
	}
}

// visit is some time of an agent's life: from Open to Close, and perhaps its end.
func (c *child) visit(k int, random *rand.Rand) (err error) {
	defer func() {
		if err != nil {
			c.wrong(k, err)
		}
	}()
	ctx := context.Background()
	db, err := c.store.Open(ctx, agentID(k))
	if err != nil {
		return err
	}
	now, err := read(db)
	for range random.IntN(40) {
		if err == nil {
			now, err = c.turns(db, k, now, random)
		}
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if !c.Deletes || random.IntN(3) > 0 {
		return nil
	}
	c.say("drop %d", k)
	if err := c.store.Delete(ctx, agentID(k)); err != nil {
		return err
	}
	c.say("gone %d", k)
	return nil
}

// turns commits a few times before it waits, and reports in order.
func (c *child) turns(db storage.DB, k int, now content, random *rand.Rand) (content, error) {
	if now.n == 0 {
		now.life = c.nextLife()
	}
	var tickets []*storage.Ticket
	over := c.store.Err() != nil
	for range 1 + random.IntN(4) {
		now.n++
		if err := now.write(db, random.IntN(6000)); err != nil {
			return now, err
		}
		c.say("try %d %d %d", k, now.life, now.n)
		ticket, err := db.Commit(now.wake())
		if err != nil {
			return now, err
		}
		tickets = append(tickets, ticket)
	}
	for i, ticket := range tickets {
		if err := ticket.Wait(); err != nil {
			return now, err
		}
		c.say("ack %d %d %d", k, now.life, now.n-int64(len(tickets)-1-i))
		if over {
			c.say("acknowledged commit %d of agent %d, made when the store had failed", ticket.Seq(), k)
		}
	}
	return now, nil
}

func (c *child) nextLife() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life++
	return c.life
}
