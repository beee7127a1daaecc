"use strict";

// What other native packages died or hung of: the end of the process, workers, handlers that throw, queues without a bound.

const assert = require("node:assert/strict");
const { once } = require("node:events");
const path = require("node:path");
const { test } = require("node:test");
const { Worker } = require("node:worker_threads");
const { Client, engine, firstError, folder, klatch, script, until } = require("./support");

const CLIENTS = `
const { WebSocket } = { WebSocket: require_("ws") };
/** Clients that publish without end. */
function hammer(engine, count) {
  for (let i = 0; i < count; i++) {
    const ws = new WebSocket(engine.url + "?room=lobby", ["klatch.v1"]);
    ws.on("error", () => {});
    ws.on("open", () => ws.send(JSON.stringify({ type: "publish", data: 0 })));
    ws.on("message", () => ws.readyState === 1 && ws.send(JSON.stringify({ type: "publish", data: 1 })));
  }
}
`;

async function ends(t, code, expected, options) {
  const { status, signal, out, errors } = await script(t, code, options);
  assert.deepEqual({ status, signal, out: out.trim(), errors }, { status: 0, signal: null, errors: "", out: "", ...expected });
}

test("x32: the process ends once the engine is stopped", async (t) => {
  await ends(
    t,
    `(async () => {
      const engine = await klatch.Engine.start({ log: "memory", listen: "127.0.0.1:0" });
      engine.on("joined", () => {});
      const subscription = await engine.subscribe("lobby").open();
      subscription.on("message", (p) => console.log(p.data));
      subscription.on("end", () => console.log("end"));
      await engine.publish("lobby", 1);
      await engine.stop();
    })();`,
    { out: "1\nend" },
  );
});

test("x32: what was published in the moment of process.exit is stored", async (t) => {
  const log = path.join(folder(t), "log");
  await ends(
    t,
    `klatch.Engine.start({ log: process.argv[2] }).then((engine) => {
      engine.publish("lobby", "last words");
      process.exit();
    });`,
    {},
    { args: [log] },
  );
  const e = await engine(t, { log });
  assert.deepEqual((await e.history("lobby")).publications.map((p) => p.data), ["last words"]);
});

test("x32: an engine that runs keeps the process, and unref lets it go once its calls are answered", async (t) => {
  await ends(
    t,
    `(async () => {
      const engine = await klatch.Engine.start({ log: "memory", listen: "127.0.0.1:0" });
      engine.unref();
      engine.on("joined", () => {});
      engine.subscribe("lobby").on("message", () => {});
      const ack = await engine.publish("lobby", 1);
      await engine.history("lobby");
      console.log(ack.offset);
    })();`,
    { out: "1" },
  );
  await ends(
    t,
    `(async () => {
      const engine = await klatch.Engine.start({ log: "memory" });
      engine.unref().ref();
      // Without the engine there would be nothing to wait for.
      setTimeout(() => { console.log("alive"); engine.stop(); }, 50).unref();
    })();`,
    { out: "alive" },
  );
});

test("x32: one that was unref'd before its start, and one whose start fails", async (t) => {
  await ends(
    t,
    `const engine = new klatch.Engine({ log: "memory" });
    engine.unref();
    engine.start().then(() => console.log("started"));`,
    { out: "started" },
  );
  // Also what is asked of one that does not run is answered.
  await ends(
    t,
    `const engine = new klatch.Engine({ log: "memory" });
    engine.history("lobby").catch((error) => console.log(error.name)).then(() => engine.start()).then(async () => {
      await engine.stop();
      await engine.history("lobby").catch((error) => console.log(error.name));
      await engine.subscribe("lobby").batch().catch((error) => console.log(error.name));
      console.log("end");
    });`,
    { out: "stopped\nstopped\nstopped\nend" },
  );
  await ends(
    t,
    `klatch.Engine.start({ log: "memory", listen: "nowhere" }).catch((error) => console.log(error.name));`,
    { out: "address_unusable" },
  );
});

for (const [how, end, status] of [
  ["process.exit", "process.exit(7)", 7],
  ["process.exit in a handler", 'engine.on("joined", () => process.exit(7)); hammer(engine, 1); await new Promise(() => {})', 7],
  ["an error that nobody catches", 'setImmediate(() => { throw new Error("on purpose"); })', 1],
  ["a rejection that nobody catches", 'Promise.reject(new Error("on purpose"))', 1],
]) {
  test(`r24: ${how}, with the engine running and clients at work`, async (t) => {
    const log = JSON.stringify(path.join(folder(t), "log"));
    for (let n = 0; n < 5; n++) {
      const got = await script(
        t,
        `${CLIENTS}
        (async () => {
          const engine = await klatch.Engine.start({ log: ${log}, listen: "127.0.0.1:0", onPublish: () => true });
          hammer(engine, 20);
          engine.subscribe("lobby").on("message", () => {});
          await engine.publish("lobby", "acknowledged");
          ${end};
        })();`,
      );
      assert.deepEqual([got.status, got.signal], [status, null], got.errors);
      assert.doesNotMatch(got.errors, /FATAL|panicked/);
    }
    // What was acknowledged is there, and the directory free.
    const engine = await klatch.Engine.start({ log: path.join(path.dirname(JSON.parse(log)), "log") });
    const all = await engine.history("lobby", { limit: 1000 });
    assert.equal(all.publications.filter((p) => p.data === "acknowledged").length, 5);
    await engine.stop();
  });
}

test("r24: clients of a process that exits are told to come back", async (t) => {
  let told;
  const heard = (url) => (told = Client.connect(url.trim(), { room: "lobby" }).then((ann) => ann.closed));
  const got = await script(
    t,
    `(async () => {
      const engine = await klatch.Engine.start({ log: "memory", listen: "127.0.0.1:0" });
      engine.on("joined", () => process.exit(7));
      console.log(engine.url);
    })();`,
    { heard },
  );
  assert.deepEqual([got.status, got.signal, await told], [7, null, 4000], got.errors);
});

test("r25: nobody listens to errors, and the process goes on", async (t) => {
  const { status, out, errors } = await script(
    t,
    `${CLIENTS}
    (async () => {
      const hooks = { onPublish: () => { throw new Error("hook on purpose"); } };
      const engine = await klatch.Engine.start({ log: "memory", listen: "127.0.0.1:0", ...hooks });
      engine.on("joined", () => { throw new Error("listener on purpose"); });
      hammer(engine, 1);
      let warnings = 0;
      process.on("warning", async (warning) => {
        if (++warnings === 2) {
          await engine.publish("lobby", 1);
          await engine.stop();
          console.log("went on");
          process.exit();
        }
      });
    })();`,
  );
  assert.deepEqual([status, out], [0, "went on\n"], errors);
  assert.match(errors, /KlatchWarning.*hook on purpose/s);
  assert.match(errors, /listener on purpose/);
});

test("an error listener that throws is an uncaught exception, as ever, and no abort", async (t) => {
  const { status, signal, errors } = await script(
    t,
    `(async () => {
      const engine = await klatch.Engine.start({ log: "memory" });
      engine.on("error", () => { throw new Error("from the error listener"); });
      engine.subscribe("lobby").on("message", () => { throw new Error("first"); });
      await engine.publish("lobby", 1);
      await engine.publish("lobby", 1);
    })();`,
  );
  assert.deepEqual([status, signal], [1, null]);
  assert.match(errors, /from the error listener/);
});

const WORKER = `
const { parentPort, workerData } = require("node:worker_threads");
const { createRequire } = require("node:module");
const klatch = createRequire(workerData)("klatch");
(async () => {
  const engine = await klatch.Engine.start({ log: "memory", listen: "127.0.0.1:0", onPublish: () => true });
  const subscription = engine.subscribe("lobby");
  subscription.on("message", () => engine.publish("lobby", "again"));
  await subscription.open();
  for (let n = 0; n < 100; n++) engine.publish("lobby", n);
  parentPort.postMessage(engine.addresses[0]);
  parentPort.on("message", async () => {
    await engine.stop();
    parentPort.close();
  });
})();`;

test("workers have engines of their own, and can be terminated at any time", async (t) => {
  const own = await engine(t);
  for (let round = 0; round < 8; round++) {
    const workers = [0, 1, 2].map(() => new Worker(WORKER, { eval: true, workerData: __filename }));
    const addresses = await Promise.all(workers.map(async (w) => (await once(w, "message"))[0]));
    assert.equal(new Set(addresses).size, 3);
    // One stops its engine, the others are ended in the middle of their work.
    workers[0].postMessage("stop");
    await Promise.all([once(workers[0], "exit"), workers[1].terminate(), workers[2].terminate()]);
    await assert.rejects(Client.connect(`ws://${addresses[1]}/ws`), "its engine is still there");
  }
  assert.equal((await own.publish("lobby", 1)).offset, 1);
});

test("a package that only workers have loaded", async (t) => {
  await ends(
    t,
    // Not required here.
    `const { Worker } = require("node:worker_threads");
    (async () => {
      for (let n = 0; n < 3; n++) {
        const worker = new Worker(${JSON.stringify(WORKER)}, { eval: true, workerData: ${JSON.stringify(__filename)} });
        await new Promise((resolve) => worker.once("message", resolve));
        await worker.terminate();
      }
      console.log("done");
    })();`,
    { out: "done" },
    { type: "plain.cjs" },
  );
});

test("x28: a panic is an error, and everything else goes on", async (t) => {
  const native = require("../lib/native");
  const [e, other] = [await engine(t), await engine(t)];
  const subscription = await e.subscribe("r").open();
  const entries = [
    () => e.publish("r", 1),
    () => e.publish("r", Buffer.from("x")),
    () => e.history("r"),
    () => e.subscribe("r").open(),
    async () => e.presence("r"),
    async () => e.signal("r", "typing"),
    async () => e.send("c1", "x"),
    async () => e.kick({ user: "ann" }),
    async () => e.metrics(),
    async () => e.health,
    () => e.consume("g", () => {}),
    () => subscription.batch(),
  ];
  for (const entry of entries) {
    native.panicNext();
    await assert.rejects(entry(), (error) => {
      assert.ok(error instanceof klatch.InternalError, `${error.stack} of ${entry}`);
      return /a test asked for it/.test(error.message);
    });
  }
  // Also where nobody has called anything: when what has come is taken.
  const error = firstError(e);
  const stored = e.publish("r", 1);
  // It is on its way by then.
  await null;
  native.panicNext();
  assert.equal((await stored).offset, 1);
  assert.ok((await error) instanceof klatch.InternalError);
  assert.equal((await other.publish("r", 1)).offset, 1);
});

test("x33: a call while more events come than any queue holds", async (t) => {
  const e = await engine(t, { limits: { event_queue: 100, request_rate: 0 } });
  const counts = { joined: 0, left: 0, lost: 0 };
  for (const kind of ["joined", "left"]) e.on(kind, () => counts[kind]++);
  e.on("lost", ({ count }) => (counts.lost += count));
  const ann = await Client.connect(e.url, { user: "ann" });
  for (let n = 0; n < 5000; n++) {
    ann.send({ type: "join", room: `r${n % 50}` });
    ann.send({ type: "leave", room: `r${n % 50}`, ref: n });
    if (n % 100 === 0) e.presence("r0");
  }
  await ann.until({ ref: 4999 });
  await until(() => counts.joined + counts.left + counts.lost === 10_000);
});

test("r06, r07, r08: what no message and no name may hold is refused, and nobody else is harmed", async (t) => {
  const e = await engine(t);
  const ann = await Client.connect(e.url, { room: "lobby" });
  await assert.rejects(e.publish("lobby", "a\udf38"), klatch.InvalidData);
  await assert.rejects(e.publish("lobby", { "\ud83d": 1 }), klatch.InvalidData);
  await assert.rejects(e.publish("lobby", new klatch.Json('{"text":"\\ud83d"}')), klatch.InvalidData);
  const deep = new klatch.Json("[".repeat(30_000) + "]".repeat(30_000));
  await assert.rejects(e.publish("lobby", deep), klatch.TooDeep);
  let nested = [];
  for (let n = 0; n < 100_000; n++) nested = [nested];
  await assert.rejects(e.publish("lobby", nested), (error) => error instanceof klatch.TooDeep || error instanceof klatch.TooLarge);
  const at = (depth) => new klatch.Json("[".repeat(depth) + "]".repeat(depth));
  await e.publish("lobby", at(64));
  await assert.rejects(e.publish("lobby", at(65)), klatch.TooDeep);
  for (const bad of ["a\u0000b", "\u0000", "a\ud800", ""]) {
    await assert.rejects(e.publish(bad, 1), klatch.InvalidName);
    if (bad) await assert.rejects(e.publish("r", 1, { user: bad }), klatch.InvalidName);
    if (bad) await assert.rejects(e.publish("r", 1, { id: bad }), klatch.InvalidId);
    await assert.rejects(e.history(bad), klatch.InvalidName);
    assert.throws(() => e.signal("lobby", bad), klatch.InvalidName);
  }
  assert.equal((await ann.until({ type: "publication" })).offset, 1);
  assert.equal((await e.history("lobby")).length, 1);
});

test("whatever a consumer's handler throws is told, and the publication is answered", () => {
  const { Consumer } = require("../lib/consumer");
  const thrown = [Object.create(null), Symbol("on purpose"), null, new Error("on purpose")];
  const [worked, failed] = [[], []];
  let work;
  const group = { begin: (_, begun) => (work = begun), worked: (...done) => worked.push(done), fail: (error) => failed.push(error) };
  new Consumer(group, 1, () => {
    throw thrown[failed.length];
  });
  for (const n of thrown.keys()) work(n, "room", [[1, 0, 0, "", 0, 1], "1", ""]);
  assert.deepEqual(failed, thrown);
  assert.deepEqual(worked.map(([, , error]) => typeof error), Array(4).fill("string"));
});

test("a flood for a subscription leaves the event loop its turns", async (t) => {
  const e = await engine(t, { limits: { event_queue: 1_000_000, subscription_bytes: 1 << 30 } });
  let [inTurn, most] = [0, 0];
  const subscription = await e.subscribe("room").open();
  await e.publishBatch(Array.from({ length: 50_000 }, (_, data) => ({ room: "room", data })));
  // What a turn of the event loop has had, as the loop itself sees it.
  let watch = setImmediate(function next() {
    most = Math.max(most, inTurn);
    inTurn = 0;
    watch = setImmediate(next);
  });
  let last = -1;
  for await (const p of subscription) {
    assert.equal(p.data, last + 1);
    last = p.data;
    inTurn++;
    if (last === 49_999) break;
  }
  clearImmediate(watch);
  most = Math.max(most, inTurn);
  assert.ok(most < 50_000, `${most} in one turn`);
});

test("x35: what the addon gives to others, and takes from Node", async (t) => {
  const { execFileSync } = require("node:child_process");
  const addon = require.resolve("../klatch.node");
  const names = (...args) => execFileSync("nm", ["-D", ...args, addon], { encoding: "utf8" });
  const given = names("--defined-only").match(/\S+$/gm).filter((name) => !name.startsWith("napi_register_module"));
  assert.deepEqual(given.filter((name) => !/^node_api_module_get_api_version/.test(name)), []);
  assert.doesNotMatch(names("--undefined-only"), / (SSL_|EVP_|CRYPTO_|rd_kafka)/);
  const headers = execFileSync("readelf", ["-d", addon], { encoding: "utf8" });
  assert.doesNotMatch(headers, /STATIC_TLS/, "x34");
  assert.doesNotMatch(headers, /libssl|libcrypto|librdkafka/);
  assert.match(headers, /NODELETE/);
});
