// Base classes of cloudflare:workers that agents seldom use, the error class of
// cloudflare:workflows, and what of agents needs regular expressions, whose
// prototype costs an isolate 16 KB.
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

function camelCaseToKebabCase(text) {
  if (text === text.toUpperCase() && text !== text.toLowerCase()) return text.toLowerCase().replace(/_/g, "-");
  return text.replace(/[A-Z]/g, (c) => "-" + c.toLowerCase()).replace(/^-/, "").replace(/_/g, "-").replace(/-$/, "");
}

return { exports: { RpcTarget, WorkerEntrypoint, NonRetryableError, camelCaseToKebabCase } };
})
