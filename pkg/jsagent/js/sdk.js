// What stands beside the class Agent in the module agents.
(function (host, core, glue) {
"use strict";

class SqlError extends Error {
  constructor(query, cause) {
    super("SQL query failed: " + (cause instanceof Error ? cause.message : String(cause)), { cause });
    this.query = query;
  }
}
Object.defineProperty(SqlError.prototype, "name", { value: "SqlError", configurable: true, writable: true });

// Keyed by the function itself: an override without the decorator is not callable.
const callableMetadata = new WeakMap();

function callable(metadata = {}) {
  return function (target, _context) {
    if (typeof target === "function" && !callableMetadata.has(target)) callableMetadata.set(target, metadata);
    return target;
  };
}

class StreamingResponse {
  #connection; #id; #closed = false;
  constructor(connection, id) { this.#connection = connection; this.#id = id; }
  // Also when the reader has gone, so that a loop over it ends.
  get isClosed() {
    if (!this.#closed && this.#connection.gone?.()) this.#closed = true;
    return this.#closed;
  }
  #write(frame) { this.#connection.send(JSON.stringify(frame)); }
  send(chunk) {
    if (this.isClosed) {
      console.warn("StreamingResponse.send() after the stream was closed");
      return false;
    }
    this.#write({ done: false, id: this.#id, result: chunk, success: true, type: "rpc" });
    return true;
  }
  end(finalChunk) {
    if (this.#closed) return false;
    this.#closed = true;
    this.#write({ done: true, id: this.#id, result: finalChunk, success: true, type: "rpc" });
    return true;
  }
  error(message) {
    if (this.#closed) return false;
    this.#closed = true;
    this.#write({ error: message, id: this.#id, success: false, type: "rpc" });
    return true;
  }
}

function messageTypes() {
  const types = { RPC: "rpc" };
  for (const name of ["cf_agent_chat_messages", "cf_agent_use_chat_request", "cf_agent_use_chat_response",
    "cf_agent_chat_clear", "cf_agent_chat_request_cancel", "cf_agent_stream_resuming", "cf_agent_stream_resume_ack",
    "cf_agent_stream_resume_request", "cf_agent_stream_resume_none", "cf_agent_stream_pending", "cf_agent_tool_result",
    "cf_agent_tool_approval", "cf_agent_message_updated", "cf_agent_chat_recovering", "cf_agent_mcp_servers",
    "cf_mcp_agent_event", "cf_agent_state", "cf_agent_state_error", "cf_agent_identity", "cf_agent_session",
    "cf_agent_session_error"]) {
    types[name.toUpperCase()] = name;
  }
  return types;
}

async function getAgentByName(namespace, name, options) {
  if (options?.props !== undefined) throw new Error("getAgentByName() with props is not available in agentd yet");
  const stub = namespace.getByName(name);
  await host.initialise(stub);
  return stub;
}

return {
  callableMetadata,
  isStreaming(method) { return callableMetadata.get(method)?.streaming === true; },
  respond(send, gone) { return new StreamingResponse({ send, gone }, ""); },
  exports: {
    SqlError, StreamingResponse, callable, unstable_callable: callable, getAgentByName,
    DEFAULT_AGENT_STATIC_OPTIONS: glue.defaults,
    get MessageType() { return messageTypes(); },
    getCurrentAgent() { return { agent: host.currentAgent(), connection: undefined, request: undefined, email: undefined }; },
  },
};
})
