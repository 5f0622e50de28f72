// The smallest useful agents: a number that survives everything.
//
//   agentd deploy examples/counter/counter.ts
//   agentd call Counter/visits increment        → 1
//   agentd call Counter/visits increment 41     → 42
//
// "visits" is the agent's name. Every name is an agent of its own, with its own
// state and its own database, and comes into being when it is first used.
import { Agent, callable } from "agents";
import type { AgentContext } from "agents";

type CounterState = { count: number };

/** Keeps its number in the agent's state: one JSON value, saved by setState. */
export class Counter extends Agent<Cloudflare.Env, CounterState> {
  // What this.state is until setState was called for the first time.
  initialState: CounterState = { count: 0 };

  // agentd runs one turn of an agent at a time, so reading and then writing needs no
  // lock. The caller gets the answer only when the new state is safely stored.
  @callable()
  increment(by = 1): number {
    checkStep(by);
    this.setState({ count: this.state.count + by });
    return this.state.count;
  }

  @callable()
  get(): number {
    return this.state.count;
  }
}

/** The same with SQL: every agent has a SQLite database of its own. */
export class SqlCounter extends Agent {
  constructor(ctx: AgentContext, env: Cloudflare.Env) {
    super(ctx, env);
    this.sql`CREATE TABLE IF NOT EXISTS steps (at INTEGER NOT NULL, step REAL NOT NULL)`;
  }

  @callable()
  increment(by = 1): number {
    checkStep(by);
    // ${…} in this.sql becomes a bound parameter, never a part of the statement.
    this.sql`INSERT INTO steps (at, step) VALUES (${Date.now()}, ${by})`;
    return this.get();
  }

  @callable()
  get(): number {
    const [row] = this.sql<{ total: number }>`SELECT coalesce(sum(step), 0) AS total FROM steps`;
    return row.total;
  }
}

function checkStep(by: unknown): void {
  if (typeof by !== "number" || !Number.isFinite(by)) {
    throw new TypeError("increment takes a number, for example 5");
  }
}
