"use strict";

const { setImmediate: nextTurn } = require("node:timers/promises");

/** Longest that one turn of the event loop is kept, in milliseconds, so that what else there is to do is not held up. */
const TURN = 0.5;

/**
 * Gives the event loop its turn where a loop of promises alone would never do so: a room with enough traffic always has something that
 * need not be waited for.
 */
class Turn {
  #until;

  /** Whether this turn has been kept for long enough. The first question in a turn begins it. */
  get over() {
    if (this.#until !== undefined) return performance.now() >= this.#until;
    this.#until = performance.now() + TURN;
    setImmediate(() => {
      this.#until = undefined;
    });
    return false;
  }

  /** To be awaited now and then. */
  async rest() {
    if (this.over) await nextTurn();
  }
}

/** Calls what the program has registered, each by itself: what one throws or rejects with goes to `fail`, and the others go on. */
function callAll(emitter, name, value, fail) {
  const listeners = emitter.rawListeners(name);
  for (const listener of listeners) {
    try {
      const outcome = listener.call(emitter, value);
      if (typeof outcome?.then === "function") Promise.resolve(outcome).catch(fail);
    } catch (error) {
      fail(error);
    }
  }
  return listeners.length > 0;
}

module.exports = { TURN, Turn, callAll };
