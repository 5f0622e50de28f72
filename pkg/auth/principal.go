package auth

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"agentd/pkg/agent"
)

// Services are what a token can be limited to, one for each service of agentd.v1.
const (
	ServiceAgent     = "agent"
	ServiceFiber     = "fiber"
	ServiceWorkspace = "workspace"
	ServiceCode      = "code"
	ServiceWorkflow  = "workflow"
	ServiceClass     = "class"
	ServiceCluster   = "cluster"
)

var serviceNames = []string{ServiceAgent, ServiceFiber, ServiceWorkspace, ServiceCode, ServiceWorkflow, ServiceClass, ServiceCluster}

const everything = "*"

// Access is how far a principal may go inside its namespaces and services. Each
// level includes the ones before it.
type Access uint8

const (
	Read  Access = iota + 1 // look, change nothing
	Write                   // change agents, classes, workflows
	Admin                   // change the cluster: drain, remove, transfer
)

var accessNames = []string{"", "read", "write", "admin"}

func (a Access) String() string {
	if int(a) < len(accessNames) && a > 0 {
		return accessNames[a]
	}
	return "none"
}

// ParseAccess reads "read", "write" or "admin".
func ParseAccess(text string) (Access, bool) {
	i := slices.Index(accessNames[1:], text)
	return Access(i + 1), i >= 0
}

// serviceSet has one bit for each of serviceNames.
type serviceSet uint8

const allServices = serviceSet(1<<7 - 1)

func serviceBit(name string) (serviceSet, bool) {
	i := slices.Index(serviceNames, name)
	if i < 0 {
		return 0, false
	}
	return 1 << i, true
}

func (s serviceSet) names() []string {
	if s == allServices {
		return []string{everything}
	}
	var names []string
	for i, name := range serviceNames {
		if s&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// grant is what one token allows. It is immutable and shared.
type grant struct {
	name          string
	allNamespaces bool
	namespaces    map[string]struct{}
	services      serviceSet
	access        Access
	expires       time.Time // zero for never
}

func (g *grant) expired(now time.Time) bool { return !g.expires.IsZero() && !now.Before(g.expires) }

// Principal is who was authenticated. It is a small value that may be copied, kept
// for the life of a stream and used from any goroutine. The zero Principal may do
// nothing.
type Principal struct{ grant *grant }

// Unrestricted is the principal of a node that authenticates nobody: it may do
// everything.
func Unrestricted(name string) Principal {
	return Principal{&grant{name: name, allNamespaces: true, services: allServices, access: Admin}}
}

// Name is for logs: the name of the token, or the subject of the JWT.
func (p Principal) Name() string {
	if p.grant == nil {
		return ""
	}
	return p.grant.name
}

// Expires is when the proof ends, zero if it does not; a long stream should end
// then.
func (p Principal) Expires() time.Time {
	if p.grant == nil {
		return time.Time{}
	}
	return p.grant.expires
}

// Allows says whether the principal may read or write in a namespace through a
// service. What belongs to no namespace has an empty one: reading it needs the
// service only, writing it all namespaces. Writing in the service "cluster" needs
// admin access. The error is of kind Denied and names what is lacking.
func (p Principal) Allows(namespace, service string, write bool) error {
	g := p.grant
	if g == nil {
		return denied("nobody is authenticated")
	}
	bit, known := serviceBit(service)
	switch {
	case !known || g.services&bit == 0:
		return denied(fmt.Sprintf("%q may not use the service %q", g.name, service))
	case namespace == "" && write && !g.allNamespaces:
		return denied(fmt.Sprintf("%q is limited to namespaces and may change nothing that concerns all", g.name))
	case namespace != "" && !g.in(namespace):
		return denied(fmt.Sprintf("%q may not use the namespace %.80q", g.name, namespace))
	}
	need := Read
	if write {
		need = Write
		if service == ServiceCluster {
			need = Admin
		}
	}
	if g.access < need {
		return denied(fmt.Sprintf("%q has %v access to the service %q, and this needs %v access", g.name, g.access, service, need))
	}
	return nil
}

func (g *grant) in(namespace string) bool {
	if g.allNamespaces {
		return true
	}
	_, ok := g.namespaces[namespace]
	return ok
}

func denied(msg string) error {
	return &agent.Error{Op: "authorize", Kind: agent.Denied, Msg: msg}
}

// limitNamespaces sets which namespaces the grant covers: "*", or names of which
// the first invalid one is returned as an error.
func (g *grant) limitNamespaces(names []string) error {
	g.namespaces = make(map[string]struct{}, len(names))
	for _, name := range names {
		if name == everything {
			g.allNamespaces = true
			continue
		}
		if err := agent.ValidateNamespace(name); err != nil {
			return err
		}
		g.namespaces[name] = struct{}{}
	}
	return nil
}

// limitServices sets which services the grant covers: "*", or names.
func (g *grant) limitServices(names []string) error {
	for _, name := range names {
		if name == everything {
			g.services = allServices
			continue
		}
		bit, ok := serviceBit(name)
		if !ok {
			return &agent.Error{Op: "read services", Kind: agent.Invalid,
				Msg: fmt.Sprintf("%.60q is no service; those are %s, or \"*\" for all", name, strings.Join(serviceNames, ", "))}
		}
		g.services |= bit
	}
	return nil
}
