package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

// allKinds relies on names being unique and only "internal" standing for the
// unknown.
func allKinds() []agent.Kind {
	kinds := []agent.Kind{agent.Internal}
	for k := agent.Internal + 1; k.String() != agent.Internal.String(); k++ {
		kinds = append(kinds, k)
	}
	return kinds
}

// overNetwork is what a status becomes on its way.
func overNetwork(t testing.TB, st *status.Status) *status.Status {
	t.Helper()
	data, err := proto.Marshal(st.Proto())
	if err != nil {
		t.Fatal(err)
	}
	back := status.New(codes.OK, "").Proto()
	if err := proto.Unmarshal(data, back); err != nil {
		t.Fatal(err)
	}
	return status.FromProto(back)
}

func TestError_EveryKindSurvives(t *testing.T) {
	id := agent.ID{Namespace: "default", Class: "Counter", Name: "a/b ü"}
	for _, kind := range allKinds() {
		t.Run(kind.String(), func(t *testing.T) {
			if _, ok := kindCodes[kind]; !ok {
				t.Fatalf("kind %s has no status code", kind)
			}
			in := &agent.Error{Op: "call add", Agent: id, Kind: kind, Msg: "boom", Name: "TypeError", Stack: "at a (x.ts:1:2)\nat b"}
			st := Encoder{}.Status(fmt.Errorf("wrapped: %w", in))
			if st.Code() == codes.OK || st.Code() != CodeOf(kind) {
				t.Fatalf("code %s", st.Code())
			}
			out, explained := FromStatus(overNetwork(t, st))
			if !explained {
				t.Fatal("the detail was lost")
			}
			if *out != *in {
				t.Errorf("got %+v\nwant %+v", out, in)
			}
			if out.Error() != in.Error() {
				t.Errorf("text %q, want %q", out.Error(), in.Error())
			}
		})
	}
	if len(allKinds()) != len(kindCodes) {
		t.Errorf("%d kinds, %d codes", len(allKinds()), len(kindCodes))
	}
}

// A generic gRPC client may repeat Unavailable by itself, so nothing that may have
// happened is allowed to look like it.
func TestError_UnavailableMeansNothingHappened(t *testing.T) {
	for _, kind := range allKinds() {
		if kind != agent.Unavailable && CodeOf(kind) == codes.Unavailable {
			t.Errorf("kind %s has code Unavailable", kind)
		}
	}
}

func TestError_WhatTheCallerSees(t *testing.T) {
	secret := errors.New("open /var/secret: permission denied")
	for _, c := range []struct {
		name string
		dev  bool
		err  error
		kind agent.Kind
		want string
	}{
		{"unknown error stays inside", false, secret, agent.Internal, "internal error; the server's log has the details"},
		{"unknown error in development", true, secret, agent.Internal, secret.Error()},
		{"cause of internal stays inside", false, &agent.Error{Msg: "cannot open", Err: secret}, agent.Internal, "cannot open"},
		{"cause of internal in development", true, &agent.Error{Msg: "cannot open", Err: secret}, agent.Internal, "cannot open: " + secret.Error()},
		{"cause of others is told", false, &agent.Error{Kind: agent.SQL, Err: errors.New("no such table: x")}, agent.SQL, "no such table: x"},
		{"message and cause", false, &agent.Error{Kind: agent.SQL, Msg: "query failed", Err: errors.New("no such table: x")}, agent.SQL, "query failed: no such table: x"},
		{"deadline", false, context.DeadlineExceeded, agent.Deadline, "the caller's deadline passed before there was a result; what was begun may still complete"},
		{"cancel", false, fmt.Errorf("x: %w", context.Canceled), agent.Canceled, "the caller gave up; what was begun may still complete"},
		{"kind alone", false, &agent.Error{Kind: agent.CPULimit}, agent.CPULimit, "cpu limit"},
		{"broken text", false, &agent.Error{Kind: agent.Exception, Msg: "a\xffb"}, agent.Exception, "a?b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, _ := FromStatus(overNetwork(t, Encoder{Dev: c.dev}.Status(c.err)))
			if e.Kind != c.kind || e.Msg != c.want {
				t.Errorf("got %s %q, want %s %q", e.Kind, e.Msg, c.kind, c.want)
			}
		})
	}
}

func TestError_SourcePosition(t *testing.T) {
	at := &SourceError{File: "src/a.ts", Line: 3, Column: 7, Text: "Unexpected token", SourceLine: "let = 1"}
	encoder := Encoder{Locate: func(error) *SourceError { return at }}
	for _, in := range []*agent.Error{
		{Op: "deploy", Kind: agent.Compile, Msg: "the bundle does not load", Err: at},
		{Op: "deploy", Kind: agent.Compile, Err: at},
		{Op: "deploy", Kind: agent.Compile, Msg: "something else"},
	} {
		out, _ := FromStatus(overNetwork(t, encoder.Status(in)))
		var got *SourceError
		if !errors.As(out, &got) || *got != *at {
			t.Errorf("position %+v", got)
		}
		if in.Err != nil && out.Error() != in.Error() {
			t.Errorf("text %q, want %q", out.Error(), in.Error())
		}
	}
	out, _ := FromStatus(encoder.Status(&agent.Error{Kind: agent.Exception, Msg: "x"}))
	if out.Err != nil {
		t.Error("an exception got a position")
	}
}

func TestError_FitsIntoTrailers(t *testing.T) {
	long := strings.Repeat("ü\xff", 1<<20)
	at := &SourceError{File: long, Text: long, SourceLine: long}
	st := Encoder{Locate: func(error) *SourceError { return at }}.Status(&agent.Error{Op: long, Kind: agent.Compile, Msg: long,
		Name: long, Stack: long, Agent: agent.ID{Namespace: long, Class: long, Name: long}})
	if n := proto.Size(st.Proto()); n > 12<<10 {
		t.Errorf("status has %d bytes", n)
	}
	if !utf8.ValidString(st.Message()) || len(st.Message()) > maxMessageBytes {
		t.Errorf("message has %d bytes", len(st.Message()))
	}
	if _, explained := FromStatus(overNetwork(t, st)); !explained {
		t.Error("the detail was lost")
	}
}

func TestFromStatus_WithoutDetail(t *testing.T) {
	for code, want := range map[codes.Code]agent.Kind{
		codes.Unavailable: agent.Unavailable, codes.DeadlineExceeded: agent.Deadline, codes.Canceled: agent.Canceled,
		codes.ResourceExhausted: agent.TooLarge, codes.Internal: agent.Internal, codes.Unknown: agent.Internal, 99: agent.Internal,
	} {
		e, explained := FromStatus(status.New(code, ""))
		if explained || e.Kind != want || e.Msg == "" {
			t.Errorf("%s: %s %q", code, e.Kind, e.Msg)
		}
	}
}

func TestCut(t *testing.T) {
	for _, c := range []struct {
		in    string
		limit int
		want  string
	}{
		{"abc", 3, "abc"}, {"abcdef", 5, "ab…"}, {"aüüü", 6, "aü…"}, {"a\xff\xfeb", 9, "a?b"}, {"", 4, ""},
		{"\xff\xff\xff\xff\xff\xff", 5, "?…"}, {"\x80\x80\x80\x80\x80\x80", 5, "…"},
	} {
		if got := cut(c.in, c.limit); got != c.want {
			t.Errorf("cut(%q, %d) = %q, want %q", c.in, c.limit, got, c.want)
		}
	}
}

func FuzzFromStatus(f *testing.F) {
	for _, kind := range allKinds() {
		st := Encoder{}.Status(&agent.Error{Kind: kind, Msg: "m", Stack: "s"})
		data, err := proto.Marshal(st.Proto())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		p := status.New(codes.OK, "").Proto()
		if proto.Unmarshal(data, p) != nil {
			return
		}
		e, explained := FromStatus(status.FromProto(p))
		if e == nil || e.Error() == "" {
			t.Fatal("no text")
		}
		if agent.ParseKind(e.Kind.String()) != e.Kind {
			t.Fatalf("kind %d does not exist", e.Kind)
		}
		// What was read can be sent on and read again.
		again, ok := FromStatus(Encoder{}.Status(e))
		if !ok || again.Kind != e.Kind {
			t.Fatalf("%v became %v (%v)", e, again, explained)
		}
	})
}

func FuzzInvokeCall(f *testing.F) {
	seed, err := proto.Marshal(&agentdv1.InvokeRequest{Agent: &agentdv1.AgentRef{Class: "C", Name: "n"}, Method: "m", Args: [][]byte{[]byte(`{"a":1}`)}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		req := new(agentdv1.InvokeRequest)
		if proto.Unmarshal(data, req) != nil {
			return
		}
		call, err := InvokeCall(req)
		if (err == nil) != (call.Validate() == nil && req.GetAgent() != nil) {
			t.Fatalf("accepted %v, valid %v", err, call.Validate())
		}
		if k := agent.KindOf(err); err != nil && k != agent.Invalid && k != agent.TooLarge {
			t.Fatalf("kind %s", k)
		}
	})
}
