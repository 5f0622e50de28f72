package auth

import (
	"crypto/sha256"
	"sync"
	"time"
)

// maxCached bounds the JWTs that are remembered. Only good ones get in, so a flood
// of others drives nothing out.
const maxCached = 4096

// cache remembers JWTs whose signature was good.
type cache struct {
	mu      sync.RWMutex // guards entries; nothing else is done under it
	entries map[[sha256.Size]byte]cached
}

type cached struct {
	grant *grant
	keys  *keySet // it was good with these; it is worth nothing with others
}

func (c *cache) get(sum [sha256.Size]byte, keys *keySet, now time.Time) *grant {
	c.mu.RLock()
	entry, ok := c.entries[sum]
	c.mu.RUnlock()
	if !ok || entry.keys != keys || entry.grant.expired(now) {
		return nil
	}
	return entry.grant
}

func (c *cache) put(sum [sha256.Size]byte, entry cached) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxCached {
		for victim := range c.entries { // an order that callers cannot choose
			delete(c.entries, victim)
			break
		}
	}
	c.entries[sum] = entry
}
