"use strict";

// index.d.ts says what runs: what types.js generates of it is up to date, and the settings and classes are those of the engine. That it
// means what it should, tests/types.ts shows to the compiler.

const assert = require("node:assert/strict");
const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");
const { test } = require("node:test");
const { PATIENCE, klatch } = require("./support");

const HERE = path.join(__dirname, "..");
const types = fs.readFileSync(path.join(HERE, "index.d.ts"), "utf8");

test("the types are what types.js generates", () => {
  const { status, stderr } = spawnSync(process.execPath, [path.join(HERE, "types.js"), "--check"], { encoding: "utf8", timeout: PATIENCE });
  assert.equal(stderr, "");
  assert.equal(status, 0);
});

test("each class is declared with its base", () => {
  const declared = Object.fromEntries([...types.matchAll(/^export class (\w+)(?: extends (\w+))?/gm)].map(([, name, base]) => [name, base]));
  const isClass = (made) => typeof made === "function" && /^class\b/.test(Function.prototype.toString.call(made));
  const run = Object.entries(klatch).filter(([, made]) => isClass(made));
  assert.ok(run.length > 30);
  // Which is what it is of everybody's: our own emitters are Node's to who uses them.
  const base = ({ name }) => (name === "Emitter" ? "EventEmitter" : name || undefined);
  const bases = run.map(([name, made]) => [name, base(Object.getPrototypeOf(made))]);
  assert.deepEqual(declared, Object.fromEntries(bases));
});

/** All settings with their defaults, from the file in the document. */
function complete() {
  const [, file] = fs.readFileSync(path.join(HERE, "../../docs/configuration.md"), "utf8").match(/```toml\n([^]*?)```/);
  const settings = {};
  let table = settings;
  for (const line of file.split("\n").filter(Boolean)) {
    const [, names, key, value] = line.match(/^(?:\[(.+)\]|(\w+) = (.+))$/);
    if (names) table = names.split(".").reduce((outer, name) => (outer[name] ??= {}), settings);
    else table[key] = JSON.parse(value);
  }
  return settings;
}

/** The keys of an interface, with their types. */
function members(name) {
  const [, body] = types.match(new RegExp(`^export interface ${name} \\{\n([^]*?)^\\}`, "m"));
  return Object.fromEntries([...body.matchAll(/^ {2}(\w+)\?: (.+);$/gm)].map(([, key, type]) => [key, type]));
}

const isOf = (value, type) => {
  if (type === "Properties") return typeof value === "object";
  if (type.endsWith("readonly string[]")) return Array.isArray(value);
  return typeof value === type || type.split(" | ").includes(JSON.stringify(value));
};

test("the settings have every key of a complete file, and no other, and the engine takes them", async () => {
  const settings = complete();
  const seen = [];
  const compare = (name, table) => {
    seen.push(name);
    const declared = members(name);
    assert.deepEqual(Object.keys(declared).sort(), Object.keys(table).sort(), name);
    for (const [key, type] of Object.entries(declared)) {
      if (/^[A-Z]/.test(type) && type !== "Properties") compare(type, table[key]);
      else assert.ok(isOf(table[key], type), `${name}: ${key} is ${JSON.stringify(table[key])}, and not of type ${type}`);
    }
  };
  compare("Settings", settings);
  assert.deepEqual(seen, ["Settings", "StorageSettings", "ViewSettings", "KafkaSettings", "Limits"]);

  const properties = { sasl: { username: "ann" }, "linger.ms": 5, "enable.idempotence": true };
  const kafka = { ...settings.kafka, properties };
  await (await klatch.Engine.start({ ...settings, kafka, log: "memory", listen: "127.0.0.1:0" })).stop();
  await assert.rejects(klatch.Engine.start({ log: "memory", view: { cache: 0 } }), klatch.InvalidConfig);
});

test("no comment has a link to a document that is not in the package", () => {
  assert.deepEqual(types.match(/\]\([^)]+\)/g), null);
});
