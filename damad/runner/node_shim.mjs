// Runs the `main` of a worker on Node.js, for damad/runner/node.py: node node_shim.mjs WORKER CALLS ANSWERS
//
// CALLS and ANSWERS are the numbers of two pipes; one line of JSON is one message.
//   comes: first {initial_event, context, dsn, debug}, then {answer, value} or {answer, error: {name, message, values}}
//   goes:  {call, name, arguments}, and once one of {returned}, {bad_result}, {thrown}, {not_loaded}
// What goes is written at once, so that it is there however the process ends.
import { closeSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import { basename } from "node:path";
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";
import { inspect } from "node:util";

const DEEPEST = 64; // as damad/model/json_value.py has it
const [worker, calls, answers] = process.argv.splice(2);
const pending = new Map();
const incoming = new Socket({ fd: Number(answers), readable: true, writable: false });
const lines = createInterface({ input: incoming, crlfDelay: Infinity });
let stage = "loading"; // then "running", then "over"
let lastCall = 0;

class NoRetry extends Error {
  name = "NoRetry";
}

class RetryIn extends Error {
  name = "RetryIn";
  constructor(seconds) {
    super(`try again in ${seconds} s`);
    this.seconds = seconds;
  }
}

class Snooze extends Error {
  name = "Snooze";
  constructor(seconds) {
    super(`run again in ${seconds} s`);
    this.seconds = seconds;
  }
}

// Throws TypeError for what JSON has no word for, which JSON.stringify would write as null, as {} or not at all.
function check(value, way, above) {
  const refuse = (what) => {
    throw new TypeError(`${what} at ${way || "the top"}`);
  };
  if (value === null || typeof value === "string" || typeof value === "boolean") return;
  if (typeof value === "number") return Number.isFinite(value) ? undefined : refuse(`${value}, which is no JSON number,`);
  if (typeof value !== "object") refuse(`a ${typeof value}, which JSON does not have,`);
  if (above.includes(value)) refuse("a cycle");
  if (above.length >= DEEPEST) refuse(`nesting deeper than ${DEEPEST}`);
  const inside = [...above, value];
  const { prototype } = Object;
  if (Array.isArray(value)) {
    for (let place = 0; place < value.length; place++) check(value[place], `${way}/${place}`, inside);
  } else if (typeof value.toJSON === "function" && !ArrayBuffer.isView(value)) {
    const plain = value.toJSON();
    if (plain === null) refuse(`a ${value.constructor?.name ?? "thing"} that is none`); // new Date("never")
    check(plain, way, inside);
  } else if ([prototype, null].includes(Object.getPrototypeOf(value))) {
    for (const [key, item] of Object.entries(value)) {
      if (item !== undefined) check(item, `${way}/${key}`, inside);
    }
  } else {
    refuse(`a ${value.constructor?.name ?? "thing"}, which JSON does not have,`);
  }
}

function say(message) {
  const text = Buffer.from(`${JSON.stringify(message)}\n`);
  for (let written = 0; written < text.length; ) written += writeSync(Number(calls), text, written);
}

function call(name, ...given) {
  check(given, "", []);
  const number = ++lastCall;
  return new Promise((resolve, reject) => {
    pending.set(number, { resolve, reject });
    incoming.ref(); // who waits for an answer keeps the process alive, and nothing else of this file does
    say({ call: number, name, arguments: given });
  });
}

function answered({ answer, value, error }) {
  const { resolve, reject } = pending.get(answer);
  pending.delete(answer);
  if (pending.size === 0) incoming.unref();
  if (error === undefined) return resolve(value);
  const { name, message, values } = error;
  return reject(Object.assign(new Error(message), { name, values }));
}

function described(error) {
  try {
    const isError = error instanceof Error;
    const shown = inspect(error).split("\n");
    return {
      name: isError ? String(error.name || error.constructor.name) : `a ${typeof error}`,
      message: isError ? String(error.message) : shown.join("\n"),
      stack: shown.filter((line) => !line.includes(import.meta.url)).join("\n"),
    };
  } catch {
    return { name: "Error", message: "(what was thrown cannot be shown)", stack: null };
  }
}

function failed(error) {
  if (stage === "loading") {
    say({ not_loaded: described(error) });
  } else if (stage === "running") {
    const retry_in = error instanceof RetryIn ? error.seconds : null;
    const snooze = error instanceof Snooze ? error.seconds : null;
    say({ thrown: { ...described(error), retryable: !(error instanceof NoRetry), retry_in, snooze } });
  }
  stage = "over";
}

function returned(value) {
  try {
    check(value ?? null, "", []);
    say({ returned: value ?? null });
  } catch (error) {
    say({ bad_result: described(error).message });
  }
  stage = "over";
}

async function load() {
  if (worker.endsWith(".ts") && !process.features.typescript) {
    throw new Error(`Node.js runs TypeScript from version 22.18 on, and ${process.execPath} is ${process.version}`);
  }
  const module = await import(pathToFileURL(worker));
  const main = module.default?.default ?? module.default; // the second where a compiler made CommonJS of a module
  if (typeof main !== "function") throw new Error(`${basename(worker)} exports no default function`);
  return main;
}

async function run({ initial_event, context, dsn, debug }) {
  const damad = {
    context,
    dsn,
    dispatch: (event) => call("dispatch", event),
    read: () => call("read"),
    progress: (fraction, note = null) => call("progress", fraction, note),
    heartbeat: () => call("heartbeat"),
    noRetry: (message) => new NoRetry(message),
    retryIn: (seconds) => new RetryIn(seconds),
    snooze: (seconds) => new Snooze(seconds),
  };
  try {
    const main = await load();
    stage = "running";
    if (debug) debugger; // the next step is main
    returned(await main(initial_event, damad));
  } catch (error) {
    failed(error);
  }
  process.exit();
}

process.on("uncaughtExceptionMonitor", (error) => {
  if (process.listenerCount("uncaughtException") === 0) failed(error);
});
process.on("beforeExit", () => {
  failed(new Error("nothing is left that could settle what is awaited"));
});
process.on("exit", (code) => {
  if (stage === "loading") failed(new Error(`it ended the process while it was loaded, with exit code ${code}`));
});
lines.once("line", (first) => {
  incoming.unref();
  lines.on("line", (line) => answered(JSON.parse(line)));
  run(JSON.parse(first));
});
lines.on("close", () => process.kill(process.pid, "SIGKILL")); // damad's own process is gone
