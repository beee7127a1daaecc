"use strict";

const data = require("./data");
const { fromParts } = require("./errors");
const { inline } = require("./publication");
const { text } = require("./turn");

/** A member of a consumer group: its handler is called for every publication of every room, each on one node of the group. */
class Consumer {
  #engine;
  #number;
  #handler;
  #stopping;

  /** `engine` is what a consumer may do with it. */
  constructor(engine, number, handler) {
    this.#engine = engine;
    this.#number = number;
    this.#handler = handler;
    engine.begin(number, (answer, room, page) => this.#work(answer, room, page));
  }

  #work(answer, room, page) {
    const done = (error) => this.#engine.worked(this.#number, answer, error);
    if (this.#stopping) {
      done("the consumer is being stopped");
      return;
    }
    const failed = (error) => {
      done(error instanceof Error ? `${error.message}` : text(error));
      this.#engine.fail(error);
    };
    try {
      const outcome = this.#handler(inline(room, page)[0]);
      if (typeof outcome?.then === "function") Promise.resolve(outcome).then(() => done(null), failed);
      else done(null);
    } catch (error) {
      failed(error);
    }
  }

  /** How it is. */
  status() {
    const [numbers, failed] = JSON.parse(this.#engine.status(this.#number));
    const [partitions, lag, handled, retries, skipped, resets, lastError] = numbers;
    const error = failed === null ? null : fromParts(...failed);
    return { partitions, lag, handled, retries, skipped, resets, lastError, failed: error };
  }

  /** Leaves the group; whether all that was handled is committed. */
  async stop(timeoutMs = 10_000) {
    data.ms("the timeout", timeoutMs);
    this.#stopping ??= this.#engine.stop(this.#number, timeoutMs);
    return this.#stopping;
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
