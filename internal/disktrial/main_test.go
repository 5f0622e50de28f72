package disktrial

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"
)

var (
	long    = flag.Bool("long", false, "repeat crashes for five minutes a test instead of half a minute")
	require = flag.Bool("require", false, "fail where root or loop devices are missing instead of skipping")
	seed    = flag.Uint64("seed", 0, "of all random choices; 0 takes a new one, which is logged")
)

func TestMain(m *testing.M) {
	if plan := os.Getenv(planVariable); plan != "" {
		os.Exit(childMain(plan))
	}
	flag.Parse()
	os.Exit(m.Run())
}

// budget is how long a test may go on beginning rounds.
func budget() time.Duration {
	switch {
	case testing.Short():
		return 4 * time.Second
	case *long:
		return 5 * time.Minute
	}
	return 30 * time.Second
}

// missing skips a test that this machine cannot run, in words that are seen also when
// the test's own output is not.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	why := fmt.Sprintf(format, args...)
	if *require {
		t.Fatalf("cannot run here: %s", why)
	}
	fmt.Fprintf(os.Stderr, "SKIPPED %s: %s\n", t.Name(), why)
	t.Skip(why)
}
