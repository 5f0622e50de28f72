package schedule

import (
	"encoding/json"
	"math"
	"time"

	"agentd/pkg/agent"
)

// Retry says how often and how fast a failed call is repeated. A nil field takes
// the default.
type Retry struct {
	MaxAttempts *float64 `json:"maxAttempts,omitempty"` // whole number, counting the first attempt
	BaseDelayMS *float64 `json:"baseDelayMs,omitempty"`
	MaxDelayMS  *float64 `json:"maxDelayMs,omitempty"`
}

// Policy is a Retry with everything decided.
type Policy struct {
	MaxAttempts int
	BaseDelay   time.Duration
	MaxDelay    time.Duration
}

// DefaultPolicy holds where neither the class nor the call says otherwise.
var DefaultPolicy = Policy{MaxAttempts: 3, BaseDelay: 100 * time.Millisecond, MaxDelay: 3 * time.Second}

// MaxAttempts is the most that a policy allows, whatever was asked for.
const MaxAttempts = 1_000_000

// maxDelay keeps delays representable; nobody waits that long for a retry.
const maxDelay = 365 * 24 * time.Hour

// Validate checks the options, also against each other once defaults have filled
// what they leave open. Errors are of kind Invalid.
func (r Retry) Validate(defaults Policy) error {
	if n := r.MaxAttempts; n != nil {
		if !finite(*n) || *n < 1 {
			return invalid("retry.maxAttempts must be >= 1")
		}
		if *n != math.Trunc(*n) {
			return invalid("retry.maxAttempts must be an integer")
		}
	}
	if d := r.BaseDelayMS; d != nil && (!finite(*d) || *d <= 0) {
		return invalid("retry.baseDelayMs must be > 0")
	}
	if d := r.MaxDelayMS; d != nil && (!finite(*d) || *d <= 0) {
		return invalid("retry.maxDelayMs must be > 0")
	}
	base, most := float64(defaults.BaseDelay)/1e6, float64(defaults.MaxDelay)/1e6
	if r.BaseDelayMS != nil {
		base = *r.BaseDelayMS
	}
	if r.MaxDelayMS != nil {
		most = *r.MaxDelayMS
	}
	if base > most {
		return invalid("retry.baseDelayMs must be <= retry.maxDelayMs")
	}
	return nil
}

// Resolve fills what r leaves open from defaults. r may be nil and need not be
// valid: a bad value takes the default.
func (r *Retry) Resolve(defaults Policy) Policy {
	p := defaults
	if r == nil {
		return p
	}
	if n := r.MaxAttempts; n != nil && finite(*n) && *n >= 1 {
		p.MaxAttempts = int(min(*n, MaxAttempts))
	}
	p.BaseDelay = delay(r.BaseDelayMS, defaults.BaseDelay)
	p.MaxDelay = delay(r.MaxDelayMS, defaults.MaxDelay)
	return p
}

// Backoff is how long to wait after the given failed attempt (1, 2, …): full jitter
// over min(MaxDelay, BaseDelay·2^attempt), in whole milliseconds. rnd is uniform in
// [0, 1).
func Backoff(attempt int, p Policy, rnd float64) time.Duration {
	limit := float64(p.BaseDelay.Milliseconds()) * math.Pow(2, float64(attempt))
	limit = min(limit, float64(p.MaxDelay.Milliseconds()))
	return time.Duration(math.Floor(rnd*limit)) * time.Millisecond
}

func delay(ms *float64, zero time.Duration) time.Duration {
	if ms == nil || !finite(*ms) || *ms <= 0 {
		return zero
	}
	return time.Duration(min(*ms*1e6, float64(maxDelay)))
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// invalid has no Op: the message alone is what programs compare with.
func invalid(msg string) error { return &agent.Error{Kind: agent.Invalid, Msg: msg} }

// decodeRetry reads a retry_options column; what is not an object of numbers, because
// an agent's own SQL wrote it, means the defaults.
func decodeRetry(stored string) *Retry {
	var r *Retry
	if stored == "" || json.Unmarshal([]byte(stored), &r) != nil {
		return nil
	}
	return r
}
