// Work that survives a crash.
//
//   agentd deploy examples/research/research.ts
//   agentd call Research/cats start '"why do cats purr"'     returns at once
//   agentd call Research/cats report                         how far it is
//
// Kill the server while it works (kill -9), start it again, and call report: the
// work went on by itself. No finished operation ran again; only the one that was
// cut short did.
import { Agent, callable } from "agents";
import type { AgentContext, FiberRecoveryContext } from "agents";

type State = {
  phase: "idle" | "searching" | "reading" | "summarizing" | "done" | "failed";
  topic: string | null;
  result: string | null;
};

/** What the work has achieved so far. It is stashed after every operation. */
type Progress = { topic: string; sources?: string[]; notes?: string[] };

const FIBER = "research";

export class Research extends Agent<Cloudflare.Env, State> {
  initialState: State = { phase: "idle", topic: null, result: null };

  // Whether a fiber of this instance is at work. Lives in memory on purpose: after a
  // crash it is false again, and so is the truth.
  #working = false;

  constructor(ctx: AgentContext, env: Cloudflare.Env) {
    super(ctx, env);
    // Here and not in onStart: onFiberRecovered runs first and needs the tables.
    this.sql`CREATE TABLE IF NOT EXISTS operations (name TEXT PRIMARY KEY, runs INTEGER NOT NULL, lastStartedAt INTEGER NOT NULL)`;
    this.sql`CREATE TABLE IF NOT EXISTS timeline (at INTEGER NOT NULL, event TEXT NOT NULL)`;
  }

  /** Starts the work and returns without waiting for it. */
  @callable()
  start(topic: string): { started: string } {
    if (typeof topic !== "string" || topic.trim() === "") {
      throw new TypeError(`start takes a topic, for example '"why do cats purr"'`);
    }
    if (this.#working) {
      throw new Error(`already working on "${this.state.topic}": call report to see how far it is`);
    }
    this.sql`DELETE FROM operations`;
    this.sql`DELETE FROM timeline`;
    this.#note("started");
    this.setState({ phase: "searching", topic, result: null });
    this.#launch({ topic });
    return { started: topic };
  }

  /** How far the work is, how often each operation ran, and what happened when. */
  @callable()
  report() {
    return {
      ...this.state,
      operations: this.sql`SELECT name, runs, lastStartedAt FROM operations ORDER BY lastStartedAt`,
      timeline: this.sql`SELECT at, event FROM timeline ORDER BY at, rowid`,
      now: Date.now(),
    };
  }

  /**
   * Called after a restart for a fiber that was under way when the process ended,
   * before any call is answered and without anybody calling.
   */
  async onFiberRecovered(ctx: FiberRecoveryContext): Promise<void> {
    if (ctx.name !== FIBER || this.#working) return;
    this.#note("recovery began");
    // No snapshot: it ended before the first operation was through, and the state
    // still knows the topic.
    const progress = (ctx.snapshot as Progress | null) ?? { topic: this.state.topic ?? "" };
    // The rest is a fiber again, so that a second crash loses nothing either. It is
    // not awaited: the agent answers calls while it works.
    this.#launch(progress);
  }

  /** Does what progress leaves to be done, in a fiber, in the background. */
  #launch(progress: Progress): void {
    this.#working = true;
    // runFiber writes down that the fiber exists before it returns; the row, the
    // state above and the first stash are saved together or not at all.
    this.runFiber(FIBER, async (ctx) => {
      ctx.stash(progress);
      if (!progress.sources) {
        this.setState({ ...this.state, phase: "searching" });
        progress = { ...progress, sources: await this.#operation("search", () => search(progress.topic)) };
        ctx.stash(progress);
      }
      if (!progress.notes) {
        this.setState({ ...this.state, phase: "reading" });
        progress = { ...progress, notes: await this.#operation("read", () => read(progress.sources!)) };
        ctx.stash(progress);
      }
      this.setState({ ...this.state, phase: "summarizing" });
      const result = await this.#operation("summarize", () => summarize(progress.topic, progress.notes!));
      this.#working = false;
      this.#note("done");
      this.setState({ ...this.state, phase: "done", result });
    }).catch((error: unknown) => {
      // A fiber that throws has ended: it is not recovered and not tried again.
      this.#working = false;
      this.#note("failed");
      this.setState({ ...this.state, phase: "failed", result: String(error) });
    });
  }

  /** Counts a run before it begins: the count is stored even if the run is cut short. */
  #operation<T>(name: string, run: () => Promise<T>): Promise<T> {
    this.sql`INSERT INTO operations (name, runs, lastStartedAt) VALUES (${name}, 1, ${Date.now()})
      ON CONFLICT (name) DO UPDATE SET runs = runs + 1, lastStartedAt = excluded.lastStartedAt`;
    this.#note(name);
    return run();
  }

  #note(event: string): void {
    this.sql`INSERT INTO timeline (at, event) VALUES (${Date.now()}, ${event})`;
  }
}

// Three slow operations. A real agent would ask a search engine and a model here; these
// only take their time. An operation may be cut short and run again, so it should do no
// harm when it runs twice.

async function search(topic: string): Promise<string[]> {
  await pause(700);
  return [1, 2, 3].map((n) => `https://example.com/${encodeURIComponent(topic)}/${n}`);
}

async function read(sources: string[]): Promise<string[]> {
  await pause(2000);
  return sources.map((source, i) => `note ${i + 1} from ${source}`);
}

async function summarize(topic: string, notes: string[]): Promise<string> {
  await pause(1200);
  return `${topic}: ${notes.length} notes say that it depends`;
}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}
