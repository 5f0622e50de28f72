// Agents that call each other: a room keeps the history, and every member has an
// agent of their own that collects what was said.
//
//   agentd deploy examples/chat-room/room.ts
//   agentd call Room/lobby join '"ada"'
//   agentd call Room/lobby join '"grace"'
//   agentd call Room/lobby say '"ada"' '"hello"'     → {"id":1,"delivered":["ada","grace"],"missed":[]}
//   agentd call Member/grace inbox                   → [{"room":"lobby","id":1,"author":"ada","text":"hello"}]
import { Agent, callable, getAgentByName } from "agents";
import type { AgentContext } from "agents";

type Message = { room: string; id: number; author: string; text: string };

// Every deployed class appears in env under its name: this is how agents find each other.
type Env = { Member: DurableObjectNamespace<Member> };

export class Room extends Agent<Env> {
  constructor(ctx: AgentContext, env: Env) {
    super(ctx, env);
    this.sql`CREATE TABLE IF NOT EXISTS members (name TEXT PRIMARY KEY)`;
    this.sql`CREATE TABLE IF NOT EXISTS messages (id INTEGER PRIMARY KEY AUTOINCREMENT, author TEXT NOT NULL, text TEXT NOT NULL, at INTEGER NOT NULL)`;
  }

  /** Adds a member; joining twice is harmless. Returns who is there. */
  @callable()
  join(name: string): string[] {
    if (!name) throw new TypeError(`join takes a name, for example '"ada"'`);
    this.sql`INSERT OR IGNORE INTO members (name) VALUES (${name})`;
    return this.members();
  }

  @callable()
  members(): string[] {
    return this.sql<{ name: string }>`SELECT name FROM members ORDER BY name`.map((row) => row.name);
  }

  /** Stores a message and gives every member a copy. */
  @callable()
  async say(author: string, text: string) {
    if (!this.members().includes(author)) {
      throw new Error(`${author} has not joined ${this.name}`);
    }
    const [{ id }] = this.sql<{ id: number }>`INSERT INTO messages (author, text, at) VALUES (${author}, ${text}, ${Date.now()}) RETURNING id`;
    const message: Message = { room: this.name, id, author, text };

    // Nothing leaves an agent before what it wrote is safely stored, so no member can
    // get a message that the room would forget. While we wait, the room serves others.
    const members = this.members();
    const results = await Promise.allSettled(
      members.map(async (name) => {
        const member = await getAgentByName(this.env.Member, name);
        await member.deliver(message);
      }),
    );
    return {
      id,
      delivered: members.filter((_, i) => results[i].status === "fulfilled"),
      missed: members.filter((_, i) => results[i].status === "rejected"),
    };
  }

  /** The newest messages, oldest first. */
  @callable()
  history(limit = 20) {
    return this.sql`SELECT * FROM (SELECT id, author, text, at FROM messages ORDER BY id DESC LIMIT ${limit}) ORDER BY id`;
  }
}

export class Member extends Agent<Env> {
  constructor(ctx: AgentContext, env: Env) {
    super(ctx, env);
    this.sql`CREATE TABLE IF NOT EXISTS inbox (room TEXT, id INTEGER, author TEXT, text TEXT, PRIMARY KEY (room, id))`;
  }

  /** Called by rooms. The key makes a second delivery of the same message harmless. */
  deliver(message: Message): void {
    const { room, id, author, text } = message;
    this.sql`INSERT OR IGNORE INTO inbox (room, id, author, text) VALUES (${room}, ${id}, ${author}, ${text})`;
  }

  @callable()
  inbox(): Message[] {
    return this.sql<Message>`SELECT room, id, author, text FROM inbox ORDER BY room, id`;
  }
}
