"use strict";

// What the tests share. Nothing here waits by the clock for something to have happened.

const { spawn } = require("node:child_process");
const { once } = require("node:events");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const WebSocket = require("ws");
const klatch = require("klatch");

/** Against hanging; nothing is measured by it. */
const PATIENCE = 300_000;

/** A chat client, on the package ws: an independent implementation of the WebSocket protocol. */
class Client {
  constructor(ws) {
    this.ws = ws;
    this.frames = [];
    this.heard = () => {};
    ws.on("message", (text) => {
      this.frames.push(JSON.parse(text));
      this.heard();
    });
    this.closed = new Promise((resolve) => {
      ws.on("close", (code) => {
        resolve(code);
        this.ended = true;
        this.heard();
      });
    });
    ws.on("error", () => {});
  }

  static async connect(url, query = {}, options = {}) {
    const ws = new WebSocket(`${url}?${new URLSearchParams(query)}`, ["klatch.v1"], options);
    const client = new Client(ws);
    await once(ws, "open", { signal: AbortSignal.timeout(PATIENCE) });
    return client;
  }

  async next() {
    const timer = setTimeout(() => this.ws.terminate(), PATIENCE);
    while (this.frames.length === 0 && !this.ended) await new Promise((resolve) => (this.heard = resolve));
    clearTimeout(timer);
    if (this.frames.length === 0) throw new Error("the connection has ended");
    return this.frames.shift();
  }

  /** The next frame that has these parts. */
  async until(parts) {
    for (;;) {
      const frame = await this.next();
      if (Object.entries(parts).every(([key, value]) => frame[key] === value)) return frame;
    }
  }

  send(frame) {
    this.ws.send(JSON.stringify(frame));
  }

  async close() {
    this.ws.close();
    await this.closed;
  }
}

/** A folder that is removed after the test. */
function folder(t) {
  const made = fs.mkdtempSync(path.join(os.tmpdir(), "klatch-test-"));
  t.after(() => fs.rmSync(made, { recursive: true, force: true }));
  return made;
}

/** An engine that is stopped after the test. */
async function engine(t, options = {}) {
  const made = await klatch.Engine.start({ log: "memory", listen: "127.0.0.1:0", ...options });
  t.after(() => made.stop());
  return made;
}

/** Runs a program in a process of its own, and returns how it ended and what it said. */
async function script(t, code, { args = [], type = "cjs", heard = () => {} } = {}) {
  const file = path.join(folder(t), `program.${type}`);
  // It finds klatch as these tests do.
  const scope = JSON.stringify(path.join(__dirname, "support.js"));
  const head =
    type === "cjs"
      ? `const require_ = require("node:module").createRequire(${scope}); const klatch = require_("klatch");\n`
      : "";
  fs.writeFileSync(file, head + code);
  const child = spawn(process.execPath, ["--unhandled-rejections=strict", file, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: PATIENCE,
    killSignal: "SIGKILL",
  });
  let [out, errors] = ["", ""];
  child.stdout.on("data", (text) => {
    out += text;
    heard(String(text));
  });
  child.stderr.on("data", (text) => (errors += text));
  const [status, signal] = await once(child, "close");
  return { status, signal, out, errors };
}

/** The first error that an engine emits. */
const firstError = (emitter) => once(emitter, "error").then(([error]) => error);

/** Waits until something is so that nothing tells of. */
async function until(is) {
  const end = Date.now() + PATIENCE;
  while (!is()) {
    if (Date.now() > end) throw new Error(`it never came: ${is}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

module.exports = { PATIENCE, Client, folder, engine, script, firstError, until, klatch };
