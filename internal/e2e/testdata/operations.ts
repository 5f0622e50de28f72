// The two operations that my-agent.ts leaves to its surroundings.
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

export async function expensiveOperation(): Promise<string> {
  await pause(50);
  return "step one";
}

export async function anotherExpensiveOperation(step1: unknown): Promise<string> {
  await pause(700);
  return `${step1}, step two`;
}
