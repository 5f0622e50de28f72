// Base classes of cloudflare:workers that agents seldom use, and the error class of
// cloudflare:workflows.
(function () {
"use strict";

class RpcTarget {}

class WorkerEntrypoint {
  constructor(ctx, env) { this.ctx = ctx; this.env = env; }
}

class NonRetryableError extends Error {
  constructor(message, name = "NonRetryableError") {
    super(message);
    this.name = name;
  }
}

return { exports: { RpcTarget, WorkerEntrypoint, NonRetryableError } };
})
