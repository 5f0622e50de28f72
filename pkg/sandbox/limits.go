package sandbox

import (
	"fmt"
	"time"

	"agentd/pkg/agent"
)

// Limits bound what one isolate may use. A zero field means its default.
type Limits struct {
	// CallDepth is JavaScript frames on the stack, default 2 000, at most 10 000.
	CallDepth int
	// Pending is timers plus asynchronous operations under way, default 10 000; more
	// throw RangeError.
	Pending int
	// RegexTime is the time that one native match may take, default and maximum 1 s;
	// past it the isolate is stopped.
	RegexTime time.Duration
	// NativeLength is elements or characters that one call of a built-in may touch or
	// create, default 10 000 000; more throw RangeError.
	NativeLength int
	// ConsoleLine is bytes, default 8 KiB; longer lines are cut and say so.
	ConsoleLine int
}

// maxRegexTime is regexp2's own limit; it is one per process.
const maxRegexTime = time.Second

// maxNesting bounds recursion of native code over nested data: at a few hundred
// bytes of Go stack a level it stays far from the stack's limit of 1 GB.
const maxNesting = 2_000

func (l *Limits) setDefaults() error {
	for _, f := range []struct {
		name           string
		value          *int
		standard, most int
	}{
		{"CallDepth", &l.CallDepth, 2_000, 10_000},
		{"Pending", &l.Pending, 10_000, 1_000_000},
		{"NativeLength", &l.NativeLength, 10_000_000, 1 << 30},
		{"ConsoleLine", &l.ConsoleLine, 8 << 10, 1 << 20},
	} {
		if *f.value == 0 {
			*f.value = f.standard
		}
		if *f.value < 0 || *f.value > f.most {
			return &agent.Error{Op: "new isolate", Kind: agent.Invalid,
				Msg: fmt.Sprintf("Limits.%s is %d; it must lie between 1 and %d", f.name, *f.value, f.most)}
		}
	}
	if l.RegexTime == 0 {
		l.RegexTime = maxRegexTime
	}
	if l.RegexTime < 0 || l.RegexTime > maxRegexTime {
		return &agent.Error{Op: "new isolate", Kind: agent.Invalid,
			Msg: fmt.Sprintf("Limits.RegexTime is %v; it must lie between 0 and %v", l.RegexTime, maxRegexTime)}
	}
	return nil
}
