package actor

// Governor watches turns and stops those that run past their budget.
type Governor interface {
	// Turn makes the record that one instance reuses for all of its turns. interrupt
	// may be called from any goroutine, with an *agent.Error of kind CPULimit or
	// MemoryLimit; it does not block.
	Turn(interrupt func(cause error)) Turn
}

// Turn brackets one turn after another. Begin and End are called on the goroutine
// that runs the turn.
type Turn interface {
	// Begin starts a turn; the goroutine stays on its thread until End.
	Begin()

	// End ends it. When retire is true the thread lost its priority for good: the
	// loop goes on in a new goroutine and the present one returns, still locked to
	// the thread, which ends with it.
	End() (retire bool)
}

// ungoverned is the Turn of a host without a governor.
type ungoverned struct{}

func (ungoverned) Begin()    {}
func (ungoverned) End() bool { return false }
