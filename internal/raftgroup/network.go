package raftgroup

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Transport carries one group's messages between nodes. It is made by a Network and
// used by one Start only.
type Transport struct{ raft raft.Transport }

// Network joins the members of one group within this process. A node that is the
// only member needs no other. All methods may be called from any goroutine.
type Network struct {
	mu         sync.Mutex // guards what follows
	transports map[string]*raft.InmemTransport
	cut        map[string]bool
}

// NewNetwork returns a network without nodes.
func NewNetwork() *Network {
	return &Network{transports: make(map[string]*raft.InmemTransport), cut: make(map[string]bool)}
}

// networkPatience is how long a message to a node of the same process may take.
const networkPatience = 500 * time.Millisecond

// Transport adds a node, or takes its place anew after it was stopped. The node's
// address is its name.
func (n *Network) Transport(node string) *Transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, t := raft.NewInmemTransportWithTimeout(raft.ServerAddress(node), networkPatience)
	t.Connect(t.LocalAddr(), t) // a sole voter tells itself to stand for election
	n.transports[node] = t
	n.connect(node)
	return &Transport{raft: t}
}

// Cut takes a node off the network until Heal: it reaches nobody, nobody reaches it.
func (n *Network) Cut(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[node] = true
	for name, t := range n.transports {
		if name != node {
			t.Disconnect(raft.ServerAddress(node))
			n.transports[node].Disconnect(raft.ServerAddress(name))
		}
	}
}

// Heal ends a Cut.
func (n *Network) Heal(node string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cut, node)
	n.connect(node)
}

func (n *Network) connect(node string) {
	t := n.transports[node]
	for name, other := range n.transports {
		if name != node && !n.cut[name] && !n.cut[node] {
			t.Connect(other.LocalAddr(), other)
			other.Connect(t.LocalAddr(), t)
		}
	}
}
