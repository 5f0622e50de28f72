package actor

import "time"

// Limits bound what agents may hold. The zero value of a field means its default.
type Limits struct {
	MailboxEvents int           // calls and wakes waiting per agent; default 128
	MailboxBytes  int           // arguments waiting per agent; default 16 MiB
	MailboxWait   time.Duration // an event that waits longer fails with kind Overloaded; default 30 s
	Unsettled     int           // commits and outputs per agent that wait for the disk; default 1 024
	Idle          time.Duration // without an event, then hibernation; default 10 s
	MaxLive       int           // instances in memory; default 4 096
	Resets        int           // of kind CPULimit, MemoryLimit or a Go panic, then quarantine; default 3
	ResetWindow   time.Duration // in which those resets are counted; default 10 min
	Subscriptions int           // per agent; default 1 000
}

// Limits that have no knob, because nobody would turn it.
const (
	maxTurnOutputs = 1 << 16  // replies, outputs and publishes of one turn
	maxTurnPublish = 64 << 20 // bytes published by one turn
	maxOrders      = 64       // administrative orders waiting per agent
	maxDossiers    = 16 << 10 // agents whose troubles are remembered
	maxBuffer      = 1 << 16  // messages buffered by one subscription

	// maxTimer is the longest delay a timer in JavaScript can express: 2^31-1 ms,
	// a little more than 24.8 days.
	maxTimer = (1<<31 - 1) * time.Millisecond

	// closeGrace is how long Close waits for turns that it had to interrupt.
	closeGrace = 5 * time.Second
)

func (l Limits) withDefaults() Limits {
	setDefault(&l.MailboxEvents, 128)
	setDefault(&l.MailboxBytes, 16<<20)
	setDefault(&l.MailboxWait, 30*time.Second)
	setDefault(&l.Unsettled, 1024)
	setDefault(&l.Idle, 10*time.Second)
	setDefault(&l.MaxLive, 4096)
	setDefault(&l.Resets, 3)
	setDefault(&l.ResetWindow, 10*time.Minute)
	setDefault(&l.Subscriptions, 1000)
	return l
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}
