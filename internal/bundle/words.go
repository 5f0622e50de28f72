package bundle

import "strings"

// Sets of words that the language and the platform fix.
var (
	// reserved words cannot be exported by their name.
	reserved = words(`arguments await break case catch class const continue debugger default delete do else enum eval
		export extends false finally for function if implements import in instanceof interface let new null package
		private protected public return static super switch this throw true try typeof var void while with yield`)

	// builtins are constructors that a helper class may extend; such a class is no agent.
	builtins = words(`null Object Function Array Map Set WeakMap WeakSet WeakRef Promise Proxy Date RegExp String Number
		Boolean Symbol BigInt ArrayBuffer SharedArrayBuffer DataView Int8Array Uint8Array Uint8ClampedArray Int16Array
		Uint16Array Int32Array Uint32Array Float32Array Float64Array BigInt64Array BigUint64Array
		Error EvalError RangeError ReferenceError SyntaxError TypeError URIError AggregateError DOMException
		Event CustomEvent EventTarget AbortController AbortSignal Headers Request Response Blob File FormData URL
		URLSearchParams TextEncoder TextDecoder ReadableStream WritableStream TransformStream WebSocket`)

	// notAgents are classes of the platform's modules that an agent does not extend.
	notAgents = words(`agents#SqlError agents#StreamingResponse cloudflare:workers#RpcTarget
		cloudflare:workers#WorkerEntrypoint cloudflare:workers#WorkflowEntrypoint cloudflare:workflows#NonRetryableError
		node:async_hooks#AsyncLocalStorage node:async_hooks#AsyncResource node:events#EventEmitter events#EventEmitter`)

	// provided are the platform's modules that exist; more may be named in code.
	provided = words(`agents cloudflare:workers cloudflare:workflows node:async_hooks node:crypto node:events`)

	// nodeModules are Node's built-in modules by their bare name.
	nodeModules = words(`assert async_hooks buffer child_process cluster console constants crypto dgram diagnostics_channel
		dns domain events fs http http2 https inspector module net os path perf_hooks process punycode querystring readline
		repl stream string_decoder sys timers tls trace_events tty url util v8 vm wasi worker_threads zlib`)
)

func words(text string) map[string]bool {
	set := map[string]bool{}
	for _, w := range strings.Fields(text) {
		set[w] = true
	}
	return set
}
