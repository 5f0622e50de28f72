package sandbox

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/dop251/goja"
)

// maxRandom is what one call of getRandomValues may fill, in bytes.
const maxRandom = 65_536

var hashes = map[string]func() hash.Hash{"SHA-1": sha1.New, "SHA-256": sha256.New, "SHA-384": sha512.New384, "SHA-512": sha512.New}

// cryptoKey is an imported HMAC key.
type cryptoKey struct {
	hash   string
	secret []byte
}

func (i *Isolate) fillRandom(b []byte) {
	if _, err := io.ReadFull(i.cfg.Rand, b); err != nil {
		panic(i.vm.NewGoError(fmt.Errorf("random source: %w", err)))
	}
}

func (i *Isolate) randomUUID(goja.FunctionCall) goja.Value {
	var b [16]byte
	i.fillRandom(b[:])
	b[6], b[8] = b[6]&0x0F|0x40, b[8]&0x3F|0x80
	h := hex.EncodeToString(b[:])
	return i.vm.ToValue(h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:])
}

func (i *Isolate) getRandomValues(call goja.FunctionCall) goja.Value {
	o := asObject(call.Argument(0))
	b, ok := i.bytesOf(call.Argument(0))
	if !ok || kindOf(o) != "typedArrayObject" {
		i.throwDOM("TypeMismatchError", "getRandomValues: the argument must be an integer typed array")
	}
	if tag := o.GetSymbol(goja.SymToStringTag); tag != nil && strings.HasPrefix(tag.String(), "Float") {
		i.throwDOM("TypeMismatchError", "getRandomValues: the argument must be an integer typed array")
	}
	if len(b) > maxRandom {
		i.throwDOM("QuotaExceededError", fmt.Sprintf("getRandomValues: %d bytes asked for; at most %d at once", len(b), maxRandom))
	}
	i.fillRandom(b)
	return o
}

func (i *Isolate) newCrypto() *goja.Object {
	if o, ok := i.parts["crypto"]; ok {
		return o
	}
	o, subtle := i.vm.NewObject(), i.vm.NewObject()
	for name, fn := range map[string]nativeFunc{"digest": i.digest, "importKey": i.importKey, "sign": i.sign, "verify": i.verify} {
		i.must(subtle.Set(name, i.native(name, 2, i.promised(fn))))
	}
	i.must(o.Set("randomUUID", i.native("randomUUID", 0, i.randomUUID)))
	i.must(o.Set("getRandomValues", i.native("getRandomValues", 1, i.getRandomValues)))
	i.must(o.Set("subtle", subtle))
	i.keep("crypto", o)
	return o
}

// promised makes a function that gives a promise of what fn returns or throws.
func (i *Isolate) promised(fn nativeFunc) nativeFunc {
	return func(call goja.FunctionCall) goja.Value {
		p, resolve, reject := i.Promise()
		var v goja.Value
		if ex := i.vm.Try(func() { v = fn(call) }); ex != nil {
			reject(ex.Value())
		} else {
			resolve(v)
		}
		return p
	}
}

// algorithm reads "SHA-256" or {name: "SHA-256"}.
func (i *Isolate) algorithm(v goja.Value) (name string, o *goja.Object) {
	if o := asObject(v); o != nil {
		n := o.Get("name")
		if n == nil {
			i.throw("TypeError", "the algorithm has no name")
		}
		return strings.ToUpper(n.String()), o
	}
	return strings.ToUpper(v.String()), nil
}

func (i *Isolate) hashOf(v goja.Value) (string, func() hash.Hash) {
	name, _ := i.algorithm(v)
	h, ok := hashes[name]
	if !ok {
		i.throwDOM("NotSupportedError", name+" is not supported; SHA-1, SHA-256, SHA-384 and SHA-512 are")
	}
	return name, h
}

func (i *Isolate) input(v goja.Value, what string) []byte {
	b, ok := i.bytesOf(v)
	if !ok {
		i.throw("TypeError", what+" must be an ArrayBuffer or a view of one")
	}
	return b
}

func (i *Isolate) buffer(b []byte) goja.Value { return i.vm.ToValue(i.vm.NewArrayBuffer(b)) }

func (i *Isolate) digest(call goja.FunctionCall) goja.Value {
	_, h := i.hashOf(call.Argument(0))
	sum := h()
	sum.Write(i.input(call.Argument(1), "digest: the data"))
	return i.buffer(sum.Sum(nil))
}

// importKey takes raw HMAC keys.
func (i *Isolate) importKey(call goja.FunctionCall) goja.Value {
	name, o := i.algorithm(call.Argument(2))
	if format := call.Argument(0).String(); format != "raw" || name != "HMAC" || o == nil {
		i.throwDOM("NotSupportedError", "importKey supports raw HMAC keys only")
	}
	given := o.Get("hash")
	if given == nil {
		i.throw("TypeError", "importKey: the HMAC algorithm needs a hash")
	}
	hashName, _ := i.hashOf(given)
	key := &cryptoKey{hash: hashName, secret: append([]byte(nil), i.input(call.Argument(1), "importKey: the key")...)}
	if len(key.secret) == 0 {
		i.throwDOM("DataError", "importKey: the key is empty")
	}
	k := i.vm.NewObject()
	i.must(k.DefineDataPropertySymbol(i.kernel.hidden, i.vm.ToValue(&hiddenKey{key}), goja.FLAG_FALSE, goja.FLAG_FALSE, goja.FLAG_FALSE))
	algorithm, inner := i.vm.NewObject(), i.vm.NewObject()
	i.must(inner.Set("name", hashName))
	i.must(algorithm.Set("name", "HMAC"))
	i.must(algorithm.Set("hash", inner))
	i.must(algorithm.Set("length", len(key.secret)*8))
	i.must(k.Set("type", "secret"))
	i.must(k.Set("extractable", call.Argument(3).ToBoolean()))
	i.must(k.Set("algorithm", algorithm))
	i.must(k.Set("usages", call.Argument(4)))
	return k
}

// hiddenKey keeps the secret out of JavaScript's reach: it has no exported members.
type hiddenKey struct{ key *cryptoKey }

func (i *Isolate) mac(call goja.FunctionCall, data goja.Value) []byte {
	if name, _ := i.algorithm(call.Argument(0)); name != "HMAC" {
		i.throwDOM("NotSupportedError", name+" is not supported; HMAC is")
	}
	if o := asObject(call.Argument(1)); o != nil {
		if v := o.GetSymbol(i.kernel.hidden); v != nil {
			if h, ok := v.Export().(*hiddenKey); ok {
				m := hmac.New(hashes[h.key.hash], h.key.secret)
				m.Write(i.input(data, "the data"))
				return m.Sum(nil)
			}
		}
	}
	i.throw("TypeError", "the key must come from importKey")
	return nil
}

func (i *Isolate) sign(call goja.FunctionCall) goja.Value {
	return i.buffer(i.mac(call, call.Argument(2)))
}

func (i *Isolate) verify(call goja.FunctionCall) goja.Value {
	return i.vm.ToValue(hmac.Equal(i.input(call.Argument(2), "verify: the signature"), i.mac(call, call.Argument(3))))
}

// nodeCrypto is the part of node:crypto that programs use: randomUUID, randomBytes
// (a Uint8Array), getRandomValues, webcrypto.
func (i *Isolate) nodeCrypto() *goja.Object {
	if o, ok := i.parts["node_crypto"]; ok {
		return o
	}
	web := i.newCrypto()
	o := i.vm.NewObject()
	for _, name := range []string{"randomUUID", "getRandomValues", "subtle"} {
		i.must(o.Set(name, web.Get(name)))
	}
	i.must(o.Set("webcrypto", web))
	i.must(o.Set("randomBytes", i.native("randomBytes", 1, func(c goja.FunctionCall) goja.Value {
		n := number(c.Argument(0))
		if n < 0 || n != float64(int(n)) {
			i.throw("RangeError", "randomBytes: the size must be a whole number from 0")
		}
		i.allow(n)
		b := make([]byte, int(n))
		i.fillRandom(b)
		return i.uint8Array(b)
	})))
	i.keep("node_crypto", o)
	return o
}
