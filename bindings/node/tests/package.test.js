"use strict";

// The package as it is published, in a project of its own: what its tarball holds, both kinds of modules, types, and the examples.

const assert = require("node:assert/strict");
const { execFileSync, spawn } = require("node:child_process");
const { once } = require("node:events");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { after, before, test } = require("node:test");
const { Client, PATIENCE, klatch } = require("./support");

const HERE = path.join(__dirname, "..");
const EXAMPLES = path.join(HERE, "../../examples/node");
let project;

const run = (command, args, cwd = project) => execFileSync(command, args, { cwd, encoding: "utf8", timeout: PATIENCE });

before(() => {
  project = fs.mkdtempSync(path.join(os.tmpdir(), "klatch-project-"));
  const [{ filename, files }] = JSON.parse(run("npm", ["pack", "--json", "--ignore-scripts", "--pack-destination", project], HERE));
  const names = files.map((file) => file.path);
  assert.ok(names.includes("klatch.node") && names.includes("index.d.ts"), String(names));
  assert.deepEqual(names.filter((name) => /node_modules|tests\/|types\.js$|\.rs$/.test(name)), []);
  fs.writeFileSync(path.join(project, "package.json"), '{"name": "project", "private": true}');
  run("npm", ["install", "--offline", "--no-audit", "--no-fund", path.join(project, filename)]);
  // What the examples need besides is what these tests have.
  for (const other of fs.readdirSync(path.join(HERE, "node_modules"))) {
    if (!other.startsWith(".")) {
      fs.symlinkSync(path.join(HERE, "node_modules", other), path.join(project, "node_modules", other));
    }
  }
});

after(() => fs.rmSync(project, { recursive: true, force: true }));

const USE = `
  const engine = await Engine.start({ log: "memory" });
  const ack = await engine.publish("lobby", { text: "hello" });
  for await (const p of engine.subscribe("lobby", { since: 0 })) {
    console.log(ack.offset, p.data.text, ack instanceof Ack, new Busy("full").name);
    break;
  }
  await engine.stop();
`;

test("x36: installed from its tarball, required and imported", () => {
  const files = {
    "a.cjs": `const { Engine, Ack, Busy } = require("klatch"); (async () => {${USE}})();`,
    "b.mjs": `import { Engine, Ack, Busy } from "klatch"; ${USE}`,
    "c.mjs": `import klatch from "klatch"; const { Engine, Ack, Busy } = klatch; ${USE}`,
    "d.mjs": `import { engine } from "klatch/testing"; import { existsSync } from "node:fs";
      const e = await engine(); await e.publish("lobby", 1);
      console.log(1, "hello", /^ws:/.test(e.url), "busy"); await e.stop();`,
    "e.mjs": `import { createRequire } from "node:module"; import { Engine, Ack, Busy } from "klatch";
      if (createRequire(import.meta.url)("klatch").Engine !== Engine) throw new Error("there are two"); ${USE}`,
  };
  for (const [name, text] of Object.entries(files)) {
    fs.writeFileSync(path.join(project, name), text);
    assert.equal(run(process.execPath, [name]), "1 hello true busy\n", name);
  }
});

test("both kinds of modules have the same names, and so do the types", async () => {
  const names = Object.keys(klatch).sort();
  assert.deepEqual(Object.keys(await import("klatch")).filter((name) => name !== "default" && name !== "module.exports").sort(), names);
  const types = fs.readFileSync(path.join(HERE, "index.d.ts"), "utf8");
  const typed = [...types.matchAll(/^export (?:class|const|function) (\w+)/gm)].map(([, name]) => name).sort();
  assert.deepEqual(typed, names);
  // And each method and property of the classes.
  const { Engine, Subscription, Consumer, Publication, HistoryPage } = klatch;
  for (const made of [Engine, Subscription, Consumer, Publication, HistoryPage]) {
    const own = Object.getOwnPropertyNames(made.prototype).filter((name) => name !== "constructor");
    const [, body] = types.match(new RegExp(`export class ${made.name} [^]*?\\{\n([^]*?)\n\\}`));
    const declared = new Set([...body.matchAll(/^ {2}(?:static )?(?:readonly )?(\w+)[(:<]/gm)].map(([, name]) => name));
    assert.deepEqual(own.filter((name) => !declared.has(name)), [], made.name);
  }
});

test("no buffer is given that lies in the addon's memory", () => {
  const sources = fs.readdirSync(path.join(HERE, "src")).map((name) => fs.readFileSync(path.join(HERE, "src", name), "utf8"));
  for (const text of sources) assert.doesNotMatch(text, /\bBuffer\b|External|BufferSlice::from_/);
});

/** Starts a program of the project; resolves to it, and the first line that it prints. */
async function start(t, args, env) {
  const child = spawn(process.execPath, args, { cwd: project, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "inherit"] });
  const ended = once(child, "exit");
  t.after(() => {
    child.kill("SIGKILL");
    return ended;
  });
  let out = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (out += text));
  while (!out.includes("\n")) await once(child.stdout, "data", { signal: AbortSignal.timeout(PATIENCE) });
  const stop = async () => {
    child.kill("SIGTERM");
    return (await ended)[0];
  };
  return { line: out.split("\n")[0], stop };
}

test("the Express application", async (t) => {
  fs.copyFileSync(path.join(EXAMPLES, "app.mjs"), path.join(project, "app.mjs"));
  const log = path.join(project, "app-log");
  const { line: url, stop } = await start(t, ["app.mjs"], { SECRET: "s", PORT: "0", CHAT_LOG: log });
  const chat = `${url.replace("http", "ws")}/chat/ws`;
  const stranger = await Client.connect(chat, { user: "ann", token: "x" });
  assert.equal(await stranger.closed, 4501);
  const { token } = await (await fetch(`${url}/login?user=ann`, { method: "POST" })).json();
  const ann = await Client.connect(chat, { token, room: "lobby" });
  assert.equal((await ann.until({ type: "welcome" })).user, "ann");
  ann.send({ type: "publish", data: { text: "cheap SPAM" } });
  assert.equal((await ann.until({ type: "error" })).message, "not here");
  ann.send({ type: "publish", data: { text: " hello " } });
  assert.deepEqual((await ann.until({ type: "publication" })).data, { text: "hello" });
  ann.send({ type: "join", room: "for-bob" });
  await ann.until({ type: "error" });
  ann.send({ type: "join", room: "for-ann" });
  await ann.until({ type: "joined", room: "for-ann" });
  await fetch(`${url}/order?user=ann`, { method: "POST" });
  assert.deepEqual((await ann.until({ room: "for-ann", type: "publication" })).data, { order: "taken" });
  assert.equal(await stop(), 0);
  assert.equal(await ann.closed, 4000);
});

test("the TypeScript bot", async (t) => {
  fs.copyFileSync(path.join(EXAMPLES, "bot.ts"), path.join(project, "bot.ts"));
  run(process.execPath, [path.join(HERE, "node_modules/typescript/bin/tsc"), "--strict", "--target", "es2022", "--module", "nodenext", "bot.ts"]);
  const env = { CHAT_LISTEN: "127.0.0.1:0", CHAT_LOG: path.join(project, "bot-log") };
  for (const [said, more] of [[2, 1], [3, 0]]) {
    const { line, stop } = await start(t, ["bot.js", "lobby"], env);
    const ann = await Client.connect(line.split(" ")[2].split("?")[0], { room: "lobby", user: "ann" });
    assert.match((await ann.until({ type: "signal", name: "greeting" })).data.text, /Welcome to lobby, ann/);
    if (more) ann.send({ type: "publish", data: { text: "hello" } });
    ann.send({ type: "publish", data: { text: "!count" } });
    const told = await (async () => {
      for (;;) {
        const frame = await ann.until({ type: "publication" });
        if (frame.user === "bot") return frame.data.text;
      }
    })();
    assert.equal(told, `ann has said ${said} things`);
    assert.equal(await stop(), 0);
  }
});
