"use strict";

const assert = require("node:assert/strict");
const { execFileSync } = require("node:child_process");
const { once } = require("node:events");
const fs = require("node:fs");
const http = require("node:http");
const https = require("node:https");
const net = require("node:net");
const path = require("node:path");
const tls = require("node:tls");
const { test } = require("node:test");
const { Client, PATIENCE, engine, folder, klatch, until } = require("./support");

async function listening(t, server) {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => {
    server.closeAllConnections?.();
    server.close();
  });
  return server.address().port;
}

const app = (request, response) => response.end(`app ${request.url}`);

async function get(url, options = {}) {
  const client = url.startsWith("https") ? https : http;
  const [response] = await once(client.get(url, { rejectUnauthorized: false, ...options }), "response");
  let body = "";
  for await (const text of response.setEncoding("utf8")) body += text;
  return [response.statusCode, body, response.headers];
}

/** The sockets that the process has open: one that has two descriptors is there twice. */
const sockets = () =>
  fs.readdirSync("/proc/self/fd").flatMap((fd) => {
    try {
      const name = fs.readlinkSync(`/proc/self/fd/${fd}`);
      return name.startsWith("socket:") ? [name] : [];
    } catch {
      return [];
    }
  });

test("one port for an application and its chat", async (t) => {
  const server = http.createServer(app);
  const e = await engine(t, { listen: undefined });
  e.attach(server);
  const port = await listening(t, server);
  const url = `http://127.0.0.1:${port}`;
  assert.deepEqual((await get(`${url}/healthz`)).slice(0, 2), [200, "app /healthz"]);
  assert.deepEqual((await get(`${url}/klatchy`)).slice(0, 2), [200, "app /klatchy"]);
  assert.deepEqual((await get(`${url}/klatch/healthz`)).slice(0, 2), [200, "ok\n"]);
  assert.deepEqual((await get(`${url}/klatch/nothing`)).slice(0, 2), [404, "not found\n"]);
  const ann = await Client.connect(`ws://127.0.0.1:${port}/klatch/ws`, { room: "lobby", user: "ann" });
  assert.equal((await ann.until({ type: "welcome" })).user, "ann");
  ann.send({ type: "publish", id: "m1", data: "hello" });
  await ann.until({ type: "publication", id: "m1" });
  const [status, body, headers] = await get(`${url}/klatch/rooms/lobby/history?limit=1`);
  assert.deepEqual([status, JSON.parse(body).publications[0].data], [200, "hello"]);
  assert.match(headers["content-type"], /application\/json/);
  // On one connection, the application's and ours.
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  for (const [where, what] of [["/a", "app /a"], ["/klatch/healthz", "ok\n"], ["/b", "app /b"]]) {
    assert.equal((await get(url + where, { agent }))[1], what);
  }
  agent.destroy();
  await e.stop();
  assert.equal(await ann.closed, 4000);
  assert.deepEqual((await get(`${url}/klatch/healthz`)).slice(0, 2), [200, "app /klatch/healthz"], "it is detached");
});

test("the socket is handed over, with all that was sent without waiting", async (t) => {
  const server = http.createServer(app);
  const e = await engine(t, { listen: undefined, limits: { publish_rate: 0 } });
  e.attach(server, { path: "/chat" });
  const port = await listening(t, server);
  const head =
    "GET /chat/ws?room=lobby&user=%C3%A4nn HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Klatch-Odd: \u00e4\r\n\r\n";
  const frame = (text) => {
    const payload = Buffer.from(text);
    return Buffer.concat([Buffer.from([0x81, 0x80 | 126, payload.length >> 8, payload.length & 255, 0, 0, 0, 0]), payload]);
  };
  const frames = [];
  for (let n = 0; n < 300; n++) frames.push(frame(JSON.stringify({ type: "publish", id: `m${n}`, data: "x".repeat(100) })));
  const bytes = Buffer.concat([Buffer.from(head, "latin1"), ...frames]);
  const before = new Set(sockets());
  const clients = [];
  // In pieces as they may come: all at once, in two, a byte apart around the end of the head.
  for (const cuts of [[], [head.length - 1], [head.length], [head.length + 3], [10, head.length - 2, head.length + 20_000]]) {
    const socket = net.connect(port, "127.0.0.1").setNoDelay(true);
    let got = "";
    socket.setEncoding("latin1").on("data", (text) => (got += text));
    socket.setTimeout(PATIENCE, () => socket.destroy(new Error(`only ${got.length} bytes came`)));
    let from = 0;
    for (const to of [...cuts, bytes.length]) {
      await new Promise((resolve) => socket.write(bytes.subarray(from, to), resolve));
      from = to;
      // So that it is more likely read in pieces; nothing depends on it.
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    while (!got.includes('"m299"')) await once(socket, "data");
    assert.match(got, /^HTTP\/1\.1 101 /);
    for (let n = 0; n < 300; n++) assert.ok(got.includes(`"m${n}"`), `m${n} with cuts ${cuts}`);
    clients.push(socket);
  }
  // The client's end of each and the engine's, and no other descriptor: what Node had is closed.
  const ours = () => sockets().filter((name) => !before.has(name));
  await until(() => ours().length === 2 * clients.length);
  assert.equal(new Set(ours()).size, 2 * clients.length);
  assert.equal(await new Promise((resolve) => server.getConnections((_, count) => resolve(count))), 0);
  assert.match(e.metrics(), /^klatch_connections 5$/m);
  clients.forEach((socket) => socket.destroy());
  await until(() => /^klatch_connections 0$/m.test(e.metrics()) && ours().length === 0);
});

/** A key, and a certificate that nobody has to trust. */
function certificate(t) {
  const here = folder(t);
  const [key, cert] = [path.join(here, "key.pem"), path.join(here, "cert.pem")];
  const made = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2", "-subj", "/CN=localhost"];
  execFileSync("openssl", made, { stdio: "ignore" });
  return { key: fs.readFileSync(key), cert: fs.readFileSync(cert) };
}

test("behind TLS it is passed on", async (t) => {
  const server = https.createServer(certificate(t), app);
  const e = await engine(t, { listen: undefined });
  e.attach(server);
  const port = await listening(t, server);
  const connected = once(e, "connected");
  const options = { rejectUnauthorized: false };
  const ann = await Client.connect(`wss://127.0.0.1:${port}/klatch/ws`, { room: "lobby", user: "ann" }, options);
  assert.match((await connected)[0].address, /^127\.0\.0\.1:\d+$/);
  const long = "y".repeat(60_000);
  for (let n = 0; n < 20; n++) ann.send({ type: "publish", id: `m${n}`, data: long });
  for (let n = 0; n < 20; n++) assert.equal((await ann.until({ type: "publication" })).data, long);
  assert.deepEqual((await get(`https://127.0.0.1:${port}/klatch/healthz`)).slice(0, 2), [200, "ok\n"]);
  const gone = once(e, "disconnected");
  ann.ws.terminate();
  await gone;
  const bob = await Client.connect(`wss://127.0.0.1:${port}/klatch/ws`, { user: "bob" }, options);
  e.kick({ user: "bob" });
  assert.equal(await bob.closed, 4500);
});

test("Express and Fastify", async (t) => {
  const express = require("express")();
  express.get("/", (request, response) => response.send("express"));
  const fastify = require("fastify")();
  fastify.get("/", async () => "fastify");
  await fastify.ready();
  t.after(() => fastify.close());
  for (const [server, word] of [[http.createServer(express), "express"], [fastify.server, "fastify"]]) {
    const e = await engine(t, { listen: undefined });
    e.attach(server, { path: "/chat" });
    const port = await listening(t, server);
    assert.deepEqual((await get(`http://127.0.0.1:${port}/`)).slice(0, 2), [200, word]);
    assert.equal((await get(`http://127.0.0.1:${port}/nowhere`))[0], 404);
    assert.equal((await get(`http://127.0.0.1:${port}/chat/readyz`))[1], "ready\n");
    const ann = await Client.connect(`ws://127.0.0.1:${port}/chat/ws`, { user: "ann" });
    await ann.until({ type: "welcome" });
    await ann.close();
  }
});

test("others may have upgrades of their own, and what is nobody's is refused", async (t) => {
  const { WebSocketServer } = require("ws");
  const server = http.createServer(app);
  const e = await engine(t, { listen: undefined, origins: ["https://chat.example"] });
  const detach = e.attach(server);
  const port = await listening(t, server);
  const url = (where) => `ws://127.0.0.1:${port}${where}`;
  await assert.rejects(Client.connect(url("/other")), /404/);
  const others = new WebSocketServer({ noServer: true });
  server.on("upgrade", (request, socket, head) => {
    if (request.url.startsWith("/other")) others.handleUpgrade(request, socket, head, (ws) => ws.send('{"other":1}'));
  });
  const other = await Client.connect(url("/other"));
  assert.deepEqual(await other.next(), { other: 1 });
  await other.close();
  await assert.rejects(Client.connect(url("/klatch/ws"), {}, { origin: "https://evil.example" }), /403/);
  await (await Client.connect(url("/klatch/ws"), { user: "a" }, { origin: "https://chat.example" })).close();
  detach();
  assert.equal(server.listenerCount("upgrade"), 1);
  assert.equal((await get(`http://127.0.0.1:${port}/klatch/healthz`))[1], "app /klatch/healthz");
  assert.throws(() => e.attach({}), TypeError);
  for (const wrong of ["chat", "/chat/", "/"]) assert.throws(() => e.attach(http.createServer(), { path: wrong }), TypeError);
});

/** Sends requests on one connection, each when the one before has been answered; resolves to all that comes until it ends. */
async function conversation(socket, ...requests) {
  let got = "";
  const ask = () => {
    if (requests.length > 0 && !socket.destroyed) socket.write(`${requests.shift()}\r\n\r\n`);
  };
  socket.setEncoding("latin1").on("data", (text) => {
    got += text;
    ask();
  });
  // It may be closed already.
  socket.on("error", () => {});
  const ended = once(socket, "close", { signal: AbortSignal.timeout(PATIENCE) });
  ask();
  await ended;
  return got;
}

test("who is refused does not go on talking to the engine", async (t) => {
  const keys = certificate(t);
  const e = await engine(t, { listen: undefined });
  const evil =
    "GET /klatch/ws HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
  for (const secure of [false, true]) {
    const server = secure ? https.createServer(keys, app) : http.createServer(app);
    e.attach(server);
    const port = await listening(t, server);
    const socket = secure ? tls.connect({ port, host: "127.0.0.1", rejectUnauthorized: false }) : net.connect(port, "127.0.0.1");
    await once(socket, secure ? "secureConnect" : "connect");
    // The engine has an answer for this too, and the server has one of its own.
    const got = await conversation(socket, evil, "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close");
    assert.match(got, /^HTTP\/1.1 403 /);
    assert.equal(got.match(/HTTP\/1.1/g).length, 1, got);
  }
});

test("a server of WebSockets that was there before keeps its own path", async (t) => {
  const { WebSocketServer } = require("ws");
  const server = http.createServer(app);
  const others = new WebSocketServer({ server, path: "/other" });
  others.on("connection", (ws) => ws.send('{"other":1}'));
  const [first, second] = [await engine(t, { listen: undefined }), await engine(t, { listen: undefined })];
  const detach = first.attach(server, { path: "/first" });
  second.attach(server, { path: "/second" });
  const port = await listening(t, server);
  const url = (where) => `127.0.0.1:${port}${where}`;
  const hears = async () => {
    const other = await Client.connect(`ws://${url("/other")}`);
    assert.deepEqual(await other.next(), { other: 1 });
    await other.close();
  };
  await hears();
  for (const where of ["/first/ws", "/second/ws"]) {
    const ann = await Client.connect(`ws://${url(where)}`, { user: "ann" });
    await ann.until({ type: "welcome" });
    await ann.close();
  }
  // The first one goes, though the second came after it.
  detach();
  assert.deepEqual((await get(`http://${url("/first/healthz")}`)).slice(0, 2), [200, "app /first/healthz"]);
  assert.deepEqual((await get(`http://${url("/second/healthz")}`)).slice(0, 2), [200, "ok\n"]);
  await assert.rejects(Client.connect(`ws://${url("/first/ws")}`), /400/, "the other server knows no such path");
  await hears();
});

test("an address that has as many connections as it may is told so", async (t) => {
  const server = http.createServer(app);
  const e = await engine(t, { listen: undefined, limits: { connections_per_address: 1 } });
  e.attach(server);
  const port = await listening(t, server);
  const url = `ws://127.0.0.1:${port}/klatch/ws`;
  await Client.connect(url, { user: "ann" });
  await assert.rejects(Client.connect(url, { user: "ann" }), /429/);
});

test("an engine that has no room for another handshake says so", async (t) => {
  const server = http.createServer(app);
  let why = new klatch.Busy("as many connections are in their handshake as may be");
  const failed = [];
  const refuses = () => {
    throw why;
  };
  require("../lib/attach").attach(server, { socket: refuses, pair: refuses, fail: (error) => failed.push(error) });
  const port = await listening(t, server);
  await assert.rejects(Client.connect(`ws://127.0.0.1:${port}/klatch/ws`), /503/);
  assert.deepEqual((await get(`http://127.0.0.1:${port}/klatch/healthz`)).slice(0, 2), [503, ""]);
  assert.deepEqual(failed, [], "the client knows, and comes back");
  why = new Error("on purpose");
  await assert.rejects(Client.connect(`ws://127.0.0.1:${port}/klatch/ws`), /503/);
  assert.deepEqual((await get(`http://127.0.0.1:${port}/klatch/healthz`)).slice(0, 2), [503, ""]);
  assert.deepEqual(failed, [why, why]);
  assert.deepEqual((await get(`http://127.0.0.1:${port}/healthz`)).slice(0, 2), [200, "app /healthz"]);
});

test("an engine that does not run is attached before its start only", async (t) => {
  const server = http.createServer(app);
  const e = new klatch.Engine({ log: "memory" });
  t.after(() => e.stop());
  e.attach(server);
  const port = await listening(t, server);
  const answer = async () => (await get(`http://127.0.0.1:${port}/klatch/healthz`)).slice(0, 2);
  assert.deepEqual(await answer(), [503, ""]);
  await e.start();
  assert.deepEqual(await answer(), [200, "ok\n"]);
  await e.stop();
  assert.deepEqual(await answer(), [200, "app /klatch/healthz"]);
  assert.throws(() => e.attach(server), klatch.Stopped);
});
