// A chat server with a bot in one of its rooms: it greets who comes in, and counts what was said since it first ran.
//
//   npm install && npx tsc --strict --target es2022 --module nodenext bot.ts && node bot.js lobby

import { Engine, OutcomeUnknown } from "klatch";
import type { Publication } from "klatch";

interface Said {
  text: string;
}

const isSaid = (data: unknown): data is Said => typeof (data as Said | null)?.text === "string";

async function answer(engine: Engine, to: Publication, text: string): Promise<void> {
  // With an id of its own it can be said again, and is heard once: also by a bot that was killed just now, and reads the same again.
  const options = { user: "bot", id: `answer-${to.offset}` };
  try {
    await engine.publish(to.room, { text }, options);
  } catch (error) {
    if (!(error instanceof OutcomeUnknown)) throw error;
    await engine.publish(to.room, { text }, options);
  }
}

async function main(room: string): Promise<void> {
  const { CHAT_LISTEN: listen = "127.0.0.1:8080", CHAT_LOG: log = "chat-data" } = process.env;
  const engine = await Engine.start({ log, listen, open_users: true });
  engine.on("joined", ({ connection, user, room }) => {
    engine.send(connection, "greeting", { text: `Welcome to ${room}, ${user || "whoever you are"}. Try !count.` });
  });
  process.once("SIGINT", () => engine.stop()).once("SIGTERM", () => engine.stop());
  console.log(`chat at ${engine.url}?room=${room}`);

  const count = new Map<string, number>();
  for await (const publication of engine.subscribe(room, { since: 0 })) {
    if (publication.user === "bot" || !isSaid(publication.data)) continue;
    const said = (count.get(publication.user) ?? 0) + 1;
    count.set(publication.user, said);
    if (publication.data.text === "!count") {
      await answer(engine, publication, `${publication.user || "somebody"} has said ${said} things`);
    }
  }
}

main(process.argv[2] ?? "lobby").catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
