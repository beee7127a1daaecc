"use strict";

// Clients that talk in rooms of their own: `node load.js klatch|socketio PORT CLIENTS RATE SECONDS`.
//
// Raw sockets and frames that are made once, so that it costs little; a RATE of 0 is as fast as the server takes it. What the server sends
// is read and thrown away. Prints how many messages it sent in a second.

const net = require("node:net");
const { setTimeout: sleep } = require("node:timers/promises");

const TEXT = '{"text":"hello, this is a message as people write them"}';
/** Messages that are written at once, at most. */
const PIECE = 64;

function frame(text) {
  // A mask of zeros changes nothing.
  return Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), Buffer.from(text)]);
}

async function connect(kind, port, n) {
  let got = "";
  let told = () => {};
  const callback = (length, buffer) => {
    // What comes later is thrown away.
    if (told) got += buffer.toString("latin1", 0, length);
    told?.();
    return true;
  };
  const onread = { buffer: Buffer.alloc(1 << 20), callback };
  const socket = net.connect({ port: Number(port), host: "127.0.0.1", onread }).setNoDelay(true);
  const klatch = kind === "klatch";
  const target = klatch ? `/ws?room=room${n}&user=u${n}` : "/socket.io/?EIO=4&transport=websocket";
  const protocol = klatch ? "Sec-WebSocket-Protocol: klatch.v1\r\n" : "";
  socket.write(
    `GET ${target} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n${protocol}` +
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
  );
  const until = async (text) => {
    while (!got.includes(text)) await new Promise((resolve) => (told = resolve));
    got = "";
  };
  // Joined, or the open packet of Engine.IO.
  await until(klatch ? '"joined"' : '"sid"');
  if (!klatch) {
    socket.write(frame("40"));
    await until("40{");
  }
  told = undefined;
  socket.on("close", () => {
    process.stderr.write("the server closed a connection\n");
    process.exit(1);
  });
  return socket;
}

async function main([kind, port, clients, rate, seconds]) {
  const sockets = [];
  for (let n = 0; n < Number(clients); n++) sockets.push(await connect(kind, port, n));
  const message = frame(kind === "klatch" ? `{"type":"publish","data":${TEXT}}` : `42["message",${TEXT}]`);
  const piece = Buffer.concat(Array(PIECE).fill(message));
  const start = performance.now();
  let sent = 0;
  let next = 0;
  for (;;) {
    const now = (performance.now() - start) / 1000;
    if (now >= Number(seconds)) break;
    let due = Number(rate) ? Math.floor(Number(rate) * now) - sent : PIECE * sockets.length;
    for (let tried = 0; tried < sockets.length && due > 0; tried++) {
      const socket = sockets[next++ % sockets.length];
      if (socket.writableLength > 0) continue;
      const count = Math.min(PIECE, due);
      socket.write(piece.subarray(0, count * message.length));
      sent += count;
      due -= count;
    }
    // Who spins takes the processor from those who are measured.
    await (Number(rate) ? sleep(1) : new Promise(setImmediate));
  }
  process.stdout.write(`${Math.round(sent / Number(seconds))}\n`);
  process.exit();
}

main(process.argv.slice(2));
