// An Express application with a chat on its own port: a JSON web token says who a user is, and some words are not stored.
//
//   npm install && SECRET=something PORT=8080 node app.mjs
//
// A page of the application gets a token from /login, and connects to /chat/ws with it:
//
//   const { token } = await (await fetch("/login?user=ann", { method: "POST" })).json();
//   new WebSocket(`ws://${location.host}/chat/ws?room=lobby&token=${token}`, "klatch.v1");

import { createServer } from "node:http";
import express from "express";
import jwt from "jsonwebtoken";
import { Deny, Engine, Replace } from "klatch";

const { PORT = "8080", CHAT_LOG = "chat-data", SECRET } = process.env;
if (!SECRET) throw new Error("SECRET is what tokens are signed with: set it");
const BAD = /\b(spam|scam)\b/i;

const engine = await Engine.start({
  log: CHAT_LOG,
  onConnect({ token }) {
    try {
      const { sub } = jwt.verify(token, SECRET, { algorithms: ["HS256"] });
      if (typeof sub === "string") return sub;
    } catch {
      // It is not one of ours, or too old.
    }
    throw new Deny("log in first");
  },
  // Each user has a room that the application writes into.
  onJoin: ({ user, room }) => !room.startsWith("for-") || room === `for-${user}`,
  onPublish({ room, data }) {
    if (room.startsWith("for-")) return new Deny("only the shop writes here");
    if (typeof data?.text !== "string") return new Deny("a message is an object with a text");
    if (BAD.test(data.text)) return new Deny("not here");
    return new Replace({ text: data.text.trim() });
  },
});
engine.on("error", (error) => console.error(error));

const app = express();
app.post("/login", (request, response) => {
  // Here the application would look at a password.
  const token = jwt.sign({}, SECRET, { subject: String(request.query.user), expiresIn: "1h" });
  response.json({ token });
});
app.post("/order", async (request, response) => {
  // Something happens in the application, and the user's page hears of it.
  const ack = await engine.publish(`for-${request.query.user}`, { order: "taken" }, { user: "shop" });
  response.json({ offset: ack.offset });
});

const server = createServer(app);
engine.attach(server, { path: "/chat" });
server.listen(Number(PORT), "127.0.0.1", () => {
  const { port } = /** @type {import("node:net").AddressInfo} */ (server.address());
  console.log(`http://127.0.0.1:${port}`);
});

async function end() {
  server.close();
  // Clients are told to come back, and what was acknowledged is on the disk.
  await engine.stop();
  process.exit();
}
process.once("SIGINT", end).once("SIGTERM", end);
