package sandbox

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/dop251/goja"
)

func TestPlatform_Globals(t *testing.T) {
	check(t, nil, []evalCase{
		{"timers in order", `const out = []; setTimeout(() => out.push(2), 20); setTimeout(() => out.push(1), 10); setImmediate(() => out.push(0));
			await new Promise(r => setTimeout(r, 30)); return out`, `[0,1,2]`},
		{"timer arguments", `return await new Promise(r => setTimeout((a, b) => r(a + b), 1, 2, 3))`, `5`},
		{"clear", `let n = 0; const id = setInterval(() => { if (++n === 3) clearInterval(id) }, 5); await new Promise(r => setTimeout(r, 100)); return n`, `3`},
		{"timer needs function", `setTimeout("x()", 1)`, `error: TypeError: The timer's first argument must be a function`},
		{"microtask order", `const out = []; queueMicrotask(() => out.push(1)); Promise.resolve().then(() => out.push(2)); await null; await null; return out`, `[1,2]`},
		{"clone", `const a = { d: new Date(5), m: new Map([[1, new Set([2])]]), r: /x/gi, e: new RangeError("m"), b: 3n, u: new Uint16Array([1, 2]), n: [1, , 3] }; a.self = a;
			const c = structuredClone(a);
			return [c !== a, c.self === c, c.d.getTime(), c.d instanceof Date, [...c.m.get(1)], String(c.r), c.e.name, c.e.message, c.e instanceof RangeError, String(c.b), [...c.u], c.u instanceof Uint16Array, 1 in c.n, c.n.length]`,
			`[true,true,5,true,[2],"/x/gi","RangeError","m",true,"3",[1,2],true,false,3]`},
		{"clone function", `try { structuredClone({ f() {} }) } catch (e) { return [e.name, e.code, e instanceof DOMException, e instanceof Error] }`, `["DataCloneError",25,true,true]`},
		{"clone buffer", `const b = new ArrayBuffer(4); new Uint8Array(b)[1] = 7; const c = structuredClone(b); new Uint8Array(b)[1] = 8; return new Uint8Array(c)[1]`, `7`},
		{"url", `const u = new URL("../b?x=1#h", "https://user:pw@example.com:8080/a/c"); return [u.href, u.host, u.hash, u.searchParams.get("x"), URL.canParse("nope"), URL.parse("nope")]`,
			`["https://user:pw@example.com:8080/b?x=1#h","example.com:8080","#h","1",false,null]`},
		{"search params", `const p = new URLSearchParams({ a: "1", b: "x y" }); p.append("a", "2"); return [p.toString(), p.getAll("a"), [...p.keys()]]`, `["a=1&b=x+y&a=2",["1","2"],["a","b","a"]]`},
		{"encode", `return [...new TextEncoder().encode("é€😀")]`, `[195,169,226,130,172,240,159,152,128]`},
		{"encodeInto", `const b = new Uint8Array(4); return [new TextEncoder().encodeInto("a€€", b), [...b]]`, `[{"read":2,"written":4},[97,226,130,172]]`},
		{"decode stream", `const d = new TextDecoder(); return d.decode(new Uint8Array([0xE2, 0x82]), { stream: true }) + "|" + d.decode(new Uint8Array([0xAC]))`, `"|€"`},
		{"decode bom", `const b = new Uint8Array([0xEF, 0xBB, 0xBF, 65]); return [new TextDecoder().decode(b).length, new TextDecoder("utf-8", { ignoreBOM: true }).decode(b).length]`, `[1,2]`},
		{"decode fatal", `return new TextDecoder("utf-8", { fatal: true }).decode(new Uint8Array([0xFF]))`, `error: TypeError: The encoded data was not valid for encoding utf-8`},
		{"decode replaces", `return new TextDecoder().decode(new Uint8Array([0xE2, 0x82, 65, 0xFF])).split("").map(c => c.charCodeAt(0))`, `[65533,65,65533]`},
		{"decode others", `return [new TextDecoder("latin1").decode(new Uint8Array([0x80, 0xE9])), new TextDecoder("utf-16le").decode(new Uint8Array([65, 0, 172, 32]))]`, `["€é","A€"]`},
		{"base64", `return [btoa("hé"), atob("aOk="), atob(" aG k")]`, `["aOk=","hé","hi"]`},
		{"base64 bad", `try { btoa("€") } catch (e) { return e.name }`, `"InvalidCharacterError"`},
		{"uuid", `const u = crypto.randomUUID(); return /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/.test(u) && u !== crypto.randomUUID()`, `true`},
		{"random quota", `try { crypto.getRandomValues(new Uint8Array(65537)) } catch (e) { return e.name }`, `"QuotaExceededError"`},
		{"random view", `const b = new Uint8Array(8); return crypto.getRandomValues(b.subarray(2, 4)) !== b && b[0] === 0 && b[7] === 0`, `true`},
		{"digest", `const d = await crypto.subtle.digest("SHA-256", new TextEncoder().encode("abc")); return [...new Uint8Array(d)].slice(0, 4)`, `[186,120,22,191]`},
		{"hmac", `const k = await crypto.subtle.importKey("raw", new TextEncoder().encode("key"), { name: "HMAC", hash: "SHA-256" }, false, ["sign", "verify"]);
			const data = new TextEncoder().encode("The quick brown fox jumps over the lazy dog"); const s = await crypto.subtle.sign("HMAC", k, data);
			return [[...new Uint8Array(s)].slice(0, 3), await crypto.subtle.verify("HMAC", k, s, data), await crypto.subtle.verify("HMAC", k, s, new Uint8Array(1)), JSON.stringify(k).includes("key\"")]`, `[[247,188,131],true,false,false]`},
		{"abort", `const c = new AbortController(); const seen = []; c.signal.onabort = e => seen.push(e.type); c.signal.addEventListener("abort", () => seen.push("l"));
			c.abort(); c.abort(); try { c.signal.throwIfAborted() } catch (e) { seen.push(e.name) } return seen`, `["abort","l","AbortError"]`},
		{"abort any", `const a = new AbortController(); const s = AbortSignal.any([a.signal, AbortSignal.timeout(1000)]); a.abort("r"); return [s.aborted, s.reason, AbortSignal.abort().aborted]`, `[true,"r",true]`},
		{"abort timeout", `const s = AbortSignal.timeout(5); await new Promise(r => s.addEventListener("abort", r)); return s.reason.name`, `"TimeoutError"`},
		{"illegal signal", `new AbortSignal()`, `error: TypeError: Illegal constructor`},
		{"events", `const t = new EventTarget(); const seen = []; const f = e => seen.push(e.detail); t.addEventListener("x", f, { once: true }); t.addEventListener("x", { handleEvent(e) { e.preventDefault() } });
			const kept = t.dispatchEvent(new CustomEvent("x", { detail: 1, cancelable: true })); t.dispatchEvent(new CustomEvent("x", { detail: 2 })); return [seen, kept]`, `[[1],false]`},
		{"headers", `const h = new Headers({ "Content-Type": "a", b: "1" }); h.append("B", "2"); h.append("set-cookie", "x"); h.append("Set-Cookie", "y"); return [[...h], h.get("B"), h.has("content-type"), h.getSetCookie()]`,
			`[[["b","1, 2"],["content-type","a"],["set-cookie","x"],["set-cookie","y"]],"1, 2",true,["x","y"]]`},
		{"header injection", `new Headers({ a: "x\r\ny: z" })`, `error: TypeError: Invalid header value`},
		{"response", `const r = Response.json({ a: 1 }, { status: 201 }); const c = r.clone(); return [r.status, r.ok, r.headers.get("content-type"), await r.json(), await c.text(), r.bodyUsed]`, `[201,true,"application/json",{"a":1},"{\"a\":1}",true]`},
		{"body twice", `const r = new Response("x"); await r.text(); await r.text()`, `error: TypeError: Body is unusable: it has already been read`},
		{"body stream", `const parts = []; for await0 (const x of []) {}`, `compile: …`},
		{"stream", `const s = new ReadableStream({ start(c) { c.enqueue("a"); c.enqueue("b"); c.close() } }); const r = s.getReader(); return [await r.read(), await r.read(), await r.read(), s.locked]`,
			`[{"value":"a","done":false},{"value":"b","done":false},{"done":true},true]`},
		{"stream pull", `let n = 0; const s = new ReadableStream({ pull(c) { if (n === 3) c.close(); else c.enqueue(new Uint8Array([65 + n++])) } }); return await new Response(s).text()`, `"ABC"`},
		{"stream error", `const s = new ReadableStream({ start(c) { c.error(new Error("bad")) } }); return await new Response(s).text()`, `error: Error: bad`},
		{"stream cancel", `let why; const s = new ReadableStream({ cancel(r) { why = r } }); await s.cancel("enough"); return why`, `"enough"`},
		{"stream iterator", `const out = [], it = ReadableStream.from([1, 2])[Symbol.asyncIterator](); for (let r = await it.next(); !r.done; r = await it.next()) out.push(r.value); return out`, `[1,2]`},
		{"request", `const r = new Request("https://a.b/c?d", { method: "post", body: new URLSearchParams({ x: "y z" }) }); return [r.url, r.method, r.headers.get("content-type"), await r.text()]`,
			`["https://a.b/c?d","POST","application/x-www-form-urlencoded;charset=UTF-8","x=y+z"]`},
		{"get with body", `new Request("https://a.b", { body: "x" })`, `error: TypeError: Request with GET/HEAD method cannot have a body`},
		{"relative request", `new Request("/x")`, `error: TypeError: Invalid URL: "/x"`},
		{"no network", `await fetch("https://example.com")`, `error: TypeError: fetch failed: no network access was given to this code`},
		{"language", `const w = Promise.withResolvers(); w.resolve(1); return [await w.promise, Object.groupBy([1, 2, 3], x => x % 2 ? "odd" : "even"), [...Map.groupBy([1, 2], x => x > 1)], await Array.fromAsync([1, Promise.resolve(2)]), new WeakRef({ a: 1 }).deref()]`,
			`[1,{"odd":[1,3],"even":[2]},[[false,[1]],[true,[2]]],[1,2],{"a":1}]`},
		{"symbols", `return [typeof Symbol.asyncIterator, typeof Symbol.dispose, typeof Symbol.asyncDispose]`, `["symbol","symbol","symbol"]`},
		{"names", `return [self === globalThis, navigator.userAgent, performance.now() >= 0, performance.timeOrigin > 1e12, fetch.name, setTimeout.length, Date.now()]`, `[true,"Cloudflare-Workers",true,true,"fetch",2,1767323045000]`},
		{"descriptor", `const d = Object.getOwnPropertyDescriptor(globalThis, "URL"); return [d.writable, d.enumerable, d.configurable, "get" in d, Object.keys(globalThis), "Headers" in globalThis]`, `[true,false,true,false,[],true]`},
		{"replaceable", `globalThis.fetch = () => 5; return fetch()`, `5`},
		{"deterministic", `return Math.random() === Math.random()`, `false`},
	})
}

func TestPlatform_Console(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.Limits.ConsoleLine = 200 })
	w.eval(`
		console.log("a %s b %d %i %f %j %o %%", "x", 4.5, 4.5, "2.5", { a: 1 }, { b: [2] }, "rest", 7);
		console.info({ s: "it", n: null, u: undefined, d: new Date(0), r: /x/, m: new Map([["k", { v: 1 }]]), st: new Set([1]) });
		console.warn([1, "two", , [3]], function named() {}, class K {}, Symbol("y"), 10n);
		const loop = { name: "me" }; loop.loop = loop; console.error(loop);
		console.debug({ get secret() { throw 1 } }, new Proxy({}, { get() { throw 1 }, ownKeys() { throw 1 } }));
		console.log("y".repeat(1000));
		class Point { constructor() { this.x = 1 } } console.log(new Point(), { a: { b: { c: { d: { e: 1 } } } } });
		console.log(new TypeError("oops").message, Promise.resolve(1), new Uint8Array(2));
	`)
	want := []string{
		`log a x b 4.5 4 2.5 {"a":1} { b: [ 2 ] } % rest 7`,
		`info { s: 'it', n: null, u: undefined, d: 1970-01-01T00:00:00.000Z, r: /x/, m: Map(1) { 'k' => { v: 1 } }, st: Set(1) { 1 } }`,
		`warn [ 1, 'two', undefined, [ 3 ] ] [Function: named] [class K] Symbol(y) 10n`,
		`error { name: 'me', loop: [Circular] }`,
		`debug { secret: [Getter] } [Proxy]`,
	}
	for k, line := range want {
		if k >= len(w.console) || w.console[k] != line {
			t.Errorf("line %d\ngot  %q\nwant %q", k, w.console[min(k, len(w.console)-1)], line)
		}
	}
	if got := w.console[5]; len(got) > 210 || !strings.Contains(got, "bytes cut") {
		t.Errorf("long line: %d bytes, %q", len(got), got)
	}
	if got := w.console[6]; got != `log Point { x: 1 } { a: { b: { c: { d: [Object] } } } }` {
		t.Errorf("%s", got)
	}
}

func TestPlatform_AsyncContext(t *testing.T) {
	w := newWorld(t, nil)
	err := w.Do(func(*goja.Runtime) error {
		m, ok := w.Module("node:async_hooks")
		if !ok {
			return fmt.Errorf("no async_hooks")
		}
		return w.VM().Set("hooks", m)
	})
	if err != nil {
		t.Fatal(err)
	}
	got := w.eval(`
		const { AsyncLocalStorage } = hooks, a = new AsyncLocalStorage(), b = new AsyncLocalStorage(), out = [];
		await Promise.all(["x", "y"].map(v => a.run(v, async () => {
			await null; out.push(a.getStore());
			await new Promise(r => setTimeout(r, 5)); out.push(a.getStore());
			b.run(1, () => out.push([a.getStore(), b.getStore()]));
			a.exit(() => out.push(a.getStore() === undefined));
			await a.run("inner", async () => { await null; out.push(a.getStore()) });
			out.push(a.getStore());
		})));
		out.push(a.getStore() === undefined);
		a.enterWith("e"); await null; out.push(a.getStore());
		const bound = a.run("bound", () => AsyncLocalStorage.bind(() => a.getStore())); out.push(bound());
		return out`)
	want := `["x","y","x",["x",1],true,"inner","x","y",["y",1],true,"inner","y",true,"e","bound"]`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestPlatform_Fetch(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/echo":
			body, _ := io.ReadAll(r.Body)
			w.Header().Set("X-Method", r.Method)
			w.Header().Add("Set-Cookie", "a=1")
			w.Header().Add("Set-Cookie", "b=2")
			fmt.Fprintf(w, "%s|%s|%s", r.Header.Get("Content-Type"), r.Header.Get("Authorization"), body)
		case "/hop":
			http.Redirect(w, r, "/echo?hopped", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/hang":
			<-r.Context().Done()
		case "/big":
			for range 65 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		}
	}))
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	gated := 0
	check(t, func(c *Config) {
		c.Fetch = transport.RoundTrip
		c.Gate = func(fn func(error)) { gated++; go fn(nil) }
	}, []evalCase{
		{"post", `const r = await fetch("` + server.URL + `/echo", { method: "POST", body: "hi", headers: { authorization: "t" } }); return [r.status, r.ok, r.headers.get("x-method"), r.headers.getSetCookie(), await r.text(), r.url.endsWith("/echo")]`,
			`[200,true,"POST",["a=1","b=2"],"text/plain;charset=UTF-8|t|hi",true]`},
		{"redirect", `const r = await fetch("` + server.URL + `/hop", { method: "POST", body: "x" }); return [r.redirected, r.url.endsWith("/echo?hopped"), r.headers.get("x-method"), await r.text()]`, `[true,true,"GET","||"]`},
		{"manual", `const r = await fetch("` + server.URL + `/hop", { redirect: "manual" }); return [r.status, r.headers.get("location")]`, `[302,"/echo?hopped"]`},
		{"refused redirect", `await fetch("` + server.URL + `/hop", { redirect: "error" })`, `error: TypeError: fetch failed: …`},
		{"endless", `await fetch("` + server.URL + `/loop")`, `error: TypeError: fetch failed: more than 20 redirects`},
		{"timeout", `try { await fetch("` + server.URL + `/hang", { signal: AbortSignal.timeout(5) }) } catch (e) { return e.name }`, `"TimeoutError"`},
		{"aborted", `try { await fetch("` + server.URL + `/echo", { signal: AbortSignal.abort() }) } catch (e) { return e.name }`, `"AbortError"`},
		{"too big", `await fetch("` + server.URL + `/big")`, `error: TypeError: fetch failed: the response is larger than 67108864 bytes`},
		{"scheme", `await fetch("ftp://x/")`, `error: TypeError: fetch failed: the scheme "ftp" is not supported`},
	})
	if gated < 5 {
		t.Errorf("gate was passed %d times", gated)
	}
	t.Run("gate fails", func(t *testing.T) {
		w := newWorld(t, func(c *Config) {
			c.Fetch = func(*http.Request) (*http.Response, error) { t.Error("a request left"); return nil, io.EOF }
			c.Gate = func(fn func(error)) { fn(io.ErrClosedPipe) }
		})
		if got, want := w.eval(`await fetch("http://x/")`), "error: TypeError: fetch failed: io: read/write on closed pipe"; got != want {
			t.Error(got)
		}
	})
}
