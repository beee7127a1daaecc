"use strict";

// Measures the package beside the Rust API, and beside npm's socket.io doing the same job. See docs/performance.md.
//
//   node bench.js [--rust ../../../target/release/host-rates] [--seconds 2] [--rounds 3]
//
// Every round measures all of them, one after the other, so that a machine that changes its pace changes it for all. Medians are printed.

const { execFile } = require("node:child_process");
const http = require("node:http");
const path = require("node:path");
const { monitorEventLoopDelay } = require("node:perf_hooks");
const { parseArgs, promisify } = require("node:util");
const klatch = require("klatch");

const run = promisify(execFile);
const DATA = { text: "hello, this is a message as people write them" };
const ROOMY = { event_queue: 4_000_000, subscription_bytes: 1 << 30, publish_rate: 0, request_rate: 0, pending_publishes: 1024 };
const CLIENTS = 8;
/** Messages that wait for a handler, in one measurement. */
const WAITING = 400_000;

/** Awaited publishes in a second, so many in flight. */
async function publishes(seconds, inFlight) {
  const engine = await klatch.Engine.start({ log: "memory" });
  const start = performance.now();
  let count = 0;
  const one = async () => {
    while (performance.now() - start < seconds * 1000) {
      await engine.publish("publish", DATA);
      count++;
    }
  };
  await Promise.all(Array.from({ length: inFlight }, one));
  const rate = count / ((performance.now() - start) / 1000);
  await engine.stop();
  return rate;
}

/** Messages in a second into a handler that looks at their data. They wait in the engine when the time begins. */
async function intoHandler(read) {
  const engine = await klatch.Engine.start({ log: "memory", limits: ROOMY });
  const subscription = await engine.subscribe("events").open();
  for (let n = 0; n < WAITING; n += 1000) {
    await engine.publishBatch(Array.from({ length: 1000 }, () => ({ room: "events", data: DATA })));
  }
  const start = performance.now();
  let [count, length] = [0, 0];
  const handler = (p) => {
    count++;
    length += p.data.text.length;
  };
  await read(subscription, handler, () => count === WAITING);
  const rate = count / ((performance.now() - start) / 1000);
  if (length !== WAITING * DATA.text.length) throw new Error("some are missing");
  await engine.stop();
  return rate;
}

const byBatches = (subscription, handler, done) =>
  (async () => {
    for await (const batch of subscription.batches()) {
      batch.forEach(handler);
      if (done()) return;
    }
  })();

const byMessages = (subscription, handler, done) =>
  new Promise((resolve) => subscription.on("message", (p) => (handler(p), done() && resolve())));

const byOnes = (subscription, handler, done) =>
  (async () => {
    for await (const p of subscription) {
      handler(p);
      if (done()) return;
    }
  })();

async function load(kind, port, rate, seconds) {
  const args = [path.join(__dirname, "load.js"), kind, port, CLIENTS, rate, seconds].map(String);
  return Number((await run(process.execPath, args)).stdout);
}

/** How long the event loop is held up, at p99, in milliseconds. The monitor's own period is taken off. */
function lateness() {
  const delay = monitorEventLoopDelay({ resolution: 1 });
  delay.enable();
  return () => {
    delay.disable();
    return Math.max(0, delay.percentile(99) / 1e6 - 1);
  };
}

/** The lateness where nothing else happens: the machine's own. */
async function idle(seconds) {
  const late = lateness();
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  return late();
}

/** Messages of clients that a handler has seen in a second, each of which goes back to its room; and the lateness. */
async function chat(seconds, rate, listens = true) {
  const engine = await klatch.Engine.start({ log: "memory", listen: "127.0.0.1:0", limits: ROOMY });
  let [count, length] = [0, 0];
  for (let n = 0; listens && n < CLIENTS; n++) {
    engine.subscribe(`room${n}`).on("message", (p) => {
      count++;
      length += p.data.text.length;
    });
  }
  const port = engine.addresses[0].split(":")[1];
  const [late, before] = [lateness(), performance.eventLoopUtilization()];
  const sent = await load("klatch", port, rate, seconds);
  const p99 = late();
  const busy = 100 * performance.eventLoopUtilization(before).utilization;
  const seen = count / seconds;
  await engine.stop();
  return { seen, p99, busy, sent, length };
}

/** The same job by socket.io. */
async function socketio(seconds, rate) {
  const { Server } = require("socket.io");
  const server = http.createServer();
  const io = new Server(server, { transports: ["websocket"] });
  let [count, length] = [0, 0];
  io.on("connection", (socket) => {
    socket.join(`room${socket.id}`);
    socket.on("message", (data) => {
      count++;
      length += data.text.length;
      io.to(`room${socket.id}`).emit("message", data);
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  const late = lateness();
  const sent = await load("socketio", server.address().port, rate, seconds);
  const p99 = late();
  const seen = count / seconds;
  await io.close();
  return { seen, p99, sent, length };
}

async function round(rust, seconds) {
  const row = {};
  if (rust) {
    const rates = JSON.parse((await run(rust, [String(seconds)])).stdout);
    row["Rust: publishes/s, 100 in flight"] = rates.publish;
    row["Rust: messages/s into a handler"] = rates.events;
  }
  row["awaited publishes/s, 1 in flight"] = await publishes(seconds, 1);
  row["awaited publishes/s, 100 in flight"] = await publishes(seconds, 100);
  row["messages/s into a handler, in batches"] = await intoHandler(byBatches);
  row['messages/s into a handler, on("message")'] = await intoHandler(byMessages);
  row["messages/s into a handler, for await"] = await intoHandler(byOnes);
  row["nothing: event loop late at p99, ms"] = await idle(seconds);
  const steady = await chat(seconds, 50_000);
  row["chat at 50,000/s: sent/s"] = steady.sent;
  row["chat at 50,000/s: seen/s by the handler"] = steady.seen;
  row["chat at 50,000/s: event loop late at p99, ms"] = steady.p99;
  row["chat at 50,000/s: event loop busy, %"] = steady.busy;
  row["the same that no handler sees: late at p99, ms"] = (await chat(seconds, 50_000, false)).p99;
  row["chat flat out: seen/s by the handler"] = (await chat(seconds, 0)).seen;
  const other = await socketio(seconds, 0);
  row["socket.io flat out: seen/s by the handler"] = other.seen;
  row["socket.io flat out: event loop late at p99, ms"] = other.p99;
  const slow = await socketio(seconds, 5_000);
  row["socket.io at 5,000/s: event loop late at p99, ms"] = slow.p99;
  return row;
}

async function main() {
  const options = { rust: { type: "string" }, seconds: { type: "string", default: "2" }, rounds: { type: "string", default: "3" } };
  const { values } = parseArgs({ options });
  const rows = [];
  for (let n = 0; n < Number(values.rounds); n++) rows.push(await round(values.rust, Number(values.seconds)));
  for (const name of Object.keys(rows[0])) {
    const sorted = rows.map((row) => row[name]).sort((a, b) => a - b);
    const median = sorted[Math.floor(sorted.length / 2)];
    const number = (n) => n.toLocaleString("en", { maximumFractionDigits: n < 100 ? 2 : 0 });
    console.log(`${name.padEnd(52)} ${number(median).padStart(12)}   (${number(sorted[0])} to ${number(sorted.at(-1))})`);
  }
}

main();
