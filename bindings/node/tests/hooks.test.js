"use strict";

const assert = require("node:assert/strict");
const { test } = require("node:test");
const { setTimeout: wait } = require("node:timers/promises");
const { Client, engine, firstError, klatch } = require("./support");

const DENIED = { error: 401 };

async function refused(e, query, code) {
  const client = await Client.connect(e.url, query);
  assert.equal(await client.closed, code);
}

test("who may come in, join and publish", async (t) => {
  const asked = [];
  const e = await engine(t, {
    async onConnect(request) {
      asked.push(request);
      await wait(1);
      if (request.token !== "secret") throw new klatch.Deny("log in first");
      return "ann";
    },
    onJoin: ({ user, room }) => user === "ann" && room !== "cellar",
    onPublish({ data }) {
      if (data === "bytes") return new klatch.Replace(Buffer.from("b"));
      if (data === "tidy ") return new klatch.Replace(data.trim());
      return data === "bad" ? new klatch.Deny("mind your words") : true;
    },
  });
  await refused(e, { token: "wrong" }, 4501);
  const ann = await Client.connect(e.url, { token: "secret", user: "eve", room: "lobby" });
  assert.equal((await ann.until({ type: "welcome" })).user, "ann");
  assert.equal(asked[1].user, "eve");
  assert.match(asked[1].address, /^127\.0\.0\.1:/);
  ann.send({ type: "join", room: "cellar", ref: 1 });
  const no = await ann.until({ type: "error" });
  assert.equal(no.code, DENIED.error);
  const subscription = await e.subscribe("lobby").open();
  for (const data of ["bad", "tidy ", "bytes"]) ann.send({ type: "publish", id: data.trim(), data });
  const refusal = await ann.until({ type: "error" });
  assert.equal(refusal.message, "mind your words");
  assert.deepEqual(
    [...(await subscription.batch(1)), ...(await subscription.batch(1))].map((p) => p.data),
    ["tidy", Buffer.from("b")],
  );
});

test("what a publish hook is asked", async (t) => {
  let asked;
  const e = await engine(t, { onPublish: (request) => ((asked = request), true) });
  const ann = await Client.connect(e.url, { room: "lobby", user: "ann" });
  ann.send({ type: "publish", id: "m1", data: { text: "日本" } });
  await ann.until({ type: "publication" });
  const { connection, user, room, id, data, raw, isBytes } = asked;
  assert.match(connection, /^c/);
  assert.deepEqual(
    { user, room, id, data, raw, isBytes },
    { user: "ann", room: "lobby", id: "m1", data: { text: "日本" }, raw: '{"text":"日本"}', isBytes: false },
  );
  ann.send({ type: "publish", bytes: "AP8=" });
  await ann.until({ type: "publication" });
  assert.deepEqual([asked.data, asked.id, asked.isBytes], [Buffer.of(0, 255), "", true]);
});

const failing = {
  throws: () => {
    throw new Error("on purpose");
  },
  rejects: async () => {
    throw new Error("on purpose");
  },
  "returns nothing": () => undefined,
  "resolves to nothing": async () => {},
  "returns something else": () => 7,
  "returns a thenable that throws": () => ({
    then() {
      throw new Error("on purpose");
    },
  }),
  "returns what has a then that throws when it is read": () => ({
    get then() {
      throw new Error("on purpose");
    },
  }),
  "replaces with no JSON": () => new klatch.Replace(undefined),
};

for (const [how, hook] of Object.entries(failing)) {
  test(`r25: a hook that ${how} fails its request, and is an error event`, async (t) => {
    const e = await engine(t, { onPublish: hook });
    const error = firstError(e);
    const ann = await Client.connect(e.url, { room: "lobby" });
    ann.send({ type: "publish", data: 1, ref: 9 });
    assert.equal((await ann.until({ ref: 9 })).name, "internal");
    assert.ok((await error) instanceof Error);
    assert.equal((await e.publish("lobby", 1)).offset, 1, "nothing was stored");
  });
}

for (const never of [() => new Promise(() => {}), () => ({ then() {} })]) {
  test("r25: a hook that never answers times out", async (t) => {
    const e = await engine(t, { onPublish: never, limits: { hook_timeout_ms: 50 } });
    const error = firstError(e);
    const ann = await Client.connect(e.url, { room: "lobby" });
    ann.send({ type: "publish", data: 1, ref: 9 });
    assert.equal((await ann.until({ ref: 9 })).name, "hook_timeout");
    assert.ok((await error) instanceof klatch.HookTimeout);
  });
}

test("a time for hooks that is longer than any timer is no short one", async (t) => {
  const e = await engine(t, { onPublish: () => new Promise((resolve) => setTimeout(resolve, 20, true)), limits: { hook_timeout_ms: 3e9 } });
  const ann = await Client.connect(e.url, { room: "lobby" });
  for (let n = 0; n < 3; n++) {
    ann.send({ type: "publish", data: n, id: `m${n}` });
    await ann.until({ type: "publication", id: `m${n}` });
  }
});

test("a user that no text can be is no answer", async (t) => {
  const e = await engine(t, { onConnect: () => "\ud800" });
  const error = firstError(e);
  const client = await Client.connect(e.url, { token: "x" });
  await client.closed;
  assert.ok((await error) instanceof klatch.InvalidName);
});

test("r23: hooks may call the engine, and even stop it", async (t) => {
  const e = await engine(t, {
    async onPublish({ room, data }) {
      if (data === "stop") return (await e.stop(), true);
      await e.publish(room, `before ${data}`);
      return true;
    },
  });
  const ann = await Client.connect(e.url, { room: "lobby" });
  ann.send({ type: "publish", data: "a" });
  assert.equal((await ann.until({ type: "publication" })).data, "before a");
  assert.equal((await ann.until({ type: "publication" })).data, "a");
  ann.send({ type: "publish", data: "stop" });
  assert.equal(await ann.closed, 4000);
  assert.equal(e.health, "stopped");
});

test("a listener that throws or rejects is an error event, and the others are called", async (t) => {
  const e = await engine(t);
  const errors = [];
  e.on("error", (error) => errors.push(error.message));
  e.on("joined", () => {
    throw new Error("thrown");
  });
  e.on("joined", async () => {
    throw new Error("rejected");
  });
  // Node's own `once` would fail with the error.
  const heard = (emitter, event) => new Promise((resolve) => emitter.once(event, resolve));
  const joined = heard(e, "joined");
  const ann = await Client.connect(e.url, { room: "lobby" });
  await joined;
  await ann.until({ type: "joined" });
  const subscription = e.subscribe("lobby");
  const seen = [];
  subscription.on("message", (p) => {
    seen.push(p.data);
    throw new Error(`message ${p.data}`);
  });
  await subscription.open();
  const own = heard(subscription, "message");
  await e.publish("lobby", 1);
  await own;
  assert.deepEqual(seen, [1]);
  assert.deepEqual(errors, ["thrown", "rejected", "message 1"]);
});
