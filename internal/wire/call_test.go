package wire

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"agentd/pkg/agent"
	agentdv1 "agentd/proto/agentd/v1"
)

var ref = &agentdv1.AgentRef{Class: "Counter", Name: "a"}

func TestCalls(t *testing.T) {
	one := func(c agent.Call, err error) func() (agent.Call, error) {
		return func() (agent.Call, error) { return c, err }
	}
	for _, c := range []struct {
		name, method, arg string
		call              func() (agent.Call, error)
	}{
		{"get state", "state.get", `{}`, one(GetStateCall(&agentdv1.GetStateRequest{Agent: ref}))},
		{"set state", "state.set", `{"state":{"n":1}}`, one(SetStateCall(&agentdv1.SetStateRequest{Agent: ref, State: []byte(`{"n": 1}`)}))},
		{"kv get", "kv.get", `{"keys":["a","b"]}`, one(KVGetCall(&agentdv1.KVGetRequest{Agent: ref, Keys: []string{"a", "b"}}))},
		{"kv put", "kv.put", `{"entries":{"a":null}}`, one(KVPutCall(&agentdv1.KVPutRequest{Agent: ref, Entries: map[string][]byte{"a": []byte("null")}}))},
		{"kv delete", "kv.delete", `{"keys":["a"]}`, one(KVDeleteCall(&agentdv1.KVDeleteRequest{Agent: ref, Keys: []string{"a"}}))},
		{"kv list", "kv.list", `{"limit":1000}`, one(KVListCall(&agentdv1.KVListRequest{Agent: ref}))},
		{"kv list range", "kv.list", `{"prefix":"p","start":"s","end":"e","limit":5,"reverse":true}`,
			one(KVListCall(&agentdv1.KVListRequest{Agent: ref, Prefix: "p", Start: "s", End: "e", Limit: 5, Reverse: true}))},
		{"query", "sql.query", `{"query":"SELECT ?","args":[9007199254740993,1.0,1e+300,"x",{"$base64":"AP8="},null],"maxRows":1000}`,
			one(QueryCall(&agentdv1.QueryRequest{Agent: ref, Sql: "SELECT ?", Args: []*agentdv1.SqlValue{
				SQLInteger(1<<53 + 1), SQLReal(1), SQLReal(1e300), SQLText("x"), SQLBlob([]byte{0, 255}), {}}}))},
		{"fiber list", "fiber.list", `{"status":["running"],"name":"n","limit":7}`, one(FiberListCall(&agentdv1.FiberServiceListRequest{
			Agent: ref, Name: "n", Limit: 7, Status: []agentdv1.FiberStatus{agentdv1.FiberStatus_FIBER_STATUS_RUNNING}}))},
		{"fiber list all", "fiber.list", `{}`, one(FiberListCall(&agentdv1.FiberServiceListRequest{Agent: ref}))},
		{"fiber get", "fiber.get", `{"id":"f"}`, one(FiberGetCall(&agentdv1.FiberServiceGetRequest{Agent: ref, FiberId: "f"}))},
		{"fiber cancel", "fiber.cancel", `{"id":"f","reason":"r"}`,
			one(FiberCancelCall(&agentdv1.FiberServiceCancelRequest{Agent: ref, FiberId: "f", Reason: "r"}))},
	} {
		t.Run(c.name, func(t *testing.T) {
			call, err := c.call()
			if err != nil {
				t.Fatal(err)
			}
			if err := call.Validate(); err != nil {
				t.Error(err)
			}
			if call.Surface != agent.SurfacePlatform || call.Method != c.method || len(call.Args) != 1 || string(call.Args[0]) != c.arg {
				t.Errorf("surface %d, %s %s", call.Surface, call.Method, call.Args)
			}
			if call.Agent != (agent.ID{Namespace: "default", Class: "Counter", Name: "a"}) {
				t.Errorf("agent %v", call.Agent)
			}
		})
	}
}

func TestCalls_Refused(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	many := make([]string, 129)
	for i := range many {
		many[i] = "k"
	}
	big := append(append([]byte{'"'}, bytes.Repeat([]byte{'x'}, agent.MaxArgsBytes)...), '"')
	value := func(v *agentdv1.SqlValue) *agentdv1.QueryRequest {
		return &agentdv1.QueryRequest{Agent: ref, Sql: "SELECT ?", Args: []*agentdv1.SqlValue{{}, v}}
	}
	for _, c := range []struct {
		req  proto.Message
		kind agent.Kind
		want string
	}{
		{&agentdv1.GetStateRequest{}, agent.Invalid, "names no agent"},
		{&agentdv1.SetStateRequest{Agent: ref}, agent.Invalid, "state is empty"},
		{&agentdv1.SetStateRequest{Agent: ref, State: []byte("{")}, agent.Invalid, "state is not JSON"},
		{&agentdv1.SetStateRequest{Agent: ref, State: big}, agent.TooLarge, "at most 16777216"},
		{&agentdv1.KVGetRequest{Agent: ref}, agent.Invalid, "names no key"},
		{&agentdv1.KVGetRequest{Agent: ref, Keys: many}, agent.Invalid, "129 keys; at most 128"},
		{&agentdv1.KVGetRequest{Agent: ref, Keys: []string{""}}, agent.Invalid, "a key is empty"},
		{&agentdv1.KVGetRequest{Agent: ref, Keys: []string{long}}, agent.Invalid, "at most 2048"},
		{&agentdv1.KVGetRequest{Agent: ref, Keys: []string{"\xff"}}, agent.Invalid, "not UTF-8"},
		{&agentdv1.KVDeleteRequest{Agent: ref}, agent.Invalid, "names no key"},
		{&agentdv1.KVPutRequest{Agent: ref}, agent.Invalid, "names no key"},
		{&agentdv1.KVPutRequest{Agent: ref, Entries: map[string][]byte{"a": []byte("x")}}, agent.Invalid, `value of key "a" is not JSON`},
		{&agentdv1.KVPutRequest{Agent: ref, Entries: map[string][]byte{"a": big[:len(big)-2], "b": big[:9]}}, agent.Invalid, "is not JSON"},
		{&agentdv1.KVListRequest{Agent: ref, Limit: 1001}, agent.Invalid, "limit is 1001; 1 to 1000"},
		{&agentdv1.KVListRequest{Agent: ref, Start: long}, agent.Invalid, "start has 1048576 bytes"},
		{&agentdv1.QueryRequest{Agent: ref, Sql: " \n"}, agent.Invalid, "SQL is empty"},
		{&agentdv1.QueryRequest{Agent: ref, Sql: long}, agent.TooLarge, "at most 102400"},
		{&agentdv1.QueryRequest{Agent: ref, Sql: "x", MaxRows: 10001}, agent.Invalid, "max_rows is 10001"},
		{&agentdv1.QueryRequest{Agent: ref, Sql: "x", Args: make([]*agentdv1.SqlValue, 101)}, agent.Invalid, "101 SQL parameters"},
		{value(SQLReal(math.NaN())), agent.Invalid, "SQL parameter 2 is NaN"},
		{value(SQLReal(math.Inf(1))), agent.Invalid, "SQL parameter 2 is +Inf"},
		{&agentdv1.FiberServiceListRequest{Agent: ref, Limit: 1001}, agent.Invalid, "limit is 1001"},
		{&agentdv1.FiberServiceListRequest{Agent: ref, Name: long}, agent.Invalid, "fiber name has"},
		{&agentdv1.FiberServiceListRequest{Agent: ref, Status: []agentdv1.FiberStatus{77}}, agent.Invalid, "status 77"},
		{&agentdv1.FiberServiceListRequest{Agent: ref, Status: make([]agentdv1.FiberStatus, 7)}, agent.Invalid, "7 fiber statuses"},
		{&agentdv1.FiberServiceGetRequest{Agent: ref}, agent.Invalid, "names no fiber"},
		{&agentdv1.FiberServiceGetRequest{Agent: ref, FiberId: long}, agent.Invalid, "at most 256"},
		{&agentdv1.FiberServiceCancelRequest{Agent: ref, FiberId: "f", Reason: long}, agent.Invalid, "reason has"},
	} {
		t.Run(c.want, func(t *testing.T) {
			err := read(c.req)
			if agent.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v: %.200v", agent.KindOf(err), err)
			}
		})
	}
}

// read gives a request to the function that reads it.
func read(req proto.Message) error {
	var err error
	switch r := req.(type) {
	case *agentdv1.GetStateRequest:
		_, err = GetStateCall(r)
	case *agentdv1.SetStateRequest:
		_, err = SetStateCall(r)
	case *agentdv1.KVGetRequest:
		_, err = KVGetCall(r)
	case *agentdv1.KVPutRequest:
		_, err = KVPutCall(r)
	case *agentdv1.KVDeleteRequest:
		_, err = KVDeleteCall(r)
	case *agentdv1.KVListRequest:
		_, err = KVListCall(r)
	case *agentdv1.QueryRequest:
		_, err = QueryCall(r)
	case *agentdv1.FiberServiceListRequest:
		_, err = FiberListCall(r)
	case *agentdv1.FiberServiceGetRequest:
		_, err = FiberGetCall(r)
	case *agentdv1.FiberServiceCancelRequest:
		_, err = FiberCancelCall(r)
	}
	return err
}

func result(text string) agent.Result { return agent.Result{Value: json.RawMessage(text)} }

func TestResults(t *testing.T) {
	resp, err := QueryResponse(result(`{"columns":["a","b"],"rows":[[9007199254740993,1.5],["x",null],[{"$base64":"AP8="},true],[1e3,-0.0]],"truncated":true}`))
	if err != nil {
		t.Fatal(err)
	}
	want := &agentdv1.QueryResponse{Columns: []string{"a", "b"}, Truncated: true, Rows: []*agentdv1.SqlRow{
		{Cells: []*agentdv1.SqlValue{SQLInteger(1<<53 + 1), SQLReal(1.5)}},
		{Cells: []*agentdv1.SqlValue{SQLText("x"), {}}},
		{Cells: []*agentdv1.SqlValue{SQLBlob([]byte{0, 255}), SQLInteger(1)}},
		{Cells: []*agentdv1.SqlValue{SQLReal(1000), SQLReal(math.Copysign(0, -1))}},
	}}
	if !proto.Equal(resp, want) {
		t.Errorf("got %v", resp)
	}
	if state, err := State(result(`{"state":null}`)); err != nil || string(state) != "null" {
		t.Errorf("state null became %q %v", state, err)
	}
	if state, err := State(result(`{}`)); err != nil || state != nil {
		t.Errorf("no state became %q %v", state, err)
	}
	fiber, err := FiberGetResponse(result(`{"fiberId":"f","name":"n","status":"error","snapshot":{"a":1},"error":"boom","createdAt":1700000000123}`))
	if err != nil {
		t.Fatal(err)
	}
	f := fiber.GetFiber()
	if f.GetStatus() != agentdv1.FiberStatus_FIBER_STATUS_ERROR || string(f.GetSnapshot()) != `{"a":1}` || f.Metadata != nil || f.StartTime != nil ||
		!Time(f.GetCreateTime()).Equal(time.UnixMilli(1700000000123)) {
		t.Errorf("fiber %v", f)
	}
}

func TestResults_OfTheWrongForm(t *testing.T) {
	for text, read := range map[string]func(agent.Result) error{
		`{"rows":[[[1]]]}`:                  func(r agent.Result) error { _, err := QueryResponse(r); return err },
		`{"rows":[[{"$base64":"%"}]]}`:      func(r agent.Result) error { _, err := QueryResponse(r); return err },
		`{"rows":[[1e999]]}`:                func(r agent.Result) error { _, err := QueryResponse(r); return err },
		``:                                  func(r agent.Result) error { _, err := State(r); return err },
		`{"entries":[]}`:                    func(r agent.Result) error { _, err := KVGetResponse(r); return err },
		`{"entries":{}}`:                    func(r agent.Result) error { _, err := KVListResponse(r); return err },
		`{"deleted":-1}`:                    func(r agent.Result) error { _, err := KVDeleteResponse(r); return err },
		`{"fibers":[{"status":"unheard"}]}`: func(r agent.Result) error { _, err := FiberListResponse(r); return err },
		`[]`:                                func(r agent.Result) error { _, err := FiberCancelResponse(r); return err },
	} {
		if err := read(result(text)); err == nil || agent.KindOf(err) != agent.Internal {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzQueryResponse(f *testing.F) {
	f.Add(`{"columns":["a"],"rows":[[1,2.5,null,"x",{"$base64":"AA=="},true]]}`)
	f.Fuzz(func(t *testing.T, text string) {
		resp, err := QueryResponse(result(text))
		if err != nil {
			if agent.KindOf(err) != agent.Internal {
				t.Fatalf("kind %s", agent.KindOf(err))
			}
			return
		}
		if _, err := proto.Marshal(resp); err != nil {
			t.Fatalf("cannot be sent: %v", err)
		}
	})
}
