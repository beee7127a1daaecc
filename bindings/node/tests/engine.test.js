"use strict";

const assert = require("node:assert/strict");
const { execFileSync } = require("node:child_process");
const { errorMonitor, once } = require("node:events");
const path = require("node:path");
const { test } = require("node:test");
const { inspect } = require("node:util");
const { Client, PATIENCE, engine, firstError, folder, klatch, until } = require("./support");

test("publish, history, and what is left after a restart", async (t) => {
  const log = path.join(folder(t), "log");
  const first = await klatch.Engine.start({ log });
  const ack = await first.publish("lobby", { text: "hello" }, { user: "ann", id: "m1" });
  assert.ok(ack instanceof klatch.Ack);
  assert.deepEqual({ ...ack }, { offset: 1, epoch: ack.epoch, id: "m1", duplicate: false });
  const again = await first.publish("lobby", { text: "hello" }, { user: "ann", id: "m1" });
  assert.deepEqual([again.offset, again.duplicate], [1, true]);
  await assert.rejects(first.publish("lobby", "other", { user: "ann", id: "m1" }), (error) => {
    assert.ok(error instanceof klatch.Conflict && error instanceof klatch.NotStored && error instanceof Error);
    assert.deepEqual([error.code, error.name, error.retry], [206, "conflict", "never"]);
    return true;
  });
  await assert.rejects(klatch.Engine.start({ log }), klatch.DataDirLocked);
  await assert.rejects(first.stop("soon"), klatch.InvalidRequest);
  assert.equal(await first.stop(), 0);
  assert.equal(await first.stop(), 0);
  await assert.rejects(first.publish("lobby", 1), klatch.Stopped);
  assert.equal(first.health, "stopped");

  const second = await klatch.Engine.start({ log });
  t.after(() => second.stop());
  assert.equal(second.health, "up");
  const page = await second.history("lobby");
  assert.deepEqual([page.length, page.more, page.last, page.epoch], [1, false, 1, ack.epoch]);
  const [p] = page;
  assert.deepEqual([p.room, p.offset, p.prev, p.user, p.id, p.givenId], ["lobby", 1, 0, "ann", "m1", "m1"]);
  assert.deepEqual([p.data, p.raw, p.isBytes], [{ text: "hello" }, '{"text":"hello"}', false]);
  assert.ok(Math.abs(p.time - Date.now()) < 3_600_000);
  assert.equal(p.data, p.data, "made once");
});

test("data comes back as it was", async (t) => {
  const e = await engine(t);
  const bytes = Uint8Array.of(0, 255, 10, 0);
  const sent = [
    null, true, 0, -1.5, "", "a", "日本 🎉 \u2028 \u0000", [1, [2, []]], { a: { b: [] }, "": 1 },
    bytes, Buffer.from("x"), new Uint8Array(), bytes.buffer, new Uint16Array([1, 2]), "last",
  ];
  const outcomes = await e.publishBatch(sent.map((data) => ({ room: "r", data })));
  assert.ok(outcomes.every((o) => o instanceof klatch.Ack));
  const page = await e.history("r");
  const plain = (data) => {
    if (data instanceof ArrayBuffer) return Buffer.from(data);
    return ArrayBuffer.isView(data) ? Buffer.from(data.buffer, data.byteOffset, data.byteLength) : data;
  };
  assert.deepEqual(page.publications.map((p) => p.data), sent.map(plain));
  // The same by a subscription, which takes another way.
  const batch = await e.subscribe("r", { history: 100 }).batch();
  assert.deepEqual(batch.map((p) => p.data), sent.map(plain));
  assert.deepEqual(batch.map((p) => p.raw), page.publications.map((p) => p.raw));
  // What is kept of a page does not keep the rest of it. (Small ones lie in a pool of Node's.)
  const large = Array.from({ length: 3 }, () => ({ room: "large", data: Buffer.alloc(50_000) }));
  await e.publishBatch(large);
  const pages = [await e.history("large"), await e.subscribe("large", { history: 3 }).batch()];
  for (const page of pages) for (const p of page) assert.equal(p.data.buffer.byteLength, 50_000);

  const text = '{"n":18446744073709551615, "f":1.10}';
  await e.publish("exact", new klatch.Json(text));
  assert.equal((await e.history("exact")).publications[0].raw, text);

  const circle = {};
  circle.self = circle;
  for (const wrong of [undefined, () => 1, Symbol("s"), 1n, circle, new klatch.Json("{"), new klatch.Json('"\ud800"')]) {
    await assert.rejects(e.publish("r", wrong), klatch.InvalidData, String(typeof wrong));
  }
  await assert.rejects(e.publish("r", "x".repeat(100_000)), klatch.TooLarge);
  await assert.rejects(e.publish(7, 1), TypeError);
  await assert.rejects(e.publish("", 1), klatch.InvalidName);
  await assert.rejects(e.publish("r", 1, { id: "~1" }), klatch.InvalidId);
});

test("positions are never rounded", async (t) => {
  const { offset, digits } = require("../lib/data");
  const { fromParts } = require("../lib/errors");
  assert.equal(offset(9007199254740991), 9007199254740991);
  assert.equal(offset("9007199254740992"), 9007199254740992n);
  assert.equal(digits("since", 18446744073709551615n), "18446744073709551615");
  for (const wrong of [9007199254740992, -1, 1.5, "1", NaN, -1n, null]) {
    assert.throws(() => digits("since", wrong), klatch.InvalidRequest);
  }
  const { offsetGiven } = require("../lib/native");
  for (const exact of [0n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 53n + 1n, 2n ** 64n - 1n]) {
    assert.equal(BigInt(offset(JSON.parse(offsetGiven(String(exact))))), exact);
  }
  const e = await engine(t);
  await assert.rejects(e.history("r", { atLeast: 18446744073709551615n }), klatch.Unavailable);
  await assert.rejects(e.history("r", { after: 18446744073709551616n }), klatch.InvalidRequest);
  assert.ok(fromParts(199, "new", "later", "", 5) instanceof klatch.NotStored, "a code of a later version");
  assert.ok(fromParts(599, "new", "operator", "", 0) instanceof klatch.KlatchError);
});

test("every code has a class", () => {
  const { fromParts } = require("../lib/errors");
  // What only clients are told of.
  const clients = ["unknown_command", "not_joined", "already_joined", "too_many_rooms", "no_room"];
  for (const { code, name, retry } of klatch.codes) {
    const error = fromParts(code, name, retry, "text", 7);
    assert.deepEqual([error.code, error.name, error.retry, error.retryAfterMs], [code, name, retry, 7]);
    if (!clients.includes(name) && name !== "ended") {
      const own = new error.constructor("text");
      assert.deepEqual([own.code, own.name, own.retry], [code, name, retry], `${error.constructor.name} of ${name}`);
    }
  }
});

test("a subscription: history, live, and on from where it was", async (t) => {
  const e = await engine(t);
  for (let n = 1; n <= 5; n++) await e.publish("room", n);
  const subscription = e.subscribe("room", { history: 3 });
  assert.throws(() => subscription.position, /not open yet/);
  await subscription.open();
  assert.deepEqual([subscription.recovered, subscription.position.offset], [false, 2]);
  const seen = [];
  for await (const p of subscription) {
    seen.push(p.data);
    assert.equal(subscription.position.offset, p.offset);
    if (p.data === 5) e.publish("room", 6);
    if (p.data === 6) break;
  }
  assert.deepEqual(seen, [3, 4, 5, 6]);
  assert.deepEqual(await subscription.batch(), [], "leaving the loop closes it");

  const rest = e.subscribe("room", { since: { ...subscription.position, offset: 4 } });
  assert.deepEqual((await rest.batch(1)).map((p) => p.data), [5]);
  assert.ok(rest.recovered);
  assert.deepEqual((await rest.batch()).map((p) => p.data), [6]);
  const waits = rest.batch();
  rest.close();
  assert.deepEqual(await waits, []);

  // It is there from the call on.
  for (let n = 0; n < 20; n++) {
    const atOnce = e.subscribe(`at once ${n}`);
    e.publish(`at once ${n}`, n);
    assert.equal((await atOnce.batch())[0].data, n);
  }

  const live = await e.subscribe("room").open();
  const batches = live.batches();
  const next = batches.next();
  await e.publish("room", "live");
  assert.deepEqual((await next).value.map((p) => p.data), ["live"]);
  await batches.return();

  await assert.rejects(e.subscribe("").open(), klatch.InvalidName);
  await assert.rejects(e.subscribe("room", { since: { epoch: "no", offset: 1 } }).batch(), klatch.InvalidRequest);
  const stopped = await e.subscribe("room").open();
  const end = stopped.batch();
  await e.stop();
  assert.deepEqual(await end, []);
});

test("a subscription that is not read is given up, and can be resumed", async (t) => {
  const e = await engine(t, { limits: { event_queue: 10 } });
  const subscription = await e.subscribe("room").open();
  await e.publishBatch(Array.from({ length: 30 }, (_, data) => ({ room: "room", data })));
  await assert.rejects(subscription.batch(), (error) => {
    assert.ok(error instanceof klatch.SubscriptionEnded);
    return error.why === "slow" && error.name === "ended";
  });
  const seen = [];
  for await (const p of e.subscribe("room", { since: subscription.position })) {
    seen.push(p.data);
    if (p.data === 29) break;
  }
  assert.deepEqual(seen, Array.from({ length: 30 }, (_, n) => n));
});

test("messages as events", async (t) => {
  const e = await engine(t);
  await e.publish("room", "old");
  const subscription = e.subscribe("room", { history: 1 });
  const seen = [];
  subscription.on("message", (p) => seen.push(p.data));
  await subscription.open();
  await e.publish("room", "new");
  await until(() => seen.length === 2);
  const ended = once(subscription, "end");
  subscription.close();
  await ended;
  assert.deepEqual(seen, ["old", "new"]);
});

test("messages that nobody listens to any more wait for who comes next", async (t) => {
  const e = await engine(t);
  const subscription = await e.subscribe("room").open();
  const first = once(subscription, "message");
  await e.publishBatch([0, 1, 2, 3].map((data) => ({ room: "room", data })));
  assert.equal((await first)[0].data, 0);
  assert.equal(subscription.position.offset, 1);
  assert.deepEqual((await subscription.batch(1)).map((p) => p.data), [1]);
  subscription.removeAllListeners();
  assert.equal((await once(subscription, "message"))[0].data, 2);
  const ended = once(subscription, "end");
  const seen = [];
  subscription.on("message", (p) => seen.push(p.data));
  await until(() => seen.length === 1);
  subscription.removeAllListeners("message");
  await e.publish("room", 4);
  await new Promise(setImmediate);
  subscription.close();
  await ended;
  assert.deepEqual(seen, [3]);
});

test("messages of every room as events of the engine", async (t) => {
  const e = new klatch.Engine({ log: "memory", listen: "127.0.0.1:0", limits: { event_queue: 100 } });
  t.after(() => e.stop());
  const seen = [];
  e.on("message", (p) => seen.push(p));
  await e.start();
  const ann = await Client.connect(e.url, { room: "lobby", user: "ann" });
  ann.send({ type: "publish", data: { text: "hello" } });
  await ann.until({ type: "publication" });
  await e.publish("hall", Buffer.of(0, 255));
  await e.publish("lobby", "last", { user: "bob", id: "m1" });
  await until(() => seen.length === 3);
  const told = seen.map(({ room, offset, prev, user, id, data }) => [room, offset, prev, user, id, data]);
  assert.deepEqual(told, [
    ["lobby", 1, 0, "ann", "~1", { text: "hello" }],
    ["hall", 2, 0, "", "~2", Buffer.of(0, 255)],
    ["lobby", 3, 1, "bob", "m1", "last"],
  ]);
  assert.deepEqual([...(await e.history("lobby"))].map((p) => p.toJSON()), [seen[0].toJSON(), seen[2].toJSON()]);

  // Nothing gathers while nobody listens, and who comes then hears what comes then.
  e.removeAllListeners("message");
  await new Promise(setImmediate);
  await e.publish("lobby", "to nobody");
  const next = once(e, "message");
  await e.publish("hall", "to one");
  assert.equal((await next)[0].data, "to one");

  // Those that come faster than they are taken are lost, which is told, and the others come.
  const [error, after] = [firstError(e), []];
  e.on("message", ({ data }) => after.push(data));
  await e.publishBatch(Array.from({ length: 300 }, (_, data) => ({ room: "lobby", data })));
  assert.equal((await error).why, "slow");
  await e.publish("hall", "and on");
  await until(() => after.includes("and on"));
  await e.stop();
  assert.equal(e.on("message", () => {}), e);
});

test("who takes the place of the last listener in the same turn misses no message", async (t) => {
  const e = await engine(t);
  const all = Array.from({ length: 10 }, (_, n) => n);
  const publish = () => e.publishBatch(all.map((data) => ({ room: "room", data })));
  for (const make of [() => e, () => e.subscribe("room")]) {
    const emitter = make();
    const seen = [];
    const again = ({ data }) => {
      seen.push(data);
      emitter.once("message", again);
    };
    emitter.once("message", again);
    await publish();
    await until(() => seen.length === all.length);
    assert.deepEqual(seen, all);
    emitter.removeAllListeners("message");
  }
  const swapped = [];
  const first = ({ data }) => {
    swapped.push(data);
    e.off("message", first);
    e.on("message", second);
  };
  const second = ({ data }) => swapped.push(data);
  e.on("message", first);
  await publish();
  await until(() => swapped.length === all.length);
  assert.deepEqual(swapped, all);
});

/** Finds the port that its parent listens on, publishes there, and ends when that is stored. */
const EARLY = String.raw`
const fs = require("node:fs");
const WebSocket = require(process.argv[1]);
const sockets = () => new Set(fs.readdirSync("/proc/" + process.ppid + "/fd").map((fd) => {
  try { return fs.readlinkSync("/proc/" + process.ppid + "/fd/" + fd).match(/^socket:\[(\d+)\]$/)?.[1]; } catch { return undefined; }
}));
const port = () => {
  const own = sockets();
  const rows = fs.readFileSync("/proc/net/tcp", "utf8").split("\n").map((row) => row.trim().split(/ +/));
  const row = rows.find(([, , , state, , , , , , inode]) => state === "0A" && own.has(inode));
  return row && parseInt(row[1].split(":")[1], 16);
};
(function look() {
  const found = port();
  if (!found) return setImmediate(look);
  const ws = new WebSocket("ws://127.0.0.1:" + found + "/ws?room=lobby&user=ann", ["klatch.v1"]);
  ws.on("open", () => ws.send(JSON.stringify({ type: "publish", data: "early" })));
  ws.on("message", (text) => JSON.parse(text).type === "publication" && process.exit());
})();
`;

test("who listens before the start hears what is said before the program knows of it", async (t) => {
  const e = new klatch.Engine({ log: "memory", listen: "127.0.0.1:0" });
  t.after(() => e.stop());
  const seen = [];
  e.on("message", ({ data }) => seen.push(data));
  const starts = e.start();
  // Nothing of this thread goes on meanwhile.
  execFileSync(process.execPath, ["-e", EARLY, require.resolve("ws")], { timeout: PATIENCE });
  await starts;
  await until(() => seen.length === 1);
  assert.deepEqual(seen, ["early"]);
});

test("subscriptions that are closed hold up nobody", async (t) => {
  const e = await engine(t);
  const nothing = () => {};
  // Each took a turn of the event loop to end, before those that had something to do.
  for (let n = 0; n < 2000; n++) e.on("message", nothing).off("message", nothing).subscribe(`room${n}`).on("message", nothing).close();
  const live = await e.subscribe("room").open();
  let seen = 0;
  live.on("message", () => seen++);
  await e.publish("room", 1);
  let turns = 0;
  for (; seen === 0; turns++) await new Promise(setImmediate);
  assert.ok(turns < 500, `${turns} turns`);
});

test("what removes all listeners does not make the engine deaf", async (t) => {
  const e = await engine(t);
  e.removeAllListeners();
  const joined = once(e, "joined");
  const ann = await Client.connect(e.url, { room: "lobby", user: "ann" });
  assert.equal((await joined)[0].room, "lobby");
  await ann.close();
});

test("an engine whose stop fails can be asked again, unless it has stopped", async (t) => {
  const e = await engine(t);
  require("../lib/native").panicNext();
  await assert.rejects(e.stop(), klatch.InternalError);
  assert.equal((await e.publish("room", 1)).offset, 1);
  assert.equal(await e.stop(), 0);
  assert.equal(e.health, "stopped");
});

test("the number of a call that is under way is given to no other", async (t) => {
  const { tickets } = require("../lib/engine");
  const { last } = tickets;
  t.after(() => (tickets.last = last));
  // So few that they come around at once.
  tickets.last = 7;
  const e = await engine(t);
  const idle = await e.subscribe("idle").open();
  const live = await e.subscribe("live").open();
  const waits = idle.batch();
  for (let n = 0; n < 50; n++) {
    const next = live.batch();
    await new Promise(setImmediate);
    await e.publish("live", n);
    assert.deepEqual((await next).map((p) => p.data), [n]);
  }
  await e.publish("idle", "at last");
  assert.deepEqual((await waits).map((p) => p.data), ["at last"]);
});

test("a consumer's handler that is never done is told of, and a consumer that has left is let go", async () => {
  const { Consumer } = require("../lib/consumer");
  const [worked, failed, ended] = [[], [], []];
  let work;
  let partitions = 3;
  const status = () => [[partitions, 0, 1, 0, 0, 0, null], null];
  const faces = {
    begin: (_, begun) => (work = begun),
    end: (number) => ended.push(number),
    worked: (...done) => worked.push(done),
    stop: async () => [true, status()],
    status: () => JSON.stringify(status()),
    fail: (error) => failed.push(error),
  };
  const odd = Object.assign(new Error(), { message: Symbol("odd") });
  const handler = ({ data }) => (data === 1 ? new Promise(() => {}) : data === 3 ? Promise.reject(odd) : Promise.resolve());
  const consumer = new Consumer(faces, 7, handler, 20);
  work(0, "room", [[5, 4, 0, "ann", 0, 1], "1", ""]);
  work(1, "room", [[6, 5, 0, "ann", 0, 1], "2", ""]);
  await until(() => failed.length > 0);
  assert.match(failed[0].message, /at work for 20 ms/);
  assert.equal(failed[0].publication.offset, 5);
  assert.deepEqual([failed.length, worked], [1, [[7, 1, null]]]);
  work(2, "room", [[7, 6, 0, "ann", 0, 1], "3", ""]);
  await until(() => worked.length === 2);
  assert.deepEqual([failed[1], typeof worked[1][2]], [odd, "string"]);
  assert.deepEqual([consumer.status().partitions, ended], [3, []]);
  partitions = 0;
  const { stop } = faces;
  faces.stop = () => Promise.reject(new klatch.InternalError("on purpose"));
  await assert.rejects(consumer.stop(), klatch.InternalError);
  faces.stop = stop;
  assert.equal(await consumer.stop(), true);
  faces.status = () => assert.fail("it is gone");
  assert.deepEqual([consumer.status().partitions, consumer.status().handled, ended], [0, 1, [7]]);
});

test("a subscription that is closed while it reads history ends", async (t) => {
  const e = await engine(t);
  for (let n = 0; n < 20; n++) await e.publish("room", n);
  // Whoever waited for a read that was thrown away waited for ever, most of the time.
  for (let n = 0; n < 20; n++) {
    const subscription = await e.subscribe("room", { since: 0 }).open();
    const waits = subscription.batch();
    // At each of the steps that it takes to begin.
    for (let step = 0; step < n; step++) await null;
    subscription.close();
    assert.ok([0, 20].includes((await waits).length));
    assert.equal((await subscription.batch()).length, 0);
  }
});

test("several read one subscription, and each publication comes once and in order", async (t) => {
  const e = await engine(t);
  const live = await e.subscribe("room").open();
  const both = [live.batch(1), live.batch(1)];
  for (let n = 0; n < 3; n++) await e.publish("room", n);
  const rest = live.batch();
  assert.deepEqual((await Promise.all([...both, rest])).flat().map((p) => p.data), [0, 1, 2]);
  const items = e.subscribe("room", { since: 0 })[Symbol.asyncIterator]();
  const three = await Promise.all([items.next(), items.next(), items.next()]);
  assert.deepEqual(three.map(({ value }) => value.data), [0, 1, 2]);
  for (const size of [0, -1, 1.5, NaN, "x"]) await assert.rejects(live.batch(size), klatch.InvalidRequest, String(size));
});

test("whatever is thrown is told, and the others go on", async (t) => {
  const e = await engine(t);
  const warnings = [];
  const warned = (warning) => warnings.push(warning.message);
  process.on("warning", warned);
  t.after(() => process.removeListener("warning", warned));
  const hidden = { [inspect.custom]() { throw new Error("not to be shown"); } };
  const thrown = [Object.create(null), Symbol("odd"), null, undefined, "text", hidden];
  const seen = [];
  e.subscribe("room").on("message", ({ data }) => {
    seen.push(data);
    throw thrown[data];
  });
  for (let n = 0; n < thrown.length; n++) await e.publish("room", n);
  await until(() => seen.length === thrown.length && warnings.length === thrown.length);
  assert.match(warnings[1], /Symbol\(odd\)/);
  const monitored = new Promise((resolve) => e.once(errorMonitor, resolve));
  await e.publish("room", 4);
  assert.equal(await monitored, "text");
});

test("a batch of messages is looked at before the first is published", async (t) => {
  const e = await engine(t);
  await assert.rejects(e.publishBatch([{ room: "room", data: 1 }, null]), TypeError);
  const [failed, stored] = await e.publishBatch([{ room: "room", data: undefined }, { room: "room", data: 2 }]);
  assert.ok(failed instanceof klatch.InvalidData);
  assert.equal(stored.offset, 1);
});

test("messages that go to the engine together keep their order, and have outcomes of their own", async (t) => {
  const e = await engine(t);
  const given = (n) => (n % 100 === 7 ? Buffer.of(n % 256) : n % 100 === 8 ? new klatch.Json(` ${n} `) : n);
  const acks = Array.from({ length: 700 }, (_, n) => e.publish("room", given(n), { user: "änn", id: `m${n}` }));
  const wrong = [
    [e.publish("a\0b", 1), klatch.InvalidName],
    [e.publish("room", 1, { user: "\0" }), klatch.InvalidName],
    [e.publish("room", 1, { id: "a\0" }), klatch.InvalidId],
    [e.publish("room", new klatch.Json("1\0")), klatch.InvalidData],
    [e.publish("room", new klatch.Json("nothing")), klatch.InvalidData],
    [e.publish("", 1), klatch.InvalidName],
    [e.publish("room", 9, { user: "änn", id: "m0" }), klatch.Conflict],
  ];
  for (let n = 0; n < 3; n++) wrong.push([e.publish("room", "x".repeat(700_000)), klatch.TooLarge]);
  // What is asked for after them has them behind it.
  const live = e.subscribe("room");
  const last = e.publish("room", "last");
  for (const [outcome, why] of wrong) await assert.rejects(outcome, why);
  assert.deepEqual((await Promise.all(acks)).map((ack) => [ack.offset, ack.id]), acks.map((_, n) => [n + 1, `m${n}`]));
  assert.deepEqual((await live.batch()).map((p) => [p.data, p.offset]), [["last", (await last).offset]]);
  const kept = await e.history("room", { limit: 1000 });
  assert.deepEqual(kept.publications.map((p) => [p.user, p.id, p.raw]).slice(0, 10), [
    ...Array.from({ length: 7 }, (_, n) => ["änn", `m${n}`, String(n)]),
    ["änn", "m7", Buffer.of(7)],
    ["änn", "m8", " 8 "],
    ["änn", "m9", "9"],
  ]);
  await assert.rejects(e.publish("room", 1, null), TypeError);
  // A stop comes behind what was published before it, and of an engine that has stopped each is told.
  const [before, stopped] = [e.publish("room", "before"), e.stop()];
  assert.ok((await before).offset > 0);
  await stopped;
  for (const outcome of [e.publish("room", 2), e.publish("room", 3)]) await assert.rejects(outcome, klatch.Stopped);
});

test("buffers of another realm are bytes too", async (t) => {
  const e = await engine(t);
  await e.publish("room", require("node:vm").runInNewContext("new Uint8Array([1, 2]).buffer"));
  const [p] = await e.history("room");
  assert.deepEqual([...p.data], [1, 2]);
});

test("rooms with traffic share the turns of the event loop", async (t) => {
  const e = await engine(t);
  const rooms = Array.from({ length: 8 }, (_, n) => `room${n}`);
  const each = 20;
  for (const room of rooms) await e.publishBatch(Array.from({ length: each }, (_, n) => ({ room, data: n })));
  // Each had half a millisecond of every turn once, and all of them together held up everything else.
  let [inTurn, most, count] = [0, 0, 0];
  let begun;
  const seen = rooms.map(() => []);
  rooms.forEach((room, n) =>
    e.subscribe(room, { since: 0 }).on("message", ({ data }) => {
      const until = performance.now() + 1;
      while (performance.now() < until);
      seen[n].push(data);
      count++;
      inTurn++;
    }),
  );
  while (count < rooms.length * each) {
    await new Promise(setImmediate);
    most = Math.max(most, inTurn);
    inTurn = 0;
    // And none is passed over, from when the last of them has come: threads read their history, and not of all at once.
    if (seen.some((data) => data.length === 0)) continue;
    begun ??= seen.map((data) => data.length);
    const far = seen.map((data, n) => data.length - begun[n]);
    const more = far.filter((_, n) => seen[n].length < each);
    if (more.length > 0) assert.ok(Math.max(...far) - Math.min(...more) <= 2, String(far));
  }
  assert.ok(most <= 2, `${most} in one turn`);
  const all = Array.from({ length: each }, (_, n) => n);
  seen.forEach((data) => assert.deepEqual(data, all));
});

test("events, presence, signals, send and kick", async (t) => {
  const e = new klatch.Engine({ log: "memory", listen: "127.0.0.1:0" });
  t.after(() => e.stop());
  const seen = [];
  for (const kind of ["connected", "joined", "left", "disconnected"]) e.on(kind, (event) => seen.push({ kind, ...event }));
  await e.start();
  assert.equal(e.url, `ws://${e.addresses[0]}/ws`);
  const ann = await Client.connect(e.url, { room: "lobby", user: "ann" });
  const { connection } = await ann.until({ type: "welcome" });
  await ann.until({ type: "joined" });
  await until(() => e.presence("lobby").count === 1);
  assert.deepEqual(e.presence("lobby"), { count: 1, users: [{ user: "ann", connections: 1 }], truncated: false });
  e.signal("lobby", "typing", { on: true }, { user: "bob" });
  assert.deepEqual((await ann.until({ type: "signal" })).data, { on: true });
  e.send(connection, "note", [1]);
  assert.deepEqual((await ann.until({ type: "signal", name: "note" })).data, [1]);
  e.kick({ user: "ann", room: "lobby" });
  await ann.until({ type: "left" });
  e.kick({ connection });
  assert.equal(await ann.closed, 4500);
  await until(() => seen.length === 4);
  const who = { connection, user: "ann" };
  assert.match(seen[0].address, /^127\.0\.0\.1:\d+$/);
  delete seen[0].address;
  assert.deepEqual(seen, [
    { kind: "connected", ...who },
    { kind: "joined", ...who, room: "lobby" },
    { kind: "left", ...who, room: "lobby" },
    { kind: "disconnected", ...who, why: "kicked" },
  ]);
  assert.match(e.metrics(), /^klatch_connections_opened_total 1$/m);
  assert.throws(() => e.signal("lobby", "", 1), klatch.InvalidName);
  assert.throws(() => e.signal("lobby", "x", Buffer.from("x")), TypeError);
  assert.throws(() => e.send("nobody", "x"), klatch.InvalidRequest);
  assert.throws(() => e.kick({}), TypeError);
});

test("events are told from when somebody listens, and what is not read is counted", async (t) => {
  const e = await engine(t, { limits: { event_queue: 2 } });
  const joined = once(e, "joined");
  const ann = await Client.connect(e.url, { room: "lobby", user: "ann" });
  assert.equal((await joined)[0].user, "ann");
  const lost = once(e, "lost");
  // Nothing is read while this loop has the thread.
  const end = Date.now() + 20_000;
  ann.send({ type: "leave" });
  for (let n = 0; n < 50; n++) ann.send({ type: "join", room: `r${n}` });
  // The frames go out first.
  await new Promise((resolve) => ann.ws._socket.write("", resolve));
  while (!/^klatch_members 50$/m.test(e.metrics()) && Date.now() < end);
  assert.ok((await lost)[0].count > 0);
});

test("settings and addresses that cannot be", async (t) => {
  await assert.rejects(klatch.Engine.start({ lgo: "memory" }), klatch.InvalidConfig);
  await assert.rejects(klatch.Engine.start({ log: "memory", limits: { json_depth: -1 } }), klatch.InvalidConfig);
  await assert.rejects(klatch.Engine.start({ log: "memory", shards: 1n }), klatch.InvalidConfig);
  const e = await engine(t);
  await assert.rejects(klatch.Engine.start({ log: "memory", listen: e.addresses[0] }), klatch.AddressUnusable);
  await assert.rejects(e.start(), /has been started/);
  assert.throws(() => new klatch.Engine({ onJoin: 7 }), TypeError);
  const idle = new klatch.Engine({ log: "memory" });
  await assert.rejects(idle.publish("r", 1), klatch.Stopped);
  assert.throws(() => idle.addresses, klatch.Stopped);
  assert.equal(await idle.stop(), 0);
  await (await idle.start()).stop();
  await assert.rejects(e.consume("g", () => {}), klatch.Unsupported);
});

test("the log goes to who asks for it", async (t) => {
  const native = require("../lib/native");
  const e = await engine(t);
  const fault = () => {
    native.panicNext();
    assert.throws(() => e.metrics(), klatch.InternalError);
  };
  fault();
  const lines = [];
  klatch.setLogHandler((line) => lines.push(line), "error");
  fault();
  await until(() => lines.length === 1);
  assert.equal(lines[0].level, "error");
  assert.match(lines[0].target, /^klatch/);
  assert.match(lines[0].text, /a test asked for it/);
  klatch.setLogHandler(null);
  fault();
  klatch.setLogHandler((line) => lines.push(line));
  fault();
  await until(() => lines.length === 2);
  // One that fails is told by a warning, and does not end the program.
  const warnings = [];
  const warned = ({ name, message }) => warnings.push(`${name}: ${message}`);
  process.on("warning", warned);
  t.after(() => process.removeListener("warning", warned));
  for (const fails of [() => { throw new Error("thrown on purpose"); }, () => Promise.reject(new Error("rejected on purpose"))]) {
    klatch.setLogHandler(fails, "error");
    fault();
    const before = warnings.length;
    await until(() => warnings.length > before);
    assert.match(warnings[before], /^KlatchWarning: the log handler failed: Error: (thrown|rejected) on purpose/);
  }
  klatch.setLogHandler(null);
  assert.throws(() => klatch.setLogHandler(() => {}, "loud"), TypeError);
  assert.throws(() => klatch.setLogHandler("file"), TypeError);
});
