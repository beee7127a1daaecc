"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const { test } = require("node:test");
const { setImmediate: turn } = require("node:timers/promises");
const v8 = require("node:v8");
const vm = require("node:vm");
const { klatch, until } = require("./support");

v8.setFlagsFromString("--expose-gc");
const gc = vm.runInNewContext("gc");

const CYCLES = 1000;

const field = (name) => Number(fs.readFileSync("/proc/self/status", "utf8").match(new RegExp(`${name}:\\s+(\\d+)`))[1]);
const threads = () => field("Threads");
const files = () => fs.readdirSync("/proc/self/fd").length;

/** What the process has after everything that nobody holds is gone. */
async function held() {
  for (let n = 0; n < 5; n++) {
    gc();
    await turn();
  }
  const { heapUsed, heapTotal } = process.memoryUsage();
  return {
    heap: heapUsed,
    // How much JavaScript keeps for later goes up and down.
    others: field("VmRSS") * 1024 - heapTotal,
    threads: threads(),
    files: files(),
  };
}

async function cycle() {
  const engine = await klatch.Engine.start({ log: "memory", listen: "127.0.0.1:0", shards: 1, onPublish: () => true });
  engine.on("joined", () => {});
  const subscription = engine.subscribe("lobby");
  subscription.on("message", () => {});
  const left = engine.subscribe("lobby").batch();
  await engine.publish("lobby", { text: "hello" });
  await engine.history("lobby");
  await left;
  await engine.stop();
}

test(`x32: ${CYCLES} starts and stops leave nothing behind`, async () => {
  // By then each thread that comes and goes has found memory to use again.
  for (let n = 0; n < 500; n++) await cycle();
  const before = await held();
  for (let n = 0; n < CYCLES; n++) await cycle();
  // Threads of the last engines may take a moment to end.
  await until(() => threads() <= before.threads && files() <= before.files);
  const after = await held();
  const text = JSON.stringify({ before, after });
  // Of each cycle less than a tenth of what an engine has.
  assert.ok(after.heap - before.heap < CYCLES * 1000, text);
  assert.ok(after.others - before.others < CYCLES * 20_000, text);
});
