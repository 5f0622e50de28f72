package jsagent

import (
	"fmt"

	"github.com/dop251/goja"

	"agentd/pkg/agent"
)

// surface is an object whose members come from parts or from Go when they are first
// used. It stands last in a prototype chain, so it is asked only for what no class
// has. What the public interfaces have and agentd does not throws and says so;
// nothing is silently skipped.
type surface struct {
	in   *instance
	what string
	get  func(name string) goja.Value // nil for what it does not have
	has  func(name string) bool
	gaps map[string]bool
	made map[string]goja.Value
}

func (s *surface) Get(name string) goja.Value {
	if v, ok := s.made[name]; ok {
		return v
	}
	v := s.get(name)
	if v == nil && s.gaps[name] {
		v = s.in.vm.ToValue(func(goja.ConstructorCall) *goja.Object {
			s.in.throw(&agent.Error{Kind: agent.Invalid, Msg: fmt.Sprintf("%s.%s is not available in agentd yet", s.what, name)})
			return nil
		})
	}
	if v == nil {
		return nil
	}
	if s.made == nil {
		s.made = make(map[string]goja.Value)
	}
	s.made[name] = v
	return v
}

func (s *surface) Has(name string) bool {
	_, set := s.made[name]
	return set || s.has(name) || s.gaps[name]
}

func (s *surface) Set(name string, v goja.Value) bool {
	if s.made == nil {
		s.made = make(map[string]goja.Value)
	}
	s.made[name] = v
	return true
}

func (s *surface) Delete(string) bool { return false }

func (s *surface) Keys() []string { return nil }

func names(list ...string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, name := range list {
		m[name] = true
	}
	return m
}

func of(part string, list ...string) map[string]string {
	m := make(map[string]string, len(list))
	for _, name := range list {
		m[name] = part
	}
	return m
}

func join(maps ...map[string]string) map[string]string {
	out := make(map[string]string)
	for _, m := range maps {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// memberParts says which part has a member of Agent.prototype. "" is a hook that
// does nothing unless a class overrides it.
var memberParts = join(
	of("fibers", "runFiber", "startFiber", "stash", "inspectFiber", "inspectFiberByKey", "listFibers", "cancelFiber", "cancelFiberByKey",
		"resolveFiber", "deleteFibers", "onFiberRecovered", "_handleInternalFiberRecovery"),
	of("schedules", "retry", "schedule", "getSchedule", "getSchedules", "getScheduleById", "listSchedules", "cancelSchedule"),
	of("members", "onRequest", "fetch", "onError", "shouldConnectionBeReadonly", "shouldSendProtocolMessages", "getConnectionTags",
		"broadcast", "getConnections", "getConnection", "getCallableMethods", "destroy", "keepAlive", "keepAliveWhile"),
	of("", "onStart", "validateStateChange", "onStateChanged", "onStateUpdate", "onAlarm", "alarm", "onConnect", "onMessage", "onClose", "onEmail"),
)

var memberGaps = names("queue", "dequeue", "dequeueAll", "dequeueAllByCallback", "getQueue", "getQueues", "scheduleEvery",
	"runWorkflow", "sendWorkflowEvent", "approveWorkflow", "rejectWorkflow", "terminateWorkflow", "pauseWorkflow",
	"resumeWorkflow", "restartWorkflow", "getWorkflowStatus", "getWorkflow", "getWorkflows", "deleteWorkflow",
	"deleteWorkflows", "migrateWorkflowBinding", "subAgent", "abortSubAgent", "deleteSubAgent", "hasSubAgent",
	"listSubAgents", "parentAgent", "runAgentTool", "cancelAgentTool", "hasAgentToolRun", "clearAgentToolRuns",
	"addMcpServer", "removeMcpServer", "getMcpServers", "replyToEmail", "sendEmail",
	"setConnectionReadonly", "isConnectionReadonly", "isConnectionProtocolEnabled")

// hostMembers makes what Agent.prototype inherits; its argument is the hook that
// does nothing.
func (in *instance) hostMembers(call goja.FunctionCall) goja.Value {
	in.glue.noop = call.Argument(0)
	return in.vm.NewDynamicObject(&surface{in: in, what: "this", gaps: memberGaps,
		has: func(name string) bool { _, ok := memberParts[name]; return ok },
		get: func(name string) goja.Value {
			part, ok := memberParts[name]
			switch {
			case !ok:
				return nil
			case part == "":
				return in.glue.noop
			}
			return in.partNow(part).Get("members").ToObject(in.vm).Get(name)
		}})
}

// moduleParts says which part exports a name of a module.
var moduleParts = map[string]map[string]string{
	"agents": join(of("sdk", "SqlError", "StreamingResponse", "callable", "unstable_callable", "getAgentByName",
		"DEFAULT_AGENT_STATIC_OPTIONS", "MessageType", "getCurrentAgent"), of("entry", "camelCaseToKebabCase")),
	"cloudflare:workers":   of("entry", "RpcTarget", "WorkerEntrypoint"),
	"cloudflare:workflows": of("entry", "NonRetryableError"),
}

var moduleGaps = map[string]map[string]bool{
	"agents": names("routeAgentRequest", "routeAgentEmail", "routeSubAgentRequest", "getSubAgentByName",
		"createHeaderBasedEmailResolver", "createAddressBasedEmailResolver", "createCatchAllEmailResolver"),
	"cloudflare:workers": names("WorkflowEntrypoint"),
}

// nativeExports are exports that come from elsewhere than a part's exports.
var nativeExports = map[string]map[string]func(in *instance) goja.Value{
	"agents": {"Agent": func(in *instance) goja.Value { return in.partNow("agent").Get("Agent") }},
	"cloudflare:workers": {
		"DurableObject": func(in *instance) goja.Value { return in.partNow("core").Get("DurableObject") },
		"env":           func(in *instance) goja.Value { return in.envValue() },
		"exports":       func(in *instance) goja.Value { return in.exportsValue() },
		"waitUntil":     func(in *instance) goja.Value { return in.glue.host.Get("waitUntil") },
	},
}

// require gives a bundle its modules. The exports of ours are found through the
// prototype, which is what bundlers keep when they wrap a module.
func (in *instance) require(name string) (goja.Value, error) {
	parts, ok := moduleParts[name]
	if !ok {
		if v, ok := in.iso.Module(name); ok {
			return v, nil
		}
		return nil, invalid("require", "module %q is not available in agentd: bundle it, or do without", name)
	}
	native := nativeExports[name]
	s := &surface{in: in, what: name, gaps: moduleGaps[name],
		has: func(key string) bool { return key == "__esModule" || native[key] != nil || parts[key] != "" },
		get: func(key string) goja.Value {
			switch {
			case key == "__esModule":
				return in.vm.ToValue(true)
			case native[key] != nil:
				return native[key](in)
			case parts[key] != "":
				return in.partNow(parts[key]).Get("exports").ToObject(in.vm).Get(key)
			}
			return nil
		}}
	return in.vm.CreateObject(in.vm.NewDynamicObject(s)), nil
}

var contextGaps = names("acceptWebSocket", "getTags", "setWebSocketAutoResponse", "getWebSocketAutoResponse",
	"setHibernatableWebSocketEventTimeout", "getHibernatableWebSocketEventTimeout")

// contextValue is the ctx of the agent's constructor.
func (in *instance) contextValue() *goja.Object {
	methods := map[string]string{"waitUntil": "waitUntil", "abort": "abort", "blockConcurrencyWhile": "block", "getWebSockets": "getWebSockets"}
	return in.vm.NewDynamicObject(&surface{in: in, what: "ctx", gaps: contextGaps,
		has: func(name string) bool {
			return name == "id" || name == "storage" || name == "exports" || methods[name] != ""
		},
		get: func(name string) goja.Value {
			switch name {
			case "id":
				v, err := in.glueCall("names", "newId", in.vm.ToValue(in.id().Name))
				return in.must(v, err)
			case "storage":
				return in.partNow("storage").Get("storage")
			case "exports":
				return in.exportsValue()
			}
			if host := methods[name]; host != "" {
				return in.glue.host.Get(host)
			}
			return nil
		}})
}
