package disktrial

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"agentd/internal/disk"
	"agentd/pkg/replication/single"
	"agentd/pkg/storage/commitlog"
	"agentd/pkg/storage/engine"
)

// trial is a data folder that goes from crash to crash.
type trial struct {
	*testing.T
	plan
	ledger  *ledger
	random  *rand.Rand
	rounds  int
	rebuilt bool // the catalog was lost: its count is right from the first checkpoint on
}

const trialAgents = 10

func newTrial(t *testing.T, dir string) *trial {
	t.Helper()
	n := *seed
	if n == 0 {
		n = rand.Uint64()
	}
	t.Logf("-seed %d", n)
	return &trial{T: t, plan: plan{Dir: dir, Agents: trialAgents}, ledger: newLedger(), random: rand.New(rand.NewPCG(n, 0))}
}

// vary chooses what the next child does.
func (tr *trial) vary() {
	pick := []time.Duration{time.Millisecond, 5 * time.Millisecond, 40 * time.Millisecond, 300 * time.Millisecond, time.Hour}
	tr.CheckpointEvery = pick[tr.random.IntN(len(pick))]
	tr.CheckpointBytes = 1 << (20 + tr.random.IntN(5))
	tr.Deletes = tr.random.IntN(2) == 0
	tr.Seed = tr.random.Uint64()
	tr.rounds++
	tr.Base = int64(tr.rounds) << 20
}

// process is a running child.
type process struct {
	*testing.T
	ledger         *ledger
	cmd            *exec.Cmd
	stderr         bytes.Buffer
	opening, ready chan struct{}
	ended          chan struct{} // the child is gone and all its events are in the ledger
	err            error         // of the process; valid once ended is closed
}

// childTimeout is for a child that neither ends nor gets on.
const childTimeout = 30 * time.Second

func (tr *trial) start() *process {
	tr.Helper()
	text, err := json.Marshal(tr.plan)
	must(tr.T, err)
	pipe, far, err := os.Pipe()
	must(tr.T, err)
	self, err := os.Executable()
	must(tr.T, err)
	p := &process{T: tr.T, ledger: tr.ledger, cmd: exec.Command(self), opening: make(chan struct{}), ready: make(chan struct{}), ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), planVariable+"="+string(text))
	p.cmd.ExtraFiles = []*os.File{far}
	p.cmd.Stderr = &p.stderr
	must(tr.T, p.cmd.Start())
	far.Close()
	go func() {
		tr.ledger.follow(pipe, p.opening, p.ready)
		pipe.Close()
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	tr.Cleanup(p.kill)
	return p
}

// await returns when the event is there; the child's early end is a failure.
func (p *process) await(what string, event <-chan struct{}) {
	p.Helper()
	select {
	case <-event:
	case <-p.ended:
		select {
		case <-event: // both
		default:
			p.Fatalf("the child ended (%v) before %s: %q %s", p.err, what, p.ledger.broken(), p.stderr.String())
		}
	case <-time.After(childTimeout):
		_ = p.cmd.Process.Signal(syscall.SIGQUIT) // it says where it hangs
		<-p.ended
		p.Fatalf("%v passed before %s: %s", childTimeout, what, p.stderr.String())
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.ended
}

// settle is the end of a round: no promise was broken.
func (tr *trial) settle() {
	tr.Helper()
	for _, wrong := range tr.ledger.broken() {
		tr.Errorf("round %d (checkpoints every %v or %d bytes): %s", tr.rounds, tr.CheckpointEvery, tr.CheckpointBytes, wrong)
	}
	if tr.Failed() {
		tr.FailNow()
	}
}

// check opens the store and holds everything in it against the ledger.
func (tr *trial) check() {
	tr.Helper()
	report, err := commitlog.Verify(disk.OS{}, filepath.Join(tr.Dir, "log"))
	if err != nil && !os.IsNotExist(err) {
		tr.Errorf("round %d: the log cannot be verified: %v", tr.rounds, err)
	}
	if err == nil && !report.OK() {
		tr.Errorf("round %d: the log is damaged: %+v", tr.rounds, report)
	}
	ctx, cancel := context.WithTimeout(tr.Context(), childTimeout)
	defer cancel()
	var text bytes.Buffer
	c := tr.config()
	c.Log = slog.New(slog.NewTextHandler(&text, nil))
	s, err := single.Open(ctx, c)
	if err != nil {
		tr.Fatalf("round %d: open after the crash: %v\n%s", tr.rounds, err, text.String())
	}
	tr.checkStore(ctx, s)
	if err := s.Close(); err != nil {
		tr.Errorf("close: %v", err)
	}
	tr.settle()
}

func (tr *trial) checkStore(ctx context.Context, s *single.Store) {
	tr.Helper()
	there := 0
	for k := range tr.Agents {
		c, err := readAgent(ctx, s, k)
		if err != nil {
			tr.Errorf("round %d: agent %d: %v", tr.rounds, k, err)
			continue
		}
		tr.ledger.found(k, c)
		there += int(min(1, c.n))
	}
	if n, err := s.Catalog().Count(ctx); err != nil || n != there && !tr.rebuilt {
		tr.Errorf("round %d: the catalog lists %d agents (%v), there are %d", tr.rounds, n, err, there)
	}
	tr.verify(ctx, s, there)
}

// verify lets the store look for damage; files must hold what was applied.
func (tr *trial) verify(ctx context.Context, s *single.Store, there int) {
	tr.Helper()
	if err := s.Checkpoint(ctx); err != nil { // see TestVerify_CountsAgentsAsOfNow
		tr.Errorf("round %d: checkpoint: %v", tr.rounds, err)
	}
	v, err := s.Store.Verify(ctx, func(p engine.Problem) {
		tr.Errorf("round %d: verify: %s: %s", tr.rounds, p.Path, p.What)
	})
	if err != nil {
		tr.Errorf("round %d: verify: %v", tr.rounds, err)
	}
	if n, err := s.Catalog().Count(ctx); err != nil || n != there || v.Files != there {
		tr.Errorf("round %d: %d agents, the catalog counts %d (%v), and there are %d files", tr.rounds, there, n, err, v.Files)
	}
}

// summary is for the log of the test.
func (tr *trial) summary() string {
	return fmt.Sprintf("%d crashes, %d acknowledged commits", tr.rounds, tr.ledger.count())
}
