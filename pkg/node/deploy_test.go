package node

import (
	"fmt"
	"reflect"
	"testing"

	"agentd/pkg/agent"
	"agentd/pkg/client"
)

func versioned(n int) string {
	return fmt.Sprintf(`export class V extends Agent {
	  version() { return %d; }
	  async slow(url: string) { await (await fetch(url)).text(); return this.version(); }
	  keep() { this.setState({ by: %d }); }
	  kept() { return this.state; }
	}`, n, n)
}

// A deployment lets idle instances go, so that the next call runs the new code; what
// is busy keeps its code; a rollback is a deployment.
func TestNode_Versions(t *testing.T) {
	w, g := start(t, nil), newGate(t)
	w.deploy(versioned(1))
	w.expect(`1`, "V/idle", "version")
	w.call("V/idle", "keep")
	slow := make(chan string, 1)
	go func() {
		var out rawResult
		if err := w.agent("V/busy").Invoke(w.ctx, "slow", &out, g.URL); err != nil {
			t.Error(err)
		}
		slow <- string(out)
	}()
	w.enter(g)
	made := w.deploy(versioned(2))
	if len(made) != 1 || made[0].Version != 2 || !reflect.DeepEqual(made[0].Methods, []string{"keep", "kept", "slow", "version"}) {
		t.Errorf("deployed %+v", made)
	}
	w.await("the idle instance to leave", func() bool { return w.phase("V/idle") == "hibernated" })
	w.expect(`2`, "V/idle", "version")
	w.expect(`{"by":1}`, "V/idle", "kept")
	w.expect(`2`, "V/fresh", "version")
	w.expect(`1`, "V/busy", "version")
	g.release()
	if got := <-slow; got != "1" {
		t.Errorf("the call under way ended with code %s", got)
	}
	back, err := w.client.Rollback(w.ctx, "V", 1)
	if err != nil || back.Version != 3 || back.Bundle == made[0].Bundle {
		t.Fatalf("rollback: %+v, %v", back, err)
	}
	w.await("the idle instance to leave", func() bool { return w.phase("V/idle") == "hibernated" })
	w.expect(`1`, "V/idle", "version")
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.expect(`1`, "V/idle", "version")
	versions, err := w.client.Class(w.ctx, "V")
	if err != nil || len(versions) != 3 || versions[0].Version != 3 {
		t.Errorf("versions after a restart: %+v, %v", versions, err)
	}
}

// A reply, a deployment, the next call: no wait is needed between them.
func TestNode_DeployIsSeenAtOnce(t *testing.T) {
	w := start(t, nil)
	bundles := []client.Deployment{w.bundle(versioned(1)), w.bundle(versioned(2))}
	for i := range 60 {
		if _, err := w.client.Deploy(w.ctx, bundles[i%2]); err != nil {
			t.Fatal(err)
		}
		if got, want := w.call("V/a", "version"), fmt.Sprint(i%2+1); got != want {
			t.Fatalf("deployment %d: the call ran version %s, want %s", i, got, want)
		}
	}
}

func TestNode_ClassRemovedFromTheBundleStays(t *testing.T) {
	w := start(t, nil)
	w.deploy(`export class A extends Agent { hi() { return "a"; } } export class B extends Agent { hi() { return "b1"; } }`)
	w.deploy(`export class B extends Agent { hi() { return "b2"; } }`)
	w.expect(`"a"`, "A/x", "hi")
	w.expect(`"b2"`, "B/x", "hi")
}

func TestNode_NamespacesDoNotMeet(t *testing.T) {
	w := start(t, nil)
	other := w.dial("other")
	w.deploy(`export class N extends Agent { who() { return "default"; } set(n: number) { this.setState({ n }); } get() { return this.state ?? null; } }`)
	if err := other.Agent("N", "a").Invoke(w.ctx, "who", nil); agent.KindOf(err) != agent.UnknownClass {
		t.Errorf("a class of another tenant: %v", err)
	}
	w.deployTo(other, `export class N extends Agent { who() { return "other"; } set(n: number) { this.setState({ n }); } get() { return this.state ?? null; }
		async reach() { return this.env.N.getByName("a").who(); } }`)
	w.call("N/a", "set", 1)
	for method, want := range map[string]string{"who": `"other"`, "get": `null`, "reach": `"other"`} {
		var out rawResult
		if err := other.Agent("N", "a").Invoke(w.ctx, method, &out); err != nil || string(out) != want {
			t.Errorf("%s = %s, %v; want %s", method, out, err, want)
		}
	}
	if err := other.Agent("N", "a").Invoke(w.ctx, "set", nil, 2); err != nil {
		t.Fatal(err)
	}
	w.expect(`{"n":1}`, "N/a", "get")
	for c, want := range map[*client.Client]string{w.client: "default", other: "other"} {
		list, err := c.List(w.ctx, client.ListOptions{})
		if err != nil || len(list) != 1 || list[0].Namespace != want {
			t.Errorf("%s lists %+v, %v", want, list, err)
		}
	}
	if err := other.Agent("N", "a").Delete(w.ctx); err != nil {
		t.Fatal(err)
	}
	w.expect(`{"n":1}`, "N/a", "get")
}
