"use strict";

// The same engine on Kafka: a real one, that `bindings/node/test` starts. Every test has topics of its own.

const assert = require("node:assert/strict");
const path = require("node:path");
const { test } = require("node:test");
const { firstError, folder, klatch, until } = require("./support");

const KAFKA = process.env.KLATCH_TEST_KAFKA;
if (!KAFKA) throw new Error("there is no cluster: run bindings/node/test");

async function node(t, topic, options = {}) {
  const made = await klatch.Engine.start({
    log: KAFKA + topic,
    kafka: { view_dir: path.join(folder(t), "view"), partitions: 3, message_timeout_ms: 50_000 },
    limits: { publish_timeout_ms: 60_000 },
    ...options,
  });
  t.after(() => made.stop());
  return made;
}

test("two engines are one chat", async (t) => {
  const [one, two] = [await node(t, "node-chat"), await node(t, "node-chat")];
  const acks = [];
  for (const [n, engine] of [one, two, one].entries()) {
    acks.push(await engine.publish("lobby", n, { user: "ann", id: `m${n}` }));
  }
  const seen = [];
  for await (const p of two.subscribe("lobby", { since: 0 })) {
    seen.push(p);
    if (seen.length === 3) break;
  }
  assert.deepEqual(seen.map((p) => p.data), [0, 1, 2]);
  assert.deepEqual(seen.map((p) => p.offset), acks.map((a) => a.offset));
  const again = await two.publish("lobby", 0, { user: "ann", id: "m0" });
  assert.deepEqual([again.duplicate, again.offset], [true, acks[0].offset]);
});

test("a consumer commits what was done, and no more", async (t) => {
  const engine = await node(t, "node-work");
  for (let n = 0; n < 20; n++) await engine.publish("room", n);
  const seen = [];
  const error = firstError(engine);
  let [fails, goOn] = [true, undefined];
  const released = new Promise((resolve) => (goOn = resolve));
  const work = await engine.consume(
    "archive",
    async ({ data, room }) => {
      await new Promise(setImmediate);
      if (data === 7 && fails) {
        fails = false;
        throw new Error(`once more, ${room}`);
      }
      if (data === 7) await released;
      seen.push(data);
    },
    { retryMs: [1, 10] },
  );
  await until(() => work.status().lastError !== null);
  assert.match(work.status().lastError, /once more, room/);
  goOn();
  await until(() => seen.length === 20);
  assert.deepEqual(seen, Array.from({ length: 20 }, (_, n) => n));
  assert.equal((await error).message, "once more, room");
  await until(() => work.status().handled === 20);
  const { partitions, retries, lastError, failed } = work.status();
  assert.deepEqual([partitions, retries, lastError, failed], [3, 1, null, null]);
  assert.equal(await work.stop(), true);

  // What never settles is given up at the end of the time, and comes again.
  await engine.publish("room", 20);
  const told = firstError(engine);
  const never = await engine.consume("archive", () => new Promise(() => {}), { slowMs: 10 });
  // Meanwhile somebody is told.
  assert.equal((await told).publication.data, 20);
  await never.stop(50);
  assert.equal(never.status().handled, 0);
  const rest = [];
  const last = await engine.consume("archive", ({ data }) => void rest.push(data));
  await until(() => rest.length > 0);
  assert.deepEqual(rest, [20]);
  // The engine ends its consumers with itself.
  await engine.stop();
  await last.stop();
});

test("an engine stops although a handler never settles", async (t) => {
  const engine = await node(t, "node-stuck");
  await engine.publish("room", 1);
  let begun = false;
  await engine.consume("stuck", () => ((begun = true), new Promise(() => {})));
  await until(() => begun);
  await engine.stop(500);
  assert.equal(engine.health, "stopped");
});
