package storage

import (
	"fmt"
	"strconv"
	"time"

	"agentd/pkg/agent"
)

const bookmarkBytes = 16 + 1 + 16

// Bookmark names a commit of an agent: its time and number, in a form that sorts as
// the commits of the agent do. A time before 1970 counts as 1970.
func Bookmark(at time.Time, seq uint64) string {
	return fmt.Sprintf("%016x-%016x", max(0, at.UnixMilli()), seq)
}

// ParseBookmark reads what Bookmark wrote. The error is of kind Invalid.
func ParseBookmark(s string) (at time.Time, seq uint64, err error) {
	var ms uint64
	if len(s) == bookmarkBytes && s[16] == '-' {
		ms, err = strconv.ParseUint(s[:16], 16, 63)
		if err == nil {
			seq, err = strconv.ParseUint(s[17:], 16, 64)
		}
	}
	at = time.UnixMilli(int64(ms)).UTC()
	if err != nil || Bookmark(at, seq) != s {
		return time.Time{}, 0, &agent.Error{Op: "parse bookmark", Kind: agent.Invalid,
			Msg: fmt.Sprintf("%.80q is not a bookmark: it has two numbers of 16 hexadecimal digits with a dash between", s)}
	}
	return at, seq, nil
}
