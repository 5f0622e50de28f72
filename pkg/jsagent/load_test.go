package jsagent

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"agentd/pkg/agent"
	"agentd/pkg/placement"
)

func TestLoad_ListsClassesAndMethods(t *testing.T) {
	_, classes, err := Load(t.Context(), wrap(`
		class Base extends Agent { inherited() {} onStart() {} _hidden() {} get computed() { throw new Error("triggered"); } }
		exports.Counter = class Counter extends Base { increment() {} sql() {} fetch() {} alarm() {} field = () => 1; async get() {} };
		exports.Plain = class Plain extends DurableObject { webSocketMessage() {} put() {} };
		exports.Other = class Other {};
		exports.helper = () => 1;
		exports.Agent = Agent;
	`), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []Class{{"Counter", []string{"get", "increment", "inherited"}}, {"Plain", []string{"put"}}}
	if !reflect.DeepEqual(classes, want) {
		t.Errorf("classes are %v, want %v", classes, want)
	}
}

func TestLoad_DefaultExportHasItsOwnName(t *testing.T) {
	_, classes, err := Load(t.Context(), wrap(`exports.default = class Room extends Agent {}; exports.__esModule = true;`), LoadOptions{})
	if err != nil || len(classes) != 1 || classes[0].Name != "Room" {
		t.Errorf("Load = %v, %v", classes, err)
	}
}

func TestLoad_Refuses(t *testing.T) {
	for _, c := range []struct {
		name, src string
		want      []string
	}{
		{"syntax", "\nlet x = ;", []string{"bundle.js:2:", "let x = ;"}},
		{"throw", "\nnull.x;", []string{"does not load", "TypeError", "bundle.js:2:"}},
		{"no class", "exports.x = 1;", []string{"bundle.js exports no class that extends Agent"}},
		{"unknown module", "require('fs')", []string{`module "fs" is not available`}},
		{"endless", "for (;;) {}", []string{"ran longer than"}},
		{"database", "new (class X extends Agent {})({id: {name: 'x'}}, {}).setState(1)", []string{"while the module is loaded"}},
		{"gap", "require('agents').routeAgentRequest()", []string{"agents.routeAgentRequest is not available"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := Load(t.Context(), wrap(c.src), LoadOptions{TimeLimit: 200 * time.Millisecond})
			if agent.KindOf(err) != agent.Compile {
				t.Errorf("kind %v, want compile: %v", agent.KindOf(err), err)
			}
			for _, text := range c.want {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("%v lacks %q", err, text)
				}
			}
		})
	}
	_, _, err := Load(t.Context(), placement.Bundle{Code: []byte("1 + 1")}, LoadOptions{})
	if agent.KindOf(err) != agent.Compile {
		t.Errorf("a script that is no function: %v", err)
	}
}

func TestLoad_WorkflowClassesAreLeftAside(t *testing.T) {
	_, classes, err := Load(t.Context(), wrap(`
		const { WorkflowEntrypoint } = require("cloudflare:workers");
		const { NonRetryableError } = require("cloudflare:workflows");
		if (!(new NonRetryableError("x") instanceof Error)) throw new Error("no error");
		exports.Flow = class extends WorkflowEntrypoint { async run() {} };
		exports.A = class A extends Agent {};`), LoadOptions{})
	if err != nil || len(classes) != 1 {
		t.Errorf("Load = %v, %v", classes, err)
	}
}

func TestFactory_UnknownClass(t *testing.T) {
	inWorld(t, `exports.A = class A extends Agent { hi() { return 1; } };`, func(w *world) {
		w.classes = append(w.classes, Class{Name: "B"})
		w.fails(agent.UnknownClass, "exports no class B", "B", "hi")
	})
}

func TestConstruct_ErrorReachesTheCaller(t *testing.T) {
	inWorld(t, `exports.A = class A extends Agent {
		constructor(ctx, env) { super(ctx, env); throw new RangeError("no luck"); } hi() {} };`, func(w *world) {
		e := w.fails(agent.Exception, "no luck", "A", "hi")
		if e.Name != "RangeError" || !strings.Contains(e.Stack, "bundle.js:2") {
			t.Errorf("name %q, stack %q", e.Name, e.Stack)
		}
	})
	inWorld(t, `exports.A = class A extends Agent { hi() {} onStateChanged() {} onStateUpdate() {} };`, func(w *world) {
		w.fails(agent.Exception, "[Agent] Cannot override both onStateChanged and onStateUpdate.", "A", "hi")
	})
}

func TestNearest(t *testing.T) {
	names := []string{"increment", "decrement", "get"}
	for in, want := range map[string]string{"incremnt": "increment", "Get": "get", "zzz": "", "got": "get", "decrementing": "decrement"} {
		if got := nearest(in, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestUpperSnake(t *testing.T) {
	for in, want := range map[string]string{"ChatRoom": "CHAT_ROOM", "Counter": "COUNTER", "HTTPServer": "HTTP_SERVER", "My_Agent": "MY_AGENT", "a1B": "A1_B"} {
		if got := upperSnake(in); got != want {
			t.Errorf("upperSnake(%q) = %q, want %q", in, got, want)
		}
	}
}
