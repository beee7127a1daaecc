"use strict";

const { setImmediate: nextTurn } = require("node:timers/promises");

/** Longest that one turn of the event loop is kept, in milliseconds, so that what else there is to do is not held up. */
const TURN = 0.5;

/**
 * Gives the event loop its turn where a loop of promises alone would never do so: a room with enough traffic always has something that
 * need not be waited for.
 */
class Turn {
  #until = 0;

  /** A turn begins. */
  begin() {
    this.#until = performance.now() + TURN;
  }

  get over() {
    return performance.now() >= this.#until;
  }

  /** To be awaited now and then. */
  async rest() {
    if (this.over) {
      await nextTurn();
      this.begin();
    }
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
