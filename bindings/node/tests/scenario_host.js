"use strict";

// A program with an engine in it, for tests/suite/src/bin/scenarios_on.rs, which says what a line is.

const fs = require("node:fs");
const { promisify } = require("node:util");
const klatch = require("klatch");

const PATIENCE = 60_000;
let engine;
let hooked;
let subscriptions = new Map();
let events = [];
let heard = () => {};
let errors = [];
/** Whether the program is busy with something else between two lines, so that events are not read. */
let busy = false;

const never = () => new Promise(() => {});

/** What hooks do is written in what they are asked. Half of them are async functions. */
function odd(word) {
  if (word === "throw") throw new Error("a hook of a scenario fails on purpose");
  if (word === "never") return never();
  return undefined;
}

const hooks = {
  onConnect({ token, user }) {
    if (token === "") return user;
    if (token === "deny") throw new klatch.Deny("no entry");
    return token.startsWith("user:") ? token.slice("user:".length) : odd(token);
  },
  async onJoin({ room }) {
    const word = room.split("-")[0];
    if (word === "deny") return new klatch.Deny("not this room");
    return ["throw", "never", "drop"].includes(word) ? odd(word) : true;
  },
  onPublish({ raw }) {
    if (raw === '"deny"') throw new klatch.Deny("not this message");
    if (raw === '"replace"') return new klatch.Replace({ replaced: true });
    if (raw === '"replace bytes"') return new klatch.Replace(Buffer.from("replaced"));
    const words = { '"never"': "never", '"throw"': "throw", '"drop"': "drop" };
    return typeof raw === "string" && raw in words ? odd(words[raw]) : true;
  },
};

const offset = (given) => (typeof given === "string" ? BigInt(given) : given);
const message = ({ room, user, id, json, bytes }) => ({
  room,
  user,
  id,
  data: bytes === undefined ? new klatch.Json(json) : Buffer.from(bytes, "base64"),
});
const data = (given) => (given.json === undefined ? undefined : new klatch.Json(given.json));
const ack = ({ epoch, offset, id, duplicate }) => ({ epoch, offset, id, duplicate });

function failure(error) {
  if (!(error instanceof klatch.KlatchError)) throw error;
  return { error: { code: error.code, name: error.name, retry: error.retry } };
}

function publication(p) {
  const { data, ...rest } = p.isBytes ? { ...p.toJSON() } : { ...p.toJSON(), raw: p.raw };
  return rest;
}

async function within(promise, ms) {
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(resolve, ms, "late")));
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** The next publications, or "late". A read that nothing has come for in time goes on: what comes then is the next one's. */
async function read(name, most, ms) {
  const subscription = subscriptions.get(name);
  subscription.read ??= subscription.it.batch(most);
  try {
    const got = await within(subscription.read, ms);
    if (got !== "late") subscription.read = undefined;
    return got;
  } catch (error) {
    subscription.read = undefined;
    throw error;
  }
}

const verbs = {
  async start(settings, asked) {
    engine = new klatch.Engine({ ...settings, ...(asked ? hooks : {}) });
    hooked = asked;
    engine.on("error", (error) => errors.push(error));
    await engine.start();
    return engine.addresses[0];
  },

  async stop() {
    await engine.stop();
    return null;
  },

  async reset() {
    await engine?.stop();
    for (const { it } of subscriptions.values()) it.close();
    subscriptions = new Map();
    [events, errors, busy] = [[], [], false];
    return null;
  },

  async publish(given) {
    const { room, data, ...options } = message(given);
    return ack(await engine.publish(room, data, options));
  },

  async publish_batch(messages) {
    const outcomes = await engine.publishBatch(messages.map(message));
    return outcomes.map((outcome) => (outcome instanceof klatch.Ack ? ack(outcome) : failure(outcome)));
  },

  async subscribe(name, { room, since, epoch, history }) {
    const from = since === undefined ? undefined : epoch === undefined ? offset(since) : { epoch, offset: offset(since) };
    const it = await engine.subscribe(room, { since: from, history }).open();
    subscriptions.set(name, { it });
    return { recovered: it.recovered, ...it.position };
  },

  async next(name, count) {
    const all = [];
    while (all.length < count) {
      const batch = await read(name, count - all.length, PATIENCE);
      if (batch === "late" || batch.length === 0) throw new Error(`no more came than ${JSON.stringify(all)}`);
      all.push(...batch.map(publication));
    }
    return all;
  },

  async next_nothing(name) {
    const got = await read(name, 1, 10);
    if (got !== "late") throw new Error(`came: ${JSON.stringify(got)}`);
    return null;
  },

  async next_ended(name) {
    try {
      const got = await read(name, 1, PATIENCE);
      if (got.length !== 0) throw new Error(`it has not ended: ${JSON.stringify(got)}`);
      return engine.health === "stopped" ? "stopped" : "closed";
    } catch (error) {
      if (error instanceof klatch.SubscriptionEnded) return error.why;
      throw error;
    }
  },

  async history({ room, after, before, limit, backward, at_least }) {
    const given = (n) => (n === undefined ? undefined : offset(n));
    const range = { after: given(after), before: given(before), atLeast: given(at_least) };
    const page = await engine.history(room, { ...range, limit: limit === undefined ? undefined : Number(limit), backward });
    const { epoch, more, last } = page;
    return { epoch, publications: page.publications.map(publication), more, last };
  },

  presence(room) {
    const { count, users, truncated } = engine.presence(room);
    return { count, users, ...(truncated ? { truncated } : {}) };
  },

  signal(given) {
    engine.signal(given.room, given.name, data(given), { user: given.user });
    return null;
  },

  send(given) {
    engine.send(given.connection, given.name, data(given));
    return null;
  },

  kick(given) {
    engine.kick(given);
    return null;
  },

  events() {
    events = [];
    // Hooks would not be answered.
    busy = !hooked;
    for (const type of ["connected", "disconnected", "joined", "left", "storage", "lost"]) {
      engine.on(type, ({ address, ...rest }) => {
        events.push({ type, ...rest });
        heard();
      });
    }
    return null;
  },

  async event() {
    const until = Date.now() + PATIENCE;
    while (events.length === 0) {
      if ((await within(new Promise((resolve) => (heard = resolve)), until - Date.now())) === "late") {
        throw new Error("no event came");
      }
    }
    return events.shift();
  },
};

const readLater = promisify(fs.read);
const chunk = Buffer.alloc(65_536);

async function* lines() {
  let rest = "";
  for (;;) {
    const n = busy ? fs.readSync(0, chunk) : (await readLater(0, chunk)).bytesRead;
    if (n === 0) return;
    const all = (rest + chunk.toString("latin1", 0, n)).split("\n");
    rest = all.pop();
    for (const line of all) yield Buffer.from(line, "latin1").toString();
  }
}

async function main() {
  for await (const line of lines()) {
    const [verb, ...args] = JSON.parse(line);
    let answer;
    try {
      answer = await verbs[verb](...args);
    } catch (error) {
      answer = error instanceof klatch.KlatchError ? failure(error) : { error: String(error?.stack ?? error) };
    }
    process.stdout.write(`${JSON.stringify(answer)}\n`);
  }
  await verbs.reset();
}

main();
