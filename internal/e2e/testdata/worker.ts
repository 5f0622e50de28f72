import { Agent } from "agents";
import type { FiberRecoveryContext } from "agents";

const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

// Worker's fiber has two stashes; what happened to it is in its tables.
export class Worker extends Agent {
  onStart() {
    this.table();
  }
  table() {
    this.sql`CREATE TABLE IF NOT EXISTS log(id INTEGER PRIMARY KEY, what TEXT)`;
  }
  begin() {
    void this.runFiber("work", async (ctx) => {
      ctx.stash({ step: 1 });
      await pause(600_000);
      ctx.stash({ step: 2 });
    });
    return true;
  }
  async onFiberRecovered(ctx: FiberRecoveryContext) {
    this.table();
    const step = (ctx.snapshot as { step?: number } | null)?.step ?? 0;
    this.sql`INSERT INTO log(what) VALUES(${`recovered ${ctx.name} at ${step}`})`;
  }
  history() {
    return this.sql<{ what: string }>`SELECT what FROM log ORDER BY id`.map((row) => row.what);
  }
}

export class Counter extends Agent {
  onStart() {
    this.sql`CREATE TABLE IF NOT EXISTS total(id INTEGER PRIMARY KEY CHECK (id = 1), n INTEGER)`;
  }
  add() {
    this.sql`INSERT INTO total VALUES(1, 1) ON CONFLICT(id) DO UPDATE SET n = n + 1`;
    return this.total();
  }
  total() {
    return this.sql<{ n: number }>`SELECT n FROM total`[0]?.n ?? 0;
  }
}

// Bad holds the ways in which code can be a bad neighbour.
export class Bad extends Agent {
  ping() {
    return 1;
  }
  forever() {
    for (;;) {}
  }
  promises() {
    const again = (): Promise<void> => Promise.resolve().then(again);
    return again();
  }
  grow() {
    const all: unknown[] = [];
    for (;;) all.push([1, 2, 3, 4, 5, 6, 7, 8]);
  }
  fill() {
    for (;;) new Array(3e7).fill(1);
  }
  search() {
    for (;;) Array.prototype.indexOf.call({ length: 2 ** 32 }, 1);
  }
  regex() {
    return /^(?=(a+)+$)(a+)+$/.test("a".repeat(40) + "!");
  }
  recursion(): unknown {
    return [this.recursion()];
  }
}
