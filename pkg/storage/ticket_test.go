package storage

import (
	"errors"
	"slices"
	"testing"
	"time"
)

func TestTicketSettlesOnce(t *testing.T) {
	ticket := NewTicket(7)
	var got []int
	mistake := errors.New("mistake")
	for i := range 3 {
		ticket.Then(func(err error) {
			if err != mistake {
				t.Errorf("error %v", err)
			}
			got = append(got, i)
		})
	}
	if settled, _ := ticket.Settled(); settled || len(got) > 0 {
		t.Error("settled by itself")
	}
	ticket.Settle(mistake)
	ticket.Settle(nil)
	ticket.Then(func(error) { got = append(got, 3) })
	if !slices.Equal(got, []int{0, 1, 2, 3}) {
		t.Errorf("order %v", got)
	}
	if err := ticket.Wait(); err != mistake || ticket.Seq() != 7 {
		t.Errorf("wait: %v, number %d", err, ticket.Seq())
	}
}

func TestTicketMayBeAskedFromThen(t *testing.T) {
	ticket := NewTicket(1)
	done := false
	ticket.Then(func(error) {
		settled, err := ticket.Settled()
		ticket.Then(func(error) { done = settled && err == nil })
	})
	ticket.Settle(nil)
	if !done {
		t.Error("a ticket cannot be used while it settles")
	}
}

func TestWakeEqual(t *testing.T) {
	at := time.UnixMilli(1_000)
	for _, c := range []struct {
		a, b Wake
		want bool
	}{
		{Wake{}, Wake{}, true},
		{Wake{At: at}, Wake{At: at.Add(999 * time.Microsecond).UTC()}, true},
		{Wake{At: at}, Wake{At: at.Add(time.Millisecond)}, false},
		{Wake{At: at}, Wake{}, false},
		{Wake{At: time.UnixMilli(0)}, Wake{}, false},
		{Wake{Resume: true}, Wake{}, false},
	} {
		if c.a.Equal(c.b) != c.want || c.b.Equal(c.a) != c.want {
			t.Errorf("%+v and %+v: want %t", c.a, c.b, c.want)
		}
	}
}

func TestRowsCloseOnce(t *testing.T) {
	calls := 0
	rows := &Rows{CloseFunc: func() error { calls++; return nil }}
	for range 2 {
		if err := rows.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if calls != 1 {
		t.Errorf("closed %d times", calls)
	}
}
