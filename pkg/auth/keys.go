package auth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"

	"agentd/internal/reload"
	"agentd/pkg/agent"
)

// Limits of a JWKS.
const (
	maxKeysBytes = 256 << 10
	maxKeys      = 64
	minRSABits   = 2048
	maxRSABits   = 8192
)

// keySource gives the keys of an issuer. Its methods may be called from any
// goroutine.
type keySource interface {
	// current is the newest set, nil if there is none. It never waits.
	current() *keySet
	// refresh is asked when a key is not in the set older. It gives a newer one, or
	// the same when it is too soon to look again. The error is of kind Unavailable.
	refresh(ctx context.Context, older *keySet) (*keySet, error)
	// close waits for what is under way.
	close()
}

func openKeys(cfg JWT, common Config) (keySource, error) {
	if cfg.KeysFile == "" {
		return newIssuer(cfg, common)
	}
	value, err := reload.Open(reload.Config[*keySet]{
		Paths: []string{cfg.KeysFile}, Limit: maxKeysBytes, Now: common.Now, Report: common.Report,
		Parse: func(contents [][]byte) (*keySet, error) {
			set, err := parseKeys(contents[0])
			if err != nil {
				return nil, &agent.Error{Op: "read keys", Kind: agent.Invalid, Msg: cfg.KeysFile + " cannot be used", Err: err}
			}
			return set, nil
		},
	})
	if err != nil {
		return nil, err
	}
	return keysFile{value}, nil
}

// keysFile is a keySource that is a file.
type keysFile struct{ value *reload.Value[*keySet] }

func (f keysFile) current() *keySet { return f.value.Get() }

func (f keysFile) refresh(context.Context, *keySet) (*keySet, error) { return f.value.Get(), nil }

func (f keysFile) close() {}

// keySet is a JWKS: the public keys in it that can verify. It is immutable.
type keySet struct {
	keys []publicKey
	sum  [sha256.Size]byte // of the text
}

type publicKey struct {
	id        string // may be empty
	algorithm string // the only one that the key is good for
	key       crypto.PublicKey
}

// find is the key of that id and algorithm. Without an id the set must have only
// one key for the algorithm. A nil set has none.
func (s *keySet) find(id, algorithm string) crypto.PublicKey {
	if s == nil {
		return nil
	}
	var found crypto.PublicKey
	for _, k := range s.keys {
		if k.algorithm != algorithm || id != "" && k.id != id {
			continue
		}
		if found != nil {
			return nil // which of two is a guess
		}
		found = k.key
	}
	return found
}

// jwk is one key as RFC 7517 and 8037 write it.
type jwk struct {
	Type      string `json:"kty"`
	ID        string `json:"kid"`
	Use       string `json:"use"`
	Algorithm string `json:"alg"`
	Curve     string `json:"crv"`
	N         string `json:"n"`
	E         string `json:"e"`
	X         string `json:"x"`
	Y         string `json:"y"`
}

// parseKeys reads a JWKS. Keys for other uses and algorithms are passed over, broken
// ones are an error, and so is a set without any key.
func parseKeys(text []byte) (*keySet, error) {
	if len(text) > maxKeysBytes {
		return nil, fmt.Errorf("the set of keys has %d bytes; at most %d are allowed", len(text), maxKeysBytes)
	}
	var doc struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("the set of keys is not JSON as in RFC 7517: %w", err)
	}
	if len(doc.Keys) > maxKeys {
		return nil, fmt.Errorf("the set has %d keys; at most %d are allowed", len(doc.Keys), maxKeys)
	}
	set := &keySet{sum: sha256.Sum256(text)}
	for i, k := range doc.Keys {
		algorithm, key, err := k.public()
		if err != nil {
			return nil, fmt.Errorf("key %d (%.60q): %w", i+1, k.ID, err)
		}
		usable := key != nil && (k.Use == "" || k.Use == "sig") && (k.Algorithm == "" || k.Algorithm == algorithm)
		if usable {
			set.keys = append(set.keys, publicKey{id: k.ID, algorithm: algorithm, key: key})
		}
	}
	if len(set.keys) == 0 {
		return nil, fmt.Errorf("the set has no key for any of %v", algorithms)
	}
	return set, nil
}

// public is the key and the one algorithm it is good for; a nil key is of a kind
// that is not used here.
func (k jwk) public() (string, crypto.PublicKey, error) {
	switch {
	case k.Type == "RSA":
		key, err := k.rsa()
		if key == nil {
			return "", nil, err
		}
		return "RS256", key, nil
	case k.Type == "EC" && k.Curve == "P-256":
		x, errX := decodeField("x", k.X, 32)
		y, errY := decodeField("y", k.Y, 32)
		if errX != nil || errY != nil {
			return "", nil, fmt.Errorf("a point of P-256 needs x and y of 32 bytes each")
		}
		key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append(append([]byte{4}, x...), y...))
		if err != nil {
			return "", nil, err // a nil *ecdsa.PublicKey must not become a key
		}
		return "ES256", key, nil
	case k.Type == "OKP" && k.Curve == "Ed25519":
		x, err := decodeField("x", k.X, ed25519.PublicKeySize)
		if err != nil {
			return "", nil, err
		}
		return "EdDSA", ed25519.PublicKey(x), nil
	}
	return "", nil, nil
}

// rsa is nil without an error for a key that is too weak or too costly to use.
func (k jwk) rsa() (*rsa.PublicKey, error) {
	n, err := base64.RawURLEncoding.DecodeString(k.N)
	if err != nil {
		return nil, fmt.Errorf("n is not base64url")
	}
	e, err := base64.RawURLEncoding.DecodeString(k.E)
	if err != nil || len(e) == 0 || len(e) > 4 {
		return nil, fmt.Errorf("e is not an exponent of at most 4 bytes")
	}
	modulus, exponent := new(big.Int).SetBytes(n), new(big.Int).SetBytes(e).Int64()
	if bits := modulus.BitLen(); bits < minRSABits || bits > maxRSABits {
		return nil, nil
	}
	if exponent < 3 || exponent%2 == 0 || exponent > 1<<31-1 || modulus.Bit(0) == 0 {
		return nil, fmt.Errorf("n and e are not those of an RSA key")
	}
	return &rsa.PublicKey{N: modulus, E: int(exponent)}, nil
}

func decodeField(name, text string, size int) ([]byte, error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) != size {
		return nil, fmt.Errorf("%s is not %d bytes in base64url", name, size)
	}
	return b, nil
}
