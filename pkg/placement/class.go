// Package placement holds the table that a whole cluster agrees on: which nodes
// exist, which nodes keep and own which shard, and which versions of which classes
// are deployed. The table is a pure state machine: time comes in the command. The
// controller's decisions are a pure function of it too: see Plan.
//
// It does not replicate anything and talks to nobody; see Placer for what does.
package placement

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"agentd/pkg/agent"
)

// Limits of one deployment.
const (
	MaxBundleBytes      = 32 << 20 // code and source map together
	MaxClassesPerBundle = 256
	MaxVersionsKept     = 10 // per class; older ones cannot be rolled back to
)

// Bundle is deployed code: one script that evaluates to a function
// (exports, require, module) and its source map (may be empty).
type Bundle struct {
	Code      []byte
	SourceMap []byte
}

// Hash names the bundle by its content: 64 hex digits.
func (b Bundle) Hash() string {
	h := sha256.New()
	h.Write(b.Code)
	h.Write([]byte{0})
	h.Write(b.SourceMap)
	return hex.EncodeToString(h.Sum(nil))
}

func (b Bundle) validate() error {
	if n := len(b.Code) + len(b.SourceMap); n > MaxBundleBytes {
		return refuse("deploy", agent.TooLarge, "the bundle has %d bytes with its source map; at most %d are allowed", n, MaxBundleBytes)
	}
	return nil
}

// ClassVersion is one deployed version of a class.
type ClassVersion struct {
	Namespace  string    `json:"namespace"`
	Class      string    `json:"class"`
	Version    uint64    `json:"version"` // 1, 2, … per class; a rollback is a new version
	Bundle     string    `json:"bundle"`  // Bundle.Hash
	Methods    []string  `json:"methods"` // public methods, sorted
	DeployedAt time.Time `json:"deployedAt"`
}
