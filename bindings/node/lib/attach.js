"use strict";

const http = require("node:http");
const net = require("node:net");
const { pipeline } = require("node:stream");

/** Where the peer of a socket is, as the engine writes addresses. */
function addressOf(socket) {
  const { remoteAddress = "0.0.0.0", remotePort = 0 } = socket;
  const host = remoteAddress.split("%")[0];
  return host.includes(":") ? `[${host}]:${remotePort}` : `${host}:${remotePort}`;
}

/** The request as it stood on the wire, but for its target, and what has been read behind it. */
function bytesOf(request, target, behind) {
  let head = `${request.method} ${target} HTTP/${request.httpVersion}\r\n`;
  const { rawHeaders } = request;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    // Who is refused must not go on talking to the engine: what comes next may be meant for the server.
    const close = rawHeaders[i].toLowerCase() === "connection" ? ", close" : "";
    head += `${rawHeaders[i]}: ${rawHeaders[i + 1]}${close}\r\n`;
  }
  // Node has read each byte as one character.
  return Buffer.concat([Buffer.from(`${head}\r\n`, "latin1"), behind]);
}

/** The descriptor of a socket that can go over as it is: not one behind TLS, and none with something yet to be sent or read. */
function descriptor(socket) {
  const handle = socket._handle;
  const plain = !socket.encrypted && (handle?.constructor.name === "TCP" || handle?.constructor.name === "Pipe");
  const empty = socket.writableLength === 0 && socket.readableLength === 0;
  return plain && empty && handle.fd >= 0 ? handle.fd : undefined;
}

/** The target within the engine, or nothing. */
function within(path, url) {
  if (!url.startsWith(path)) return undefined;
  const rest = url.slice(path.length);
  return rest === "" || rest.startsWith("?") ? `/${rest}` : rest.startsWith("/") ? rest : undefined;
}

function upgrade(serve, request, target, socket, head) {
  const [address, bytes] = [addressOf(socket), bytesOf(request, target, head)];
  const fd = descriptor(socket);
  try {
    if (fd !== undefined) {
      serve.socket(fd, address, bytes);
      // It is the engine's now. What is closed here is only our descriptor of it.
      socket.destroy();
      return;
    }
    const inner = new net.Socket({ fd: serve.pair(address, bytes) });
    socket.on("error", () => socket.destroy()).on("close", () => inner.destroy());
    // Not before the engine's last words have gone out.
    inner.on("error", () => socket.destroy()).on("close", () => socket.destroySoon());
    socket.pipe(inner).pipe(socket);
  } catch (error) {
    refuse(socket, "503 Service Unavailable");
    // That it is busy or stopped the client is told.
    if (error?.retry === undefined) serve.fail(error);
  }
}

function refuse(socket, status) {
  socket.on("error", () => socket.destroy());
  socket.end(`HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
}

/** One request of a connection that goes on as the server's: it is passed on, and its answer passed back. */
function answer(serve, request, target, response) {
  const failed = () => {
    // Half an answer must not look like a whole one.
    if (response.headersSent) response.destroy();
    else response.writeHead(503, { "content-length": 0 }).end();
  };
  let inner;
  try {
    inner = new net.Socket({ fd: serve.pair(addressOf(request.socket), Buffer.alloc(0)) });
  } catch (error) {
    failed();
    if (error?.retry === undefined) serve.fail(error);
    return;
  }
  const headers = [];
  const { rawHeaders } = request;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (rawHeaders[i].toLowerCase() !== "connection") headers.push(rawHeaders[i], rawHeaders[i + 1]);
  }
  headers.push("connection", "close");
  const passed = http.request({
    method: request.method,
    path: target,
    headers,
    setHost: false,
    createConnection: () => inner,
  });
  passed.on("response", (got) => {
    const back = [];
    for (let i = 0; i < got.rawHeaders.length; i += 2) {
      if (got.rawHeaders[i].toLowerCase() !== "connection") back.push(got.rawHeaders[i], got.rawHeaders[i + 1]);
    }
    response.writeHead(got.statusCode, back);
    pipeline(got, response, () => {});
  });
  passed.on("error", failed);
  response.on("close", () => inner.destroy());
  request.pipe(passed);
}

/** Has requests below a path answered by the engine, and the others as before. Returns what undoes it. */
function attach(server, serve, { path = "/klatch" } = {}) {
  if (typeof server?.on !== "function" || typeof server.listeners !== "function") {
    throw new TypeError("attach takes a server of node:http or node:https");
  }
  if (typeof path !== "string" || (path !== "" && !/^\/.*[^/]$/.test(path))) {
    throw new TypeError('a path is like "/chat", or empty for all of the server');
  }
  // Raw ones: those that are to be called once know it by themselves.
  const [others, upgrades] = [server.rawListeners("request"), server.rawListeners("upgrade")];
  server.removeAllListeners("request").removeAllListeners("upgrade");
  // Where another engine was attached after this, its listeners call ours until it goes.
  let attached = true;
  const onRequest = (request, response) => {
    const target = attached ? within(path, request.url) : undefined;
    if (target !== undefined) answer(serve, request, target, response);
    else for (const other of others) other.call(server, request, response);
  };
  const onUpgrade = (request, socket, head) => {
    const target = attached ? within(path, request.url) : undefined;
    if (target !== undefined) upgrade(serve, request, target, socket, head);
    else if (upgrades.length > 0) for (const other of upgrades) other.call(server, request, socket, head);
    else if (server.listenerCount("upgrade") <= 1) refuse(socket, "404 Not Found");
  };
  server.on("request", onRequest);
  server.on("upgrade", onUpgrade);
  return () => {
    attached = false;
    const all = [
      ["request", onRequest, others],
      ["upgrade", onUpgrade, upgrades],
    ];
    for (const [event, ours, theirs] of all) {
      if (!server.listeners(event).includes(ours)) continue;
      server.removeListener(event, ours);
      for (const other of theirs) server.on(event, other);
    }
  };
}

module.exports = { attach };
