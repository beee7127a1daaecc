// What index.d.ts promises, as the compiler sees it. It is not run.

import {
  Busy,
  Conflict,
  Deny,
  Engine,
  Json,
  KlatchError,
  NotStored,
  OutcomeUnknown,
  Replace,
  SubscriptionEnded,
  codes,
  setLogHandler,
  version,
} from "klatch";
import type {
  Ack,
  ConsumerStatus,
  EngineOptions,
  HistoryPage,
  KafkaSettings,
  Limits,
  Offset,
  Position,
  Publication,
  Retry,
  Settings,
  Subscription,
} from "klatch";
import { engine as testEngine } from "klatch/testing";
import { createServer } from "node:http";

async function all(): Promise<void> {
  const engine: Engine = await Engine.start({
    log: "memory",
    listen: ["127.0.0.1:0"],
    open_users: true,
    limits: { publish_rate: 0 },
    kafka: { partitions: 4, properties: { "security.protocol": "SSL" } },
    onConnect: async ({ token, user }) => (token === "" ? new Deny("who are you?") : user),
    onJoin: ({ room }) => room !== "cellar",
    onPublish: ({ data, raw }) => (raw.length > 9 ? new Replace({ ...data, long: true }) : true),
  });
  // @ts-expect-error: a connect hook names a user.
  new Engine({ onConnect: () => true });
  // @ts-expect-error: no such setting.
  new Engine({ lgo: "memory" });
  // @ts-expect-error: no such setting of the log.
  new Engine({ storage: { segment_byte: 1 << 20 } });
  // @ts-expect-error: no such setting of the view.
  new Engine({ view: { cache: 0 } });
  // @ts-expect-error: no such setting of Kafka.
  new Engine({ kafka: { partition: 4 } });
  // @ts-expect-error: no such limit.
  new Engine({ limits: { publish_rat: 0 } });
  // @ts-expect-error: a size is a number.
  new Engine({ limits: { message_bytes: "64KiB" } });
  // @ts-expect-error: a flag is no text.
  new Engine({ storage: { accept_damage: "yes" } });
  // @ts-expect-error: no such mode.
  new Engine({ kafka: { topic_mode: "delete" } });
  // @ts-expect-error: origins are several.
  new Engine({ origins: "https://chat.example" });
  // @ts-expect-error: a limit is no setting by itself.
  new Engine({ publish_rate: 0 });
  const limits: Limits = { publish_rate: 0, message_bytes: 1 << 20 };
  const kafka: KafkaSettings = { topic_mode: "verify", properties: { sasl: { username: "ann" }, "linger.ms": 5 } };
  const settings: Settings = { log: "memory", listen: "127.0.0.1:0", origins: ["*"], limits, kafka };
  const options: EngineOptions = { ...settings, shards: 2, onJoin: () => true };
  new Engine(options);

  engine.on("joined", ({ connection, user, room }) => engine.send(connection, "hello", { user, room }));
  engine.on("disconnected", async ({ why }) => void why?.length);
  engine.once("storage", ({ refusing }) => void (refusing ?? "fine"));
  engine.on("error", (error) => void (error instanceof KlatchError && error.retryAfterMs));
  engine.prependListener("left", ({ room }) => void room.length).prependOnceListener("lost", ({ count }) => void count.toFixed());
  const heard: boolean = engine.emit("lost", { count: 3 });
  // @ts-expect-error: that is not what it is called with.
  engine.emit("lost", 3);
  // @ts-expect-error: it has no such event.
  engine.prependListener("messages", () => {});
  // @ts-expect-error: it has no such event.
  engine.on("messages", () => {});
  engine.on("message", async ({ room, data }) => void [room.length, data]);
  // What a listener returns is its own affair.
  const names: string[] = [];
  engine.on("message", ({ user }) => names.push(user)).on("left", async ({ user }) => names.push(user));
  engine.on("error", (error: Error) => names.push(error.message));
  const everything: Subscription = engine.subscribeAll();
  everything.close();
  // @ts-expect-error: of a join there is no reason.
  engine.on("joined", ({ why }) => why);

  const ack: Ack = await engine.publish("lobby", { text: "hello" }, { user: "ann", id: "m1" });
  const offset: Offset = ack.offset;
  const outcomes: (Ack | KlatchError)[] = await engine.publishBatch([{ room: "lobby", data: new Json("1") }]);
  const page: HistoryPage = await engine.history("lobby", { after: 5n, limit: 3, backward: true, atLeast: offset });
  for (const p of page) void p.data.text;

  const subscription = engine.subscribe("lobby", { since: { epoch: page.epoch, offset: page.last }, history: 5 });
  const position: Position = (await subscription.open()).position;
  subscription.on("message", (p: Publication) => void p.raw);
  subscription.prependOnceListener("message", (p) => void p.offset).prependListener("end", () => {}).emit("error", heard);
  // @ts-expect-error: a message is a publication.
  subscription.emit("message", "hello");
  for await (const p of subscription) void p.user;
  for await (const batch of engine.subscribe("lobby", { since: 7 }).batches(10)) void batch[0]?.isBytes;
  void position;

  const work = await engine.consume("archive", async (p) => void p.room, { threads: 4, retryMs: [1, 2] });
  const status: ConsumerStatus = work.status();
  void (status.failed?.code ?? (await work.stop(5000)));
  for (const it of [subscription, work, engine]) await it[Symbol.asyncDispose]();
  const disposable: AsyncDisposable = engine;
  void disposable;

  const users: string[] = engine.presence("lobby").users.map(({ user }) => user);
  engine.signal("lobby", "typing", null, { user: users[0] ?? "" });
  engine.kick({ user: "ann", room: "lobby" });
  // @ts-expect-error: whom?
  engine.kick({});
  const detach: () => void = engine.attach(createServer(), { path: "/chat" });
  detach();
  setLogHandler(({ level, target, text }) => void [level.length, target, text], "info");
  setLogHandler(null);
  engine.unref().ref();
  const unwritten: number = await engine.stop(1000);
  void [unwritten, engine.url, engine.addresses[0], engine.health, engine.metrics(), version];

  try {
    await engine.publish("lobby", outcomes);
  } catch (error) {
    if (error instanceof OutcomeUnknown) throw error;
    if (error instanceof NotStored) {
      const retry: Retry = error.retry;
      void [retry, error instanceof Busy, error instanceof Conflict, codes.find(({ code }) => code === error.code)];
    }
    if (error instanceof SubscriptionEnded) void error.why;
  }
  await (await testEngine({ log: "memory" })).stop();
}

void all;
