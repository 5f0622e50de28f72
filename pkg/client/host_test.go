package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"testing"
	"time"

	"agentd/pkg/actor"
	"agentd/pkg/agent"
	"agentd/pkg/client"
	"agentd/pkg/server"
	"agentd/pkg/storage"
	"agentd/pkg/storage/reference"
)

// keeper is the smallest agent with a state: it is stored and published like any.
type keeper struct{ loop actor.Loop }

func (k keeper) Start(done func(error)) {
	rows, err := k.loop.DB().Query("CREATE TABLE IF NOT EXISTS kept (one INTEGER PRIMARY KEY, state TEXT)")
	if err == nil {
		err = rows.Close()
	}
	done(err)
}

func (k keeper) Call(call agent.Call, _ <-chan struct{}, reply func(agent.Result, error)) {
	var arg struct {
		State json.RawMessage `json:"state,omitempty"`
	}
	if err := json.Unmarshal(call.Args[0], &arg); err != nil {
		reply(agent.Result{}, err)
		return
	}
	if call.Method == agent.MethodStateSet {
		rows, err := k.loop.DB().Query("INSERT OR REPLACE INTO kept VALUES (1, ?)", string(arg.State))
		if err == nil {
			err = rows.Close()
		}
		k.loop.Publish("state", arg.State)
		reply(agent.Result{Value: json.RawMessage("null")}, err)
		return
	}
	rows, err := k.loop.DB().Query("SELECT state FROM kept")
	if err != nil {
		reply(agent.Result{}, err)
		return
	}
	cell := make([]storage.Value, 1)
	if rows.Next(cell) == nil {
		arg.State = json.RawMessage(cell[0].(string))
	}
	value, err := json.Marshal(arg)
	reply(agent.Result{Value: value}, errors.Join(err, rows.Close()))
}

func (keeper) Wake(done func(error))  { done(nil) }
func (keeper) NextWake() storage.Wake { return storage.Wake{} }
func (keeper) Busy() bool             { return false }
func (keeper) Interrupt(error)        {}
func (keeper) Close()                 {}

type keepers struct{}

func (keepers) Factory(agent.ID) (actor.Factory, error) {
	return func(loop actor.Loop) (actor.Behavior, error) { return keeper{loop}, nil }, nil
}

// local is a node without a placement table.
type local struct {
	*actor.Host
	catalog storage.Catalog
}

func (l local) Subscribe(id agent.ID, topic string, buffer int) (*actor.Subscription, error) {
	return l.Host.Subscribe(id, topic, buffer), nil
}

func (l local) List(ctx context.Context, namespace, class string, after agent.ID, limit int) ([]storage.Entry, error) {
	return l.catalog.List(ctx, namespace, class, after, limit)
}

// The whole way: client, gRPC, server, actors, SQLite on disk.
func TestRealAgents(t *testing.T) {
	store, err := reference.Open(reference.Config{Dir: t.TempDir(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	host := actor.NewHost(actor.Config{Store: store, Classes: keepers{}})
	t.Cleanup(func() { // after the server
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(host.Close(ctx), store.Close()); err != nil {
			t.Error(err)
		}
	})
	c := connectTo(t, local{host, store.Catalog()}, &world{}, server.Config{})
	ctx := testContext(t)
	a := c.Agent("Keeper", "a")

	if _, ok, err := a.State(ctx); ok || err != nil {
		t.Errorf("a new agent has a state: %v %v", ok, err)
	}
	const last = 300
	go func() {
		for n := 1; n <= last; n++ {
			if err := a.SetState(ctx, json.RawMessage(strconv.Itoa(n))); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	seen := -1
	for state, err := range a.WatchState(ctx) {
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		if state != nil {
			if n, err = strconv.Atoi(string(state)); err != nil {
				t.Fatal(err)
			}
		}
		if n < seen {
			t.Fatalf("state went back from %d to %d", seen, n)
		}
		if seen = n; n == last {
			break
		}
	}
	if seen != last {
		t.Errorf("the watch ended at %d", seen)
	}
	if state, ok, err := a.State(ctx); err != nil || !ok || string(state) != strconv.Itoa(last) {
		t.Errorf("%s %v %v", state, ok, err)
	}
	info, err := a.Describe(ctx)
	if err != nil || info.Phase != "live" || !info.Exists || info.Seq < last || info.Turns < last {
		t.Errorf("%+v %v", info, err)
	}
	page, err := c.List(ctx, client.ListOptions{})
	if err != nil || len(page) != 1 || page[0].ID() != a.ID() {
		t.Errorf("%v %v", page, err)
	}
	if err := a.Delete(ctx); err != nil {
		t.Error(err)
	}
	if _, ok, err := a.State(ctx); ok || err != nil {
		t.Errorf("deleted, and yet a state: %v %v", ok, err)
	}
}
