"use strict";

const data = require("./data");
const { fromParts } = require("./errors");
const { inline } = require("./publication");
const { text } = require("./turn");

function status([numbers, failed]) {
  const [partitions, lag, handled, retries, skipped, resets, lastError] = numbers;
  const error = failed === null ? null : fromParts(...failed);
  return { partitions, lag, handled, retries, skipped, resets, lastError, failed: error };
}

/** What a handler threw, in the words of its own if it has any. */
function messageOf(thrown) {
  try {
    if (thrown instanceof Error && typeof thrown.message === "string") return thrown.message;
  } catch {
    // Something that only looks like an error.
  }
  return text(thrown);
}

/** A member of a consumer group: its handler is called for every publication of every room, each on one node of the group. */
class Consumer {
  #engine;
  #number;
  #handler;
  #slow;
  #stopping;
  /** How it was when it had left. */
  #last;

  /** `engine` is what a consumer may do with it; `slow` how long a handler takes before that is told, in milliseconds. */
  constructor(engine, number, handler, slow) {
    this.#engine = engine;
    this.#number = number;
    this.#handler = handler;
    this.#slow = slow;
    engine.begin(number, (answer, room, page) => this.#work(answer, room, page));
  }

  #work(answer, room, page) {
    const done = (error) => this.#engine.worked(this.#number, answer, error);
    if (this.#stopping) {
      done("the consumer is being stopped");
      return;
    }
    const failed = (error) => {
      done(messageOf(error));
      this.#engine.fail(error);
    };
    const [publication] = inline(room, page);
    let outcome;
    let waits;
    try {
      outcome = this.#handler(publication);
      waits = typeof outcome?.then === "function";
    } catch (error) {
      failed(error);
      return;
    }
    if (!waits) {
      done(null);
      return;
    }
    // It may never be done: it is not called a second time beside the first, but somebody must know.
    const timer = setTimeout(() => {
      if (this.#last) return;
      const error = new Error(`a consumer's handler has been at work for ${this.#slow} ms; what is behind it in its partition waits`);
      this.#engine.fail(Object.assign(error, { publication }));
    }, this.#slow);
    timer.unref();
    Promise.resolve(outcome)
      .finally(() => clearTimeout(timer))
      .then(() => done(null), failed);
  }

  /** How it is. */
  status() {
    return this.#last ?? status(JSON.parse(this.#engine.status(this.#number)));
  }

  /** Leaves the group; whether all that was handled is committed. */
  async stop(timeoutMs = 10_000) {
    data.ms("the timeout", timeoutMs);
    this.#stopping ??= this.#leave(timeoutMs).catch((error) => {
      // It can be asked again.
      this.#stopping = undefined;
      throw error;
    });
    return this.#stopping;
  }

  async #leave(timeoutMs) {
    const [committed, last] = await this.#engine.stop(this.#number, timeoutMs);
    this.#last = status(last);
    this.#engine.end(this.#number);
    return committed;
  }
}

if (Symbol.asyncDispose) {
  Object.defineProperty(Consumer.prototype, Symbol.asyncDispose, {
    async value() {
      await this.stop();
    },
  });
}

module.exports = { Consumer };
