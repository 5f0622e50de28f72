// An agent that uses a package from npm. agentd puts packages into the bundle when it
// deploys; the server never installs anything.
//
//   (cd examples/npm && npm install --no-package-lock)
//   agentd deploy examples/npm/reminder.ts
//   agentd call Reminder/me remind '"2s"' '"stretch"'   → {"text":"stretch","in":"2 seconds"}
//   agentd state Reminder/me                            → {"rung":["stretch"]}, two seconds later
import { Agent, callable } from "agents";
import ms from "ms";

type State = { rung: string[] };

export class Reminder extends Agent<Cloudflare.Env, State> {
  initialState: State = { rung: [] };

  /** Rings once after a time such as "2s", "5 minutes" or "1d". */
  @callable()
  async remind(after: string, text: string) {
    const delay = ms(after as ms.StringValue);
    if (delay === undefined || delay < 1000) {
      throw new RangeError(`"${after}" is not a time of a second or more: try "2s" or "5 minutes"`);
    }
    // A schedule is a row in the agent's database: it rings after a restart too, and the
    // agent need not stay in memory until then.
    await this.schedule(Math.round(delay / 1000), "ring", { text });
    return { text, in: ms(delay, { long: true }) };
  }

  /** The schedule's callback, named in remind. */
  ring({ text }: { text: string }): void {
    this.setState({ rung: [...this.state.rung, text] });
  }
}
