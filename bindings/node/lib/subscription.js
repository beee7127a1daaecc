"use strict";

const { classes } = require("./errors");
const { count, offset } = require("./data");
const { Emitter, CHANGED } = require("./emitter");
const { made } = require("./publication");
const { turn, callAll } = require("./turn");

/** Most publications of one batch. */
const BATCH = 256;

function size(most) {
  if (count("the size of a batch", most) === 0) throw new classes.InvalidRequest("a batch has room for one at least");
  return most;
}

/** A room's publications: history first, then live, without gap or double. Or those of all rooms, live. */
class Subscription extends Emitter {
  #room;
  #engine;
  #opening;
  /** What the engine has it under; none before it is open, and once it is closed. */
  #number;
  #recovered;
  #epoch;
  /** The offset of the last publication that was handed out. */
  #last;
  #ahead = [];
  #taken = 0;
  #closed = false;
  /** The read that others wait for: each gets what comes after the one before. */
  #tail = Promise.resolve();
  #readers = 0;
  /** Whether listeners are handed what comes; nothing before the first. */
  #flows;

  /** `engine` is what a subscription may do with it. */
  constructor(room, engine, opening) {
    super();
    this.#room = room;
    this.#engine = engine;
    this.#opening = opening.then(({ number, recovered, epoch, last }) => {
      if (this.#closed) {
        engine.close(number);
        return;
      }
      this.#number = number;
      this.#recovered = recovered;
      this.#epoch = epoch;
      this.#last = offset(last);
      engine.watch(this, number);
    });
    // Whoever reads it is told.
    this.#opening.catch(() => {});
  }

  [CHANGED](name) {
    if (name !== "message" || this.#flows || this.listenerCount("message") === 0) return;
    this.#flows = true;
    this.#flow();
  }

  get room() {
    return this.#room;
  }

  /** Resolves to itself once it is open: what comes from there on it will have. */
  async open() {
    await this.#opening;
    return this;
  }

  #opened() {
    if (this.#epoch === undefined) throw new Error("the subscription is not open yet: await its open(), or read from it");
  }

  get recovered() {
    this.#opened();
    return this.#recovered;
  }

  get position() {
    this.#opened();
    return { epoch: this.#epoch, offset: this.#last };
  }

  /** The next publications, at most so many; waits for the first. Empty at the end. */
  async batch(most = BATCH) {
    const limit = size(most);
    return this.#inTurn(async () => {
      const batch = await this.#read(limit);
      if (batch.length > 0) this.#last = batch[batch.length - 1].offset;
      return batch;
    });
  }

  #inTurn(read) {
    this.#readers += 1;
    const outcome = this.#tail.then(read);
    const over = () => {
      this.#readers -= 1;
    };
    this.#tail = outcome.then(over, over);
    return outcome;
  }

  async #read(most) {
    if (this.#taken < this.#ahead.length) {
      const taken = this.#ahead.slice(this.#taken, this.#taken + most);
      this.#taken += taken.length;
      return taken;
    }
    await this.#opening;
    while (!this.#closed) {
      await turn.rest();
      const [text, texts, bytes] = await this.#engine.poll(this.#number, most);
      const table = JSON.parse(text);
      if (typeof table === "string") {
        this.close();
        if (table === "closed" || table === "stopped") break;
        throw new classes.SubscriptionEnded(table);
      }
      if (table.length > 0) return made(this.#room, table, texts, bytes);
    }
    return [];
  }

  /** The next one; none at the end. */
  async #next() {
    if (this.#readers === 0 && this.#taken < this.#ahead.length) return this.#one();
    return this.#inTurn(async () => {
      await this.#fill();
      return this.#one();
    });
  }

  /** Reads on, where everything that was read has been taken. */
  async #fill() {
    if (this.#taken < this.#ahead.length) return;
    const batch = await this.#read(BATCH);
    if (this.#closed) return;
    this.#ahead = batch;
    this.#taken = 0;
  }

  #one() {
    const publication = this.#ahead[this.#taken];
    if (publication !== undefined) {
      this.#taken += 1;
      this.#last = publication.offset;
    }
    return publication;
  }

  /** The publications in arrays of those that are there, each of at most so many. */
  async *batches(most = BATCH) {
    size(most);
    try {
      for (;;) {
        const batch = await this.batch(most);
        if (batch.length === 0) return;
        yield batch;
      }
    } finally {
      this.close();
    }
  }

  [Symbol.asyncIterator]() {
    return {
      next: async () => {
        const value = await this.#next();
        return value === undefined ? { done: true, value } : { done: false, value };
      },
      return: async () => {
        this.close();
        return { done: true, value: undefined };
      },
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  /** Whether there is nobody to hand out to: what comes waits for the next listener, or another read. */
  get #idle() {
    return !this.#closed && this.listenerCount("message") === 0;
  }

  /** Hands out to listeners, for as long as there are any. */
  async #flow() {
    try {
      do {
        if (this.#idle) {
          this.#flows = false;
          return;
        }
      } while (await this.#inTurn(() => this.#handOut()));
    } catch (error) {
      this.#fail(error);
    }
    callAll(this, "end", undefined, (error) => this.#fail(error));
  }

  /** Hands out what there is, and waits for it; whether there may be more. */
  async #handOut() {
    await this.#fill();
    let any = false;
    for (;;) {
      // Who is closed has no turn to wait for.
      if (this.#closed) return any;
      if (turn.over) await turn.rest();
      if (this.#idle) return true;
      const publication = this.#one();
      if (publication === undefined) return any;
      any = true;
      callAll(this, "message", publication, (error) => this.#fail(error));
    }
  }

  #fail(error) {
    this.#engine.fail(error, this);
  }

  /** Ends it; whoever waits for it is told so. */
  close() {
    if (this.#closed) return;
    this.#closed = true;
    this.#ahead = [];
    this.#taken = 0;
    if (this.#number !== undefined) this.#engine.close(this.#number, this);
    // Whoever has listened is told of the end all the same.
    if (this.#flows === false) {
      this.#flows = true;
      this.#flow();
    }
  }
}

if (Symbol.asyncDispose) {
  Object.defineProperty(Subscription.prototype, Symbol.asyncDispose, {
    async value() {
      this.close();
    },
  });
}

module.exports = { Subscription };
