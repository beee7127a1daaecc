"use strict";

const { errorMonitor } = require("node:events");
const native = require("./native");
const data = require("./data");
const { attach } = require("./attach");
const { Consumer } = require("./consumer");
const { Emitter, CHANGED } = require("./emitter");
const { classes, fromParts, call, typed } = require("./errors");
const { Hooks } = require("./hooks");
const { Ack, HistoryPage } = require("./publication");
const { Subscription } = require("./subscription");
const { NEVER, TURN, turn, callAll, text } = require("./turn");

/** Jobs that are taken at once. */
const STEP = 64;

/** Messages that go to the engine at once, and the characters of all of them; what is behind each of their texts. */
const MOST = 256;
const MOST_TEXT = 1 << 20;
const NUL = "\0";
/** What is done with it comes when what runs now has ended. A microtask of its own would be dearer. */
const soon = Promise.resolve();

/** The last number before they begin anew: the native half has 32 bits for it. Tests have fewer. */
const tickets = { last: 2 ** 32 - 1 };

/** What happens in an engine, and the fields of each. */
const EVENTS = {
  connected: ["connection", "user", "address"],
  disconnected: ["connection", "user", "why"],
  joined: ["connection", "user", "room"],
  left: ["connection", "user", "room"],
  storage: ["refusing"],
  lost: ["count"],
};

/** How a subscription to every room begins. */
const EVERYWHERE = { recovered: false, epoch: "0".repeat(16), last: 0 };

/** Engines that run here. They are kept as a listening server is, and stopped when this thread ends. */
const running = new Set();
let watching = false;

function watchTheEnd() {
  if (watching) return;
  watching = true;
  process.on("exit", () => {
    for (const stopNow of running) stopNow();
  });
}

/** An error that nobody has asked for. */
function raise(error) {
  setImmediate(() => {
    throw error;
  });
}

class Engine extends Emitter {
  #native;
  #settings;
  #page;
  #hooks;
  #addresses;
  #starting;
  #stopping;
  #ticket = 0;
  /** Of the last ack that came with one. */
  #epoch;
  /** Calls that have yet to be answered, and what waits for something to come, by ticket. */
  #calls = new Map();
  #waits = new Map();
  #works = new Map();
  /** Messages that go to the engine when what runs now has ended, or something else is asked of it: their texts, how many, and the first's ticket. */
  #texts = "";
  #count = 0;
  #first = 0;
  #flushed = () => this.#flush();
  /** Keeps the process alive while it is there: a timer that never rings. */
  #alive;
  #runs = false;
  #referenced = true;
  #stopNow = () => {
    try {
      this.#flush();
      this.#native.stopNow(1000);
    } catch {
      // There is nobody to tell.
    }
  };
  #events = { wanted: false, open: false };
  /** The subscription to every room, while somebody listens to messages, and until the end of the turn after that. */
  #messages;
  #hands = (publication) => {
    callAll(this, "message", publication, (error) => this.#fail(error));
  };
  /** The numbers of subscriptions, each with the ticket that it waits with, if it does. */
  #open = new Map();
  #closes = new FinalizationRegistry((number) => this.#let(number));
  #detach = new Set();
  #subscriptions;
  #consumers;

  constructor(options = {}) {
    super();
    const { page, onConnect, onJoin, onPublish, listen, ...settings } = options;
    if (listen !== undefined) settings.listen = typeof listen === "string" ? [listen] : listen;
    this.#settings = settings;
    if (page !== undefined && typeof page !== "string") throw new TypeError(`the page is a string, not ${typeof page}`);
    this.#page = page;
    this.#native = new native.Engine(Engine.#waker(new WeakRef(this)));
    const timeout = settings.limits?.hook_timeout_ms ?? 5000;
    const hooks = { connect: onConnect, join: onJoin, publish: onPublish };
    this.#hooks = new Hooks(hooks, this.#native, timeout, (error) => this.#fail(error));
    this.#subscriptions = {
      poll: (number, most) => this.#poll((ticket) => this.#native.poll(number, most, ticket), number),
      watch: (subscription, number) => this.#closes.register(subscription, number, subscription),
      close: (number, subscription) => {
        if (subscription) this.#closes.unregister(subscription);
        this.#let(number);
      },
      fail: (error, subscription) => this.#fail(error, subscription),
    };
    this.#consumers = {
      begin: (number, work) => this.#works.set(number, work),
      end: (number) => this.#works.delete(number),
      worked: (number, answer, error) => this.#native.worked(number, answer, error),
      status: (number) => call(() => this.#native.consumerStatus(number)),
      stop: (number, timeoutMs) => this.#call((ticket) => this.#native.stopConsumer(ticket, number, timeoutMs)),
      fail: (error) => this.#fail(error),
    };
  }

  /**
   * The native half has this function for as long as it lives, and must not have the engine by it: made in the constructor it would, for
   * the functions that are made in one place keep alive what any of them needs.
   */
  static #waker(engine) {
    return () => engine.deref()?.#wake();
  }

  static async start(options) {
    return new Engine(options).start();
  }

  /** Opens the log, binds the addresses and starts. */
  start() {
    if (this.#starting) return Promise.reject(new Error("the engine has been started"));
    this.#starting = this.#begin();
    return this.#starting;
  }

  async #begin() {
    let settings;
    try {
      settings = JSON.stringify(this.#settings);
    } catch (error) {
      throw new classes.InvalidConfig(`a setting is no plain value: ${error.message}`);
    }
    watchTheEnd();
    running.add(this.#stopNow);
    this.#runs = true;
    const events = this.#events.wanted;
    const number = this.listenerCount("message") > 0 ? this.#next() : undefined;
    if (number !== undefined) this.#open.set(number, undefined);
    try {
      this.#addresses = await this.#call((ticket) =>
        this.#native.start(ticket, settings, this.#page, this.#hooks.authorize, this.#hooks.publish, events, number),
      );
    } catch (error) {
      this.#open.delete(number);
      this.#end();
      throw error;
    }
    if (number !== undefined) this.#hear(new Subscription("", this.#subscriptions, Promise.resolve({ ...EVERYWHERE, number })));
    if (events) this.#pump();
    else if (this.#events.wanted) this.#openEvents();
    this.#hearMessages();
    return this;
  }

  #end() {
    this.#runs = false;
    running.delete(this.#stopNow);
    this.#keep();
    for (const detach of this.#detach) detach();
    this.#detach.clear();
  }

  /** Stops; how many messages were not written in time, each of which was answered. */
  async stop(timeoutMs = 5000) {
    const timeout = data.ms("the timeout", timeoutMs);
    if (!this.#starting) return 0;
    this.#stopping ??= this.#halt(timeout);
    return this.#stopping;
  }

  async #halt(timeout) {
    try {
      await this.#starting;
    } catch {
      // One that did not start has ended.
      return 0;
    }
    this.#flush();
    try {
      return await this.#call((ticket) => this.#native.stop(ticket, timeout));
    } finally {
      // One whose log could not be closed has stopped all the same. One that runs on can be asked again.
      if (this.health === "stopped") this.#end();
      else this.#stopping = undefined;
    }
  }

  /** Keeps the process alive while it runs, and while calls are under way, which goes for an engine that does not run too. */
  #keep() {
    if ((this.#runs && this.#referenced) || this.#calls.size > 0) {
      this.#alive ??= setInterval(() => {}, NEVER);
    } else {
      clearInterval(this.#alive);
      this.#alive = undefined;
    }
  }

  ref() {
    this.#referenced = true;
    this.#keep();
    return this;
  }

  unref() {
    this.#referenced = false;
    this.#keep();
    return this;
  }

  // What has come from the engine's threads.

  #wake() {
    const until = performance.now() + TURN;
    for (;;) {
      let text;
      try {
        text = this.#native.take(STEP);
      } catch (error) {
        // Nobody wakes us again for what is still there.
        setImmediate(() => this.#wake());
        this.#fail(typed(error));
        return;
      }
      if (text === null || text === undefined) return;
      for (const job of JSON.parse(text)) {
        try {
          this.#do(job);
        } catch (error) {
          // It is not the others' fault.
          raise(error);
        }
      }
      if (performance.now() >= until) {
        setImmediate(() => this.#wake());
        return;
      }
    }
  }

  #do(job) {
    const ticket = job[1];
    switch (job[0]) {
      case 0: {
        const [, , at, epoch, id, duplicate] = job;
        // The first of those that are taken together has one.
        if (epoch !== 0) this.#epoch = epoch;
        this.#answered(ticket)?.resolve(new Ack(at, this.#epoch, id, duplicate));
        break;
      }
      case 1:
        this.#answered(ticket)?.reject(fromParts(...job[2]));
        break;
      case 2:
        this.#ready(ticket);
        break;
      case 3:
        this.#answered(ticket)?.resolve(job[2]);
        break;
      case 4:
        this.#hooks.ask(ticket, job[2], job[3]);
        break;
      case 5:
        this.#works.get(ticket)?.(job[2], job[3], job[4]);
        break;
    }
  }

  /** A number that nothing has. They begin anew some time. */
  #next() {
    do this.#ticket = this.#ticket < tickets.last ? this.#ticket + 1 : 0;
    while ([this.#calls, this.#waits, this.#works, this.#open].some((taken) => taken.has(this.#ticket)));
    return this.#ticket;
  }

  /** Makes a call that is answered later. */
  #call(begin, ticket = this.#next()) {
    return new Promise((resolve, reject) => {
      try {
        begin(ticket);
      } catch (error) {
        reject(typed(error));
        return;
      }
      this.#calls.set(ticket, { resolve, reject });
      this.#keep();
    });
  }

  #answered(ticket) {
    const waits = this.#calls.get(ticket);
    this.#calls.delete(ticket);
    this.#keep();
    return waits;
  }

  /** Asks until there is something. */
  async #poll(ask, number) {
    for (;;) {
      const ticket = this.#next();
      const got = call(() => ask(ticket));
      if (got !== null && got !== undefined) return got;
      if (this.#open.has(number)) this.#open.set(number, ticket);
      await new Promise((resolve) => this.#waits.set(ticket, resolve));
    }
  }

  /** A subscription has ended. Whoever waits for it asks again, for a read that is thrown away wakes nobody. */
  #let(number) {
    this.#native.close(number);
    this.#ready(this.#open.get(number));
    this.#open.delete(number);
  }

  #ready(ticket) {
    this.#waits.get(ticket)?.();
    this.#waits.delete(ticket);
  }

  /** An error that no call of the program can be told of. */
  #fail(error, at = this) {
    const emitter = at.listenerCount("error") > 0 ? at : this;
    callAll(emitter, errorMonitor, error, raise);
    if (emitter.listenerCount("error") > 0) {
      callAll(emitter, "error", error, raise);
    } else {
      // A message that a handler cannot deal with must not be the end of the chat.
      process.emitWarning(`nobody listens to the engine's "error": ${text(error)}`, "KlatchWarning");
    }
  }

  // Events.

  [CHANGED](name) {
    if (name === "message" || name === undefined) this.#hearMessages();
    if (!Object.hasOwn(EVENTS, name)) return;
    this.#events.wanted = true;
    if (this.#addresses && this.#runs) this.#openEvents();
  }

  /** Hands out what is delivered in any room, for as long as somebody listens. */
  #hearMessages() {
    const messages = this.#messages;
    if (this.listenerCount("message") > 0) {
      if (!messages) {
        if (this.#addresses && this.#runs && !this.#stopping) this.#hear(this.subscribeAll());
      } else if (messages.listenerCount("message") === 0) {
        messages.on("message", this.#hands);
      }
    } else if (messages && messages.listenerCount("message") > 0) {
      // Who takes the place of the last listener in this turn misses nothing.
      messages.off("message", this.#hands);
      setImmediate(() => {
        if (messages.listenerCount("message") > 0) return;
        if (this.#messages === messages) this.#messages = undefined;
        messages.close();
      });
    }
  }

  #hear(messages) {
    this.#messages = messages;
    messages.on("message", this.#hands);
    this.#hearMessages();
    messages.on("error", (error) => {
      if (this.#messages === messages) this.#messages = undefined;
      this.#fail(error);
      // What is lost is lost, and what comes is to be heard of.
      if (error instanceof classes.SubscriptionEnded) this.#hearMessages();
    });
  }

  #openEvents() {
    if (this.#events.open) return;
    this.#native.openEvents();
    this.#pump();
  }

  async #pump() {
    this.#events.open = true;
    try {
      for (;;) {
        const text = await this.#poll((ticket) => this.#native.pollEvents(ticket));
        const events = JSON.parse(text);
        if (events === null) return;
        for (const [kind, ...values] of events) {
          // Of a kind that this version does not know there is nothing to tell.
          if (!Object.hasOwn(EVENTS, kind)) continue;
          const fields = EVENTS[kind];
          const event = Object.fromEntries(fields.map((field, i) => [field, values[i]]));
          callAll(this, kind, event, (error) => this.#fail(error));
          if (turn.over) await turn.rest();
        }
      }
    } catch (error) {
      this.#fail(error);
    }
  }

  // What a program does with it.

  get addresses() {
    if (!this.#addresses) throw new classes.Stopped("the engine has not been started");
    return [...this.#addresses];
  }

  get url() {
    const [first] = this.addresses;
    if (first === undefined) throw new Error("this engine does not listen: give it `listen`, or attach it to a server");
    return `ws://${first}/ws`;
  }

  get health() {
    return this.#addresses ? call(() => this.#native.health()) : "stopped";
  }

  metrics() {
    return call(() => this.#native.metrics());
  }

  publish(room, message, options = {}) {
    return this.#call((ticket) => {
      const { user = "", id = "" } = options;
      data.name("a room", room);
      data.name("a user", user);
      data.name("an id", id, classes.InvalidId);
      const encoded = data.encode(message);
      if (typeof encoded !== "string") {
        this.#flush();
        this.#native.publishBytes(ticket, room, encoded, user, id);
      } else if (room.includes(NUL) || user.includes(NUL) || id.includes(NUL) || encoded.includes(NUL)) {
        // The engine says what is wrong with it.
        this.#flush();
        this.#native.publish(ticket, room, encoded, user, id);
      } else {
        const texts = room + NUL + user + NUL + id + NUL + encoded + NUL;
        const full = this.#count === MOST || this.#texts.length + texts.length > MOST_TEXT;
        if (full || ticket !== this.#first + this.#count) this.#flush();
        if (this.#count === 0) {
          this.#first = ticket;
          soon.then(this.#flushed);
        }
        this.#texts += texts;
        this.#count += 1;
      }
    });
  }

  #flush() {
    const [first, count, texts] = [this.#first, this.#count, this.#texts];
    if (count === 0) return;
    this.#count = 0;
    this.#texts = "";
    try {
      this.#native.publishAll(first, count, texts);
    } catch (error) {
      const why = typed(error);
      for (let n = 0; n < count; n++) this.#answered(first + n)?.reject(why);
    }
  }

  async publishBatch(messages) {
    // What is no message is found before the first of them is published.
    const all = Array.from(messages, ({ room, data, user, id }) => [room, data, { user, id }]);
    const settled = await Promise.allSettled(all.map((message) => this.publish(...message)));
    return settled.map(({ value, reason }) => value ?? reason);
  }

  async history(room, { after = 0, before = 0, limit = 50, backward = false, atLeast = 0 } = {}) {
    this.#flush();
    const page = await this.#call((ticket) =>
      this.#native.history(
        ticket,
        data.name("a room", room),
        data.digits("after", after),
        data.digits("before", before),
        data.count("limit", limit),
        Boolean(backward),
        data.digits("atLeast", atLeast),
      ),
    );
    return new HistoryPage(room, page);
  }

  subscribe(room, { since, history = 0 } = {}) {
    const position = typeof since === "object" && since !== null ? since : { offset: since };
    return this.#listen(room, (ticket) =>
      this.#native.subscribe(
        ticket,
        data.name("a room", room),
        position.offset === undefined ? null : data.digits("since", position.offset),
        position.epoch === undefined ? null : data.name("an epoch", position.epoch),
        data.count("history", history),
      ),
    );
  }

  /** Listens to every room, from now on. */
  subscribeAll() {
    return this.#listen("", (ticket) => this.#native.subscribe(ticket, null, null, null, 0));
  }

  #listen(room, begin) {
    this.#flush();
    const number = this.#next();
    this.#open.set(number, undefined);
    const opening = this.#call(begin, number);
    const opened = opening.then(
      ([recovered, epoch, last]) => ({ number, recovered, epoch, last }),
      (error) => {
        this.#open.delete(number);
        throw error;
      },
    );
    return new Subscription(room, this.#subscriptions, opened);
  }

  async consume(group, handler, options = {}) {
    if (typeof handler !== "function") throw new TypeError("the handler of a consumer is a function");
    const { fromEnd = false, threads = 1, retryMs = [200, 30_000], releaseMs = 30_000, slowMs = 30_000, properties = {} } = options;
    const slow = Math.min(data.ms("slowMs", slowMs), NEVER);
    const number = this.#next();
    const consumer = new Consumer(this.#consumers, number, handler, slow);
    try {
      await this.#call(
        (ticket) =>
          this.#native.consume(
            ticket,
            data.name("a group", group),
            Boolean(fromEnd),
            data.count("threads", threads),
            data.ms("retryMs", retryMs[0]),
            data.ms("retryMs", retryMs[1]),
            data.ms("releaseMs", releaseMs),
            JSON.stringify(properties),
          ),
        number,
      );
    } catch (error) {
      this.#works.delete(number);
      throw error;
    }
    return consumer;
  }

  presence(room) {
    const text = call(() => this.#native.presence(data.name("a room", room)));
    const [count, users, truncated] = JSON.parse(text);
    return { count, users: users.map(([user, connections]) => ({ user, connections })), truncated };
  }

  signal(room, name, value = null, { user = "" } = {}) {
    data.name("a room", room);
    data.name("a user", user);
    const encoded = data.json(value);
    this.#flush();
    call(() => this.#native.signal(room, user, data.name("an event", name), encoded));
  }

  send(connection, name, value = null) {
    const encoded = data.json(value);
    this.#flush();
    call(() => this.#native.send(data.name("a connection", connection), data.name("an event", name), encoded));
  }

  kick({ user, connection, room }) {
    if ((user === undefined) === (connection === undefined)) throw new TypeError("name either a user or a connection");
    const from = room === undefined ? null : data.name("a room", room);
    this.#flush();
    if (user === undefined) call(() => this.#native.kickConnection(data.name("a connection", connection), from));
    else call(() => this.#native.kickUser(data.name("a user", user), from));
  }

  /** Has the engine answer on the port of a web server, below a path. Returns what ends it. */
  attach(server, options) {
    if (this.#starting && !this.#runs) throw new classes.Stopped("the engine has been stopped");
    const serve = {
      socket: (fd, address, read) => call(() => this.#native.serve(fd, address, read)),
      pair: (address, read) => call(() => this.#native.servePair(address, read)),
      fail: (error) => this.#fail(error),
    };
    const detach = attach(server, serve, options);
    this.#detach.add(detach);
    return () => {
      detach();
      this.#detach.delete(detach);
    };
  }
}

if (Symbol.asyncDispose) {
  Object.defineProperty(Engine.prototype, Symbol.asyncDispose, {
    async value() {
      await this.stop();
    },
  });
}

module.exports = { Engine, tickets };
