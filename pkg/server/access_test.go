package server

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"agentd/pkg/auth"
)

// methods are all that a server has registered, by full name.
func methods(t *testing.T) map[string]protoreflect.MethodDescriptor {
	t.Helper()
	found := map[string]protoreflect.MethodDescriptor{}
	for service, info := range New(Config{Agents: &world{}, Classes: &world{}}).grpc.GetServiceInfo() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
		if err != nil {
			t.Fatalf("%s: %v", service, err)
		}
		for _, m := range info.Methods {
			found["/"+service+"/"+m.Name] = d.(protoreflect.ServiceDescriptor).Methods().ByName(protoreflect.Name(m.Name))
		}
	}
	return found
}

func TestAccess_NamesEveryMethod(t *testing.T) {
	registered := methods(t)
	for name := range registered {
		if _, ok := accessOf[name]; !ok {
			t.Errorf("%s is served and not in accessOf: who may use it?", name)
		}
	}
	for name := range accessOf {
		if registered[name] == nil {
			t.Errorf("%s is in accessOf and not served", name)
		}
	}
}

// Each service of ours needs the service of pkg/auth that is named after it, and what
// changes something needs write access.
func TestAccess_FitsTheNames(t *testing.T) {
	reads := []string{"Get", "GetState", "WatchState", "KVGet", "KVList", "List", "Describe", "Status", "ServerReflectionInfo"}
	for name, need := range accessOf {
		service, method, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
		if need.scope == everybody {
			if service != "grpc.health.v1.Health" {
				t.Errorf("%s is open to everybody", name)
			}
			continue
		}
		if need.write == slices.Contains(reads, method) {
			t.Errorf("%s: write is %v", name, need.write)
		}
		want := auth.ServiceCluster // reflection
		if ours, ok := strings.CutPrefix(service, "agentd.v1."); ok {
			want = strings.ToLower(strings.TrimSuffix(ours, "Service"))
		}
		if need.service != want {
			t.Errorf("%s needs the service %q, want %q", name, need.service, want)
		}
	}
}

// The namespace that is checked is the one that the request names, wherever it
// stands, and the default one if it names none.
func TestAccess_FindsTheNamespace(t *testing.T) {
	for name, method := range methods(t) {
		need := accessOf[name]
		kind, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
		if err != nil {
			t.Fatal(err)
		}
		tenant := tenantField(method.Input())
		if (need.scope == ofAgent || need.scope == ofARequest) != (tenant != nil) {
			t.Errorf("%s: scope %d, and its field of a namespace is %v", name, need.scope, tenant)
			continue
		}
		if tenant == nil {
			continue
		}
		if got, err := need.namespace(kind.New().Interface()); err != nil || got != "default" {
			t.Errorf("%s without a namespace: %q, %v", name, got, err)
		}
		if got, err := need.namespace(with(kind, tenant)); err != nil || got != "team-a" {
			t.Errorf("%s in team-a: %q, %v", name, got, err)
		}
	}
	for _, s := range []scope{0, everybody, ofAgent, ofARequest} {
		if got, err := (access{scope: s}).namespace(struct{}{}); err == nil {
			t.Errorf("scope %d: a request that says nothing touches %q", s, got)
		}
	}
}

// tenantField is the field agent or namespace of a request.
func tenantField(m protoreflect.MessageDescriptor) protoreflect.FieldDescriptor {
	if f := m.Fields().ByName("agent"); f != nil {
		return f
	}
	return m.Fields().ByName("namespace")
}

// with is a request that touches team-a.
func with(kind protoreflect.MessageType, tenant protoreflect.FieldDescriptor) proto.Message {
	m := kind.New()
	if tenant.Message() == nil {
		m.Set(tenant, protoreflect.ValueOfString("team-a"))
		return m.Interface()
	}
	ref := m.Mutable(tenant).Message()
	ref.Set(ref.Descriptor().Fields().ByName("namespace"), protoreflect.ValueOfString("team-a"))
	return m.Interface()
}
