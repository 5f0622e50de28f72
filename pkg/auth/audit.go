package auth

import (
	"context"
	"sync"
	"time"

	"agentd/pkg/agent"
)

// Refusals that the audit hears of.
const (
	auditPerSecond = 10
	auditBurst     = 20
)

// Refusal is one request that was not let in. It never holds a token.
type Refusal struct {
	Time      time.Time
	Principal string // empty if nobody was authenticated
	Kind      agent.Kind
	Reason    string
	LeftOut   uint64 // refusals since the last one that was told
}

// auditor tells refusals, and no more than an attacker should be able to write into
// a log.
type auditor struct {
	tell func(context.Context, Refusal)

	mu      sync.Mutex // guards what follows; tell is not called under it
	tokens  float64    // refusals that may be told now
	last    time.Time
	leftOut uint64
}

func newAuditor(tell func(context.Context, Refusal)) *auditor {
	return &auditor{tell: tell, tokens: auditBurst}
}

func (a *auditor) refuse(ctx context.Context, now time.Time, principal string, err error) {
	if a.tell == nil {
		return
	}
	leftOut, ok := a.take(now)
	if !ok {
		return
	}
	a.tell(ctx, Refusal{Time: now, Principal: principal, Kind: agent.KindOf(err), Reason: err.Error(), LeftOut: leftOut})
}

// take is a token bucket.
func (a *auditor) take(now time.Time) (leftOut uint64, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if since := now.Sub(a.last); since > 0 { // a clock that goes back gives nothing
		a.tokens = min(auditBurst, a.tokens+since.Seconds()*auditPerSecond)
	}
	a.last = now
	if a.tokens < 1 {
		a.leftOut++
		return 0, false
	}
	a.tokens--
	leftOut, a.leftOut = a.leftOut, 0
	return leftOut, true
}
