"use strict";

const { inspect } = require("node:util");

/** Longest that one turn of the event loop is kept, in milliseconds, so that what else there is to do is not held up. */
const TURN = 0.5;
/** Longest time of a timer. */
const NEVER = 2 ** 31 - 1;

/** When this turn has been kept for long enough; nothing while nobody has asked. */
let until;
let scheduled = false;
/** Those who wait for another turn. */
const waiting = [];

function begin() {
  until = performance.now() + TURN;
  if (scheduled) return;
  scheduled = true;
  setImmediate(next);
}

/** The next turn is the first's who waits: one each, so that none of them is passed over and all of them together hold up nobody. */
function next() {
  scheduled = false;
  until = undefined;
  const first = waiting.shift();
  if (!first) return;
  begin();
  first();
}

/**
 * The turns of this thread's event loop. A loop of promises alone would never give it one: a room with enough traffic always has something
 * that need not be waited for.
 */
const turn = {
  /** Whether this turn has been kept for long enough, by whomever. The first question in a turn begins it. */
  get over() {
    if (until !== undefined) return performance.now() >= until;
    begin();
    return false;
  },

  /** To be awaited now and then. */
  async rest() {
    if (turn.over) await new Promise((resolve) => waiting.push(resolve));
  },
};

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

/** What was thrown, as text, whatever it is. */
function text(thrown) {
  try {
    return thrown instanceof Error && typeof thrown.stack === "string" ? thrown.stack : inspect(thrown);
  } catch {
    return "something that cannot be shown";
  }
}

module.exports = { NEVER, TURN, turn, callAll, text };
