package disktest

import "math/rand/v2"

// Chooser decides what a crash left: it is asked for a number below n, at least 2,
// for each thing that was not durable. 0 is the durable state, n-1 what the process
// last saw, numbers between are states between.
type Chooser func(n int) int

// Oldest loses everything that was not synced.
func Oldest(int) int { return 0 }

// Newest loses nothing.
func Newest(n int) int { return n - 1 }

// Random chooses by a seed.
func Random(seed uint64) Chooser {
	rnd := rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15))
	return func(n int) int { return rnd.IntN(n) }
}

// Every calls fn with one Chooser after the other until all combinations of choices
// were made, fn returned false, or limit calls were made. fn must use the Chooser for
// one Crash of the same World each time. It says whether all were made.
func Every(limit int, fn func(Chooser) bool) bool {
	var picks, of []int
	for range limit {
		at := 0
		goOn := fn(func(n int) int {
			if at == len(picks) {
				picks, of = append(picks, 0), append(of, n)
			}
			at++
			return picks[at-1]
		})
		if !goOn {
			return false
		}
		last := len(picks) - 1
		for last >= 0 && picks[last] == of[last]-1 {
			last--
		}
		if last < 0 {
			return true
		}
		picks, of = picks[:last+1], of[:last+1]
		picks[last]++
	}
	return false
}
