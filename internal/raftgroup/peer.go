package raftgroup

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// Peer is a member of a group.
type Peer struct {
	Node     string `json:"node"`               // the node's name, for ever
	Address  string `json:"address,omitempty"`  // where its transport listens; "" is the name
	Observer bool   `json:"observer,omitempty"` // receives entries, has no vote
}

func (p Peer) server() raft.Server {
	s := raft.Server{ID: raft.ServerID(p.Node), Address: raft.ServerAddress(p.Address)}
	if p.Address == "" {
		s.Address = raft.ServerAddress(p.Node)
	}
	if p.Observer {
		s.Suffrage = raft.Nonvoter
	}
	return s
}

func configurationOf(peers []Peer) raft.Configuration {
	var c raft.Configuration
	for _, p := range peers {
		c.Servers = append(c.Servers, p.server())
	}
	return c
}

func peersOf(c raft.Configuration) []Peer {
	var peers []Peer
	for _, s := range c.Servers {
		peers = append(peers, Peer{Node: string(s.ID), Address: string(s.Address), Observer: s.Suffrage != raft.Voter})
	}
	return peers
}

func validatePeers(peers []Peer) error {
	if len(peers) > maxPeers {
		return fmt.Errorf("a group has %d members; %d is the most", len(peers), maxPeers)
	}
	nodes, addresses, voters := map[string]bool{}, map[raft.ServerAddress]bool{}, 0
	for _, p := range peers {
		s := p.server()
		switch {
		case p.Node == "":
			return errors.New("a member of the group has no name")
		case nodes[p.Node]:
			return fmt.Errorf("node %q is a member of the group twice", p.Node)
		case addresses[s.Address]:
			return fmt.Errorf("address %q belongs to two members of the group", s.Address)
		}
		nodes[p.Node], addresses[s.Address] = true, true
		if !p.Observer {
			voters++
		}
	}
	if voters == 0 {
		return errors.New("no member of the group has a vote")
	}
	return nil
}
