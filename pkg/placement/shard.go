package placement

import (
	"hash/fnv"

	"agentd/pkg/agent"
)

// DefaultShards is the number of shards of a new cluster.
const DefaultShards = 16

// ShardOf maps an agent to one of n shards. The function is part of the stored
// format: changing it would move every agent.
func ShardOf(id agent.ID, n int) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id.Key())) // a hash never fails
	x := h.Sum64()
	// FNV's low bits are weak for short keys; fold the high ones in.
	x ^= x >> 32
	return int(x % uint64(n))
}
