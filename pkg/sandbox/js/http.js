// Headers, streams, Request, Response and fetch. The exchange itself is in Go.
(function (host) {
  const token = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;
  function headerName(name) {
    name = String(name);
    if (!token.test(name)) throw new TypeError(`Invalid header name: ${JSON.stringify(name.slice(0, 100))}`);
    return name.toLowerCase();
  }
  function headerValue(value) {
    value = String(value).replace(/^[\t\n\r ]+|[\t\n\r ]+$/g, "");
    if (/[\0\r\n]/.test(value)) throw new TypeError("Invalid header value");
    return value;
  }
  class Headers {
    #map = new Map(); // lower-case name → values
    constructor(init) {
      if (init === undefined || init === null) return;
      if (typeof init !== "object") throw new TypeError("Headers: the argument must be an object or a list of pairs");
      if (typeof init[Symbol.iterator] === "function") {
        for (const pair of init) {
          const [name, value, ...rest] = pair;
          if (value === undefined || rest.length) throw new TypeError("Headers: each entry must be a name and a value");
          this.append(name, value);
        }
      } else {
        for (const name of Object.keys(init)) this.append(name, init[name]);
      }
    }
    append(name, value) {
      const key = headerName(name), list = this.#map.get(key);
      if (list) list.push(headerValue(value)); else this.#map.set(key, [headerValue(value)]);
    }
    delete(name) { this.#map.delete(headerName(name)); }
    get(name) { const list = this.#map.get(headerName(name)); return list ? list.join(", ") : null; }
    getSetCookie() { return [...(this.#map.get("set-cookie") || [])]; }
    has(name) { return this.#map.has(headerName(name)); }
    set(name, value) { this.#map.set(headerName(name), [headerValue(value)]); }
    forEach(callback, self) { for (const [name, value] of this) callback.call(self, value, name, this); }
    *entries() {
      for (const name of [...this.#map.keys()].sort()) {
        if (name === "set-cookie") for (const v of this.#map.get(name)) yield [name, v];
        else yield [name, this.#map.get(name).join(", ")];
      }
    }
    *keys() { for (const [name] of this.entries()) yield name; }
    *values() { for (const [, value] of this.entries()) yield value; }
    [Symbol.iterator]() { return this.entries(); }
    get [Symbol.toStringTag]() { return "Headers"; }
  }

  // A readable stream with the default controller and reader; no byte streams, no
  // pipes.
  class ReadableStream {
    #queue = []; #state = "readable"; #error; #waiting = []; #source; #reader = null; #pulling = false; #highWater; #again = false; #started; #disturbed = false;
    constructor(source = {}, strategy = {}) {
      if (source?.type !== undefined) throw new TypeError("ReadableStream: byte streams are not supported");
      this.#source = source || {};
      this.#highWater = strategy?.highWaterMark ?? 1;
      const self = this;
      const controller = {
        get desiredSize() { return self.#state === "errored" ? null : self.#state === "closed" ? 0 : self.#highWater - self.#queue.length; },
        enqueue(chunk) {
          if (self.#state !== "readable" || self.#closing) throw new TypeError("The stream is closed");
          if (self.#waiting.length) self.#waiting.shift().resolve({ value: chunk, done: false });
          else self.#queue.push(chunk);
          self.#pull();
        },
        close() {
          if (self.#state !== "readable" || self.#closing) throw new TypeError("The stream is closed");
          self.#closing = true;
          if (!self.#queue.length) self.#finish();
        },
        error(e) { self.#fail(e); },
      };
      this.#controller = controller;
      const started = this.#source.start ? this.#source.start(controller) : undefined;
      this.#started = Promise.resolve(started).then(() => { this.#ready = true; this.#pull(); }, (e) => this.#fail(e));
    }
    #controller; #closing = false; #ready = false; #closed = Promise.withResolvers(); 
    #finish() {
      this.#state = "closed";
      for (const w of this.#waiting.splice(0)) w.resolve({ value: undefined, done: true });
      this.#closed.resolve();
    }
    #fail(e) {
      if (this.#state !== "readable") return;
      this.#state = "errored";
      this.#error = e;
      this.#queue = [];
      for (const w of this.#waiting.splice(0)) w.reject(e);
      this.#closed.promise.catch(() => {});
      this.#closed.reject(e);
    }
    #pull() {
      if (!this.#ready || this.#state !== "readable" || this.#closing || !this.#source.pull) return;
      if (!this.#waiting.length && this.#queue.length >= this.#highWater) return;
      if (this.#pulling) { this.#again = true; return; }
      this.#pulling = true;
      Promise.resolve().then(() => this.#source.pull(this.#controller)).then(() => {
        this.#pulling = false;
        if (this.#again) { this.#again = false; this.#pull(); }
      }, (e) => this.#fail(e));
    }
    get locked() { return this.#reader !== null; }
    #read() {
      this.#disturbed = true;
      if (this.#queue.length) {
        const value = this.#queue.shift();
        if (this.#closing && !this.#queue.length) this.#finish(); else this.#pull();
        return Promise.resolve({ value, done: false });
      }
      if (this.#state === "closed") return Promise.resolve({ value: undefined, done: true });
      if (this.#state === "errored") return Promise.reject(this.#error);
      const w = Promise.withResolvers();
      this.#waiting.push(w);
      this.#pull();
      return w.promise;
    }
    async #cancel(reason) {
      this.#disturbed = true;
      if (this.#state === "errored") throw this.#error;
      if (this.#state === "closed") return;
      this.#queue = [];
      this.#finish();
      if (this.#source.cancel) await this.#source.cancel(reason);
    }
    getReader(options) {
      if (options?.mode !== undefined) throw new TypeError("getReader: byte readers are not supported");
      if (this.#reader) throw new TypeError("The stream is locked to a reader");
      const stream = this;
      const check = (r) => { if (stream.#reader !== r) throw new TypeError("The reader was released"); };
      const reader = {
        async read() { check(reader); return stream.#read(); },
        async cancel(reason) { check(reader); return stream.#cancel(reason); },
        releaseLock() { if (stream.#reader === reader) stream.#reader = null; },
        get closed() { return stream.#closed.promise; },
      };
      this.#reader = reader;
      return reader;
    }
    async cancel(reason) {
      if (this.#reader) throw new TypeError("The stream is locked to a reader");
      return this.#cancel(reason);
    }
    values(options) {
      const reader = this.getReader(), keep = !!options?.preventCancel;
      return {
        async next() {
          const r = await reader.read();
          if (r.done) reader.releaseLock();
          return r;
        },
        async return(value) {
          if (!keep) await reader.cancel(value);
          reader.releaseLock();
          return { value, done: true };
        },
        [Symbol.asyncIterator]() { return this; },
      };
    }
    [Symbol.asyncIterator](options) { return this.values(options); }
    tee() {
      const reader = this.getReader(), outs = [];
      const pull = async () => {
        const { value, done } = await reader.read();
        for (const c of outs) if (done) c.close(); else c.enqueue(value);
      };
      let pulling = null;
      const source = { start(c) { outs.push(c); }, pull() { return pulling ??= pull().finally(() => { pulling = null; }); }, cancel() {} };
      return [new ReadableStream(source), new ReadableStream(source)];
    }
    static from(items) {
      const iterator = items[Symbol.asyncIterator] ? items[Symbol.asyncIterator]() : items[Symbol.iterator]();
      return new ReadableStream({
        async pull(c) {
          const r = await iterator.next();
          if (r.done) c.close(); else c.enqueue(await r.value);
        },
        async cancel(reason) { await iterator.return?.(reason); },
      }, { highWaterMark: 0 });
    }
    static disturbed(stream) { return stream.#disturbed; }
    get [Symbol.toStringTag]() { return "ReadableStream"; }
  }
  const disturbed = ReadableStream.disturbed;
  delete ReadableStream.disturbed;

  // body is null, a Uint8Array, or a ReadableStream.
  function extract(body) {
    if (body === null || body === undefined) return { bytes: null, type: null };
    if (body instanceof ReadableStream) {
      if (body.locked || disturbed(body)) throw new TypeError("The body is locked or was read already");
      return { bytes: body, type: null };
    }
    if (body instanceof ArrayBuffer) return { bytes: new Uint8Array(body.slice(0)), type: null };
    if (ArrayBuffer.isView(body)) return { bytes: new Uint8Array(body.buffer.slice(body.byteOffset, body.byteOffset + body.byteLength)), type: null };
    if (body instanceof URLSearchParams) return { bytes: host.encode(body.toString()), type: "application/x-www-form-urlencoded;charset=UTF-8" };
    return { bytes: host.encode(String(body)), type: "text/plain;charset=UTF-8" };
  }
  class Body {
    #bytes = null; #used = false; #stream = null;
    setBody(key, bytes) { if (key === host) this.#bytes = bytes; }
    takeBody(key) { return key === host ? [this.#bytes, this.#stream] : undefined; }
    get body() {
      if (this.#bytes === null) return null;
      if (this.#bytes instanceof ReadableStream) return this.#bytes;
      if (!this.#stream) {
        const bytes = this.#bytes, used = this.#used;
        this.#stream = new ReadableStream({ start(c) { if (!used && bytes.length) c.enqueue(bytes); c.close(); } });
      }
      return this.#stream;
    }
    get bodyUsed() {
      const stream = this.#bytes instanceof ReadableStream ? this.#bytes : this.#stream;
      return this.#used || (stream !== null && disturbed(stream));
    }
    async #consume() {
      if (this.bodyUsed) throw new TypeError("Body is unusable: it has already been read");
      const stream = this.#bytes instanceof ReadableStream ? this.#bytes : this.#stream;
      if (stream?.locked) throw new TypeError("Body is unusable: it is locked");
      if (this.#bytes === null) return new Uint8Array(0);
      this.#used = true;
      return stream ? readAll(stream) : this.#bytes;
    }
    async arrayBuffer() { const b = await this.#consume(); return b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength); }
    async bytes() { return new Uint8Array(await this.arrayBuffer()); }
    async text() { return host.decodeText(await this.#consume()); }
    async json() { return JSON.parse(await this.text()); }
    clone() {
      if (this.bodyUsed || this.body?.locked) throw new TypeError("Body is unusable: it has already been read");
      let bytes = this.#bytes;
      if (bytes instanceof ReadableStream) [this.#bytes, bytes] = bytes.tee();
      return [this, bytes];
    }
  }
  async function readAll(stream) {
    const parts = [];
    let size = 0;
    const reader = stream.getReader();
    for (let r = await reader.read(); !r.done; r = await reader.read()) {
      const part = typeof r.value === "string" ? host.encode(r.value) : r.value;
      if (!ArrayBuffer.isView(part)) throw new TypeError("The body stream holds a chunk that is not a Uint8Array");
      size += part.byteLength;
      if (size > host.maxBody) throw new TypeError("The body is larger than " + host.maxBody + " bytes");
      parts.push(part);
    }
    return host.concat(parts);
  }
  const { setBody, takeBody, clone: split } = Body.prototype;
  delete Body.prototype.setBody;
  delete Body.prototype.takeBody;
  delete Body.prototype.clone;

  class Request extends Body {
    #url; #method; #headers; #redirect; #signal;
    constructor(input, init = {}) {
      super();
      const from = input instanceof Request ? input : null;
      init = init || {};
      this.#url = from ? from.url : host.parseURL(String(input));
      this.#method = host.method(String(init.method ?? from?.method ?? "GET"));
      this.#headers = new Headers(init.headers ?? from?.headers);
      this.#redirect = String(init.redirect ?? from?.redirect ?? "follow");
      if (!["follow", "manual", "error"].includes(this.#redirect)) throw new TypeError(`Request: redirect must be "follow", "manual" or "error", not ${JSON.stringify(this.#redirect)}`);
      this.#signal = init.signal ?? from?.signal ?? new AbortController().signal;
      if (init.body !== undefined && init.body !== null) {
        if (this.#method === "GET" || this.#method === "HEAD") throw new TypeError("Request with GET/HEAD method cannot have a body");
        const { bytes, type } = extract(init.body);
        setBody.call(this, host, bytes);
        if (type && !this.#headers.has("content-type")) this.#headers.set("content-type", type);
      } else if (from) {
        if (from.bodyUsed) throw new TypeError("Body is unusable: it has already been read");
        setBody.call(this, host, takeBody.call(from, host)[0]);
      }
    }
    get url() { return this.#url; }
    get method() { return this.#method; }
    get headers() { return this.#headers; }
    get redirect() { return this.#redirect; }
    get signal() { return this.#signal; }
    clone() { const [, bytes] = split.call(this); const copy = new Request(this.#url, { method: this.#method, headers: this.#headers, redirect: this.#redirect, signal: this.#signal }); setBody.call(copy, host, bytes); return copy; }
    get [Symbol.toStringTag]() { return "Request"; }
  }

  const nullBody = [101, 204, 205, 304];
  class Response extends Body {
    #status; #statusText; #headers; #url = ""; #redirected = false; #type = "default";
    constructor(body, init = {}) {
      super();
      init = init || {};
      this.#status = init.status === undefined ? 200 : Math.trunc(Number(init.status));
      if (!(this.#status >= 200 && this.#status <= 599) && this.#status !== 101) throw new RangeError("Response: the status must be 101 or lie between 200 and 599");
      this.#statusText = String(init.statusText ?? "");
      this.#headers = new Headers(init.headers);
      const { bytes, type } = extract(body);
      if (bytes !== null && nullBody.includes(this.#status)) throw new TypeError("Response with status " + this.#status + " cannot have a body");
      setBody.call(this, host, bytes);
      if (type && !this.#headers.has("content-type")) this.#headers.set("content-type", type);
    }
    get status() { return this.#status; }
    get statusText() { return this.#statusText; }
    get ok() { return this.#status >= 200 && this.#status <= 299; }
    get headers() { return this.#headers; }
    get url() { return this.#url; }
    get redirected() { return this.#redirected; }
    get type() { return this.#type; }
    clone() { const [, bytes] = split.call(this); return make(bytes, this.#status, this.#statusText, this.#headers, this.#url, this.#redirected, this.#type); }
    static make(bytes, status, statusText, headers, url, redirected, type) {
      const r = new Response(null, { status: 200, headers });
      setBody.call(r, host, bytes);
      r.#status = status; r.#statusText = statusText; r.#url = url; r.#redirected = redirected; r.#type = type;
      return r;
    }
    static json(data, init = {}) {
      const text = JSON.stringify(data);
      if (text === undefined) throw new TypeError("Response.json: the value has no JSON form");
      const headers = new Headers(init?.headers);
      if (!headers.has("content-type")) headers.set("content-type", "application/json");
      return new Response(text, { ...init, headers });
    }
    static error() { return make(null, 0, "", [], "", false, "error"); }
    static redirect(url, status = 302) {
      if (![301, 302, 303, 307, 308].includes(status)) throw new RangeError("Response.redirect: the status must be a redirect");
      return new Response(null, { status, headers: { location: host.parseURL(String(url)) } });
    }
    get [Symbol.toStringTag]() { return "Response"; }
  }
  const make = Response.make;
  delete Response.make;

  async function fetch(input, init) {
    const request = new Request(input, init);
    const signal = request.signal;
    signal.throwIfAborted();
    let body = null;
    if (request.body !== null) body = await request.bytes();
    signal.throwIfAborted();
    const abort = Promise.withResolvers();
    const onAbort = () => abort.reject(signal.reason);
    signal.addEventListener("abort", onAbort, { once: true });
    const [done, cancel] = host.exchange(request.method, request.url, [...request.headers], body, request.redirect);
    try {
      const r = await Promise.race([done, abort.promise]);
      const bytes = nullBody.includes(r.status) || request.method === "HEAD" ? null : r.body;
      return make(bytes, r.status, r.statusText, r.headers, r.url, r.redirected, "basic");
    } catch (e) {
      cancel();
      throw e;
    } finally { signal.removeEventListener("abort", onAbort); }
  }
  return { Headers, ReadableStream, Request, Response, fetch };
})
