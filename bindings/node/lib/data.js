"use strict";

const { types } = require("node:util");
const { classes } = require("./errors");

/** JSON text that is to be stored as it is, byte for byte. */
class Json {
  constructor(text) {
    if (typeof text !== "string") throw new TypeError("JSON is a text");
    this.text = text;
    Object.freeze(this);
  }

  toString() {
    return this.text;
  }
}

/** Whether a text can be written as UTF-8: a lone surrogate would be replaced on the way, and two names become one. */
const wellFormed = String.prototype.isWellFormed
  ? (text) => text.isWellFormed()
  : (text) => !/\p{Surrogate}/u.test(text);

/** The bytes of a buffer of any kind; else nothing. */
function bytesOf(data) {
  if (data instanceof Uint8Array) return data;
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  // Of any realm.
  if (types.isAnyArrayBuffer(data)) return new Uint8Array(data);
  return undefined;
}

/** What the engine takes: bytes as they are, everything else as JSON text. */
function encode(data) {
  if (typeof data === "object" && data !== null) {
    const bytes = bytesOf(data);
    if (bytes) return bytes;
    if (data instanceof Json) return checked(data.text);
  }
  let text;
  try {
    text = JSON.stringify(data);
  } catch (error) {
    if (error instanceof RangeError) throw new classes.TooDeep("the data is nested too deeply");
    throw new classes.InvalidData(`this is no JSON: ${error.message}`);
  }
  if (text === undefined) throw new classes.InvalidData(`this is no JSON: ${typeof data}`);
  return text;
}

function checked(text) {
  if (!wellFormed(text)) {
    throw new classes.InvalidData("text with a lone surrogate is not UTF-8, and cannot be stored");
  }
  return text;
}

/** The same where bytes have no place. */
function json(data) {
  const text = encode(data === undefined ? null : data);
  if (typeof text !== "string") throw new TypeError("the data of a signal is JSON, not bytes");
  return text;
}

/** A room, a user, an event, an id: a text. */
function name(what, given, Wrong = classes.InvalidName) {
  if (typeof given !== "string") throw new TypeError(`${what} is a string, not ${given === null ? "null" : typeof given}`);
  if (!wellFormed(given)) throw new Wrong(`${what} has a lone surrogate, which is not UTF-8`);
  return given;
}

/** The digits of an offset. */
function digits(what, given) {
  const is = typeof given === "bigint" ? given >= 0n : Number.isSafeInteger(given) && given >= 0;
  if (!is) throw new classes.InvalidRequest(`${what} is an integer from 0 up that is exact: a bigint beyond 2^53`);
  return String(given);
}

/** An offset as the native half gives it: digits where a number would be rounded. */
function offset(given) {
  return typeof given === "string" ? BigInt(given) : given;
}

/** A whole number of a size that the native half takes. */
function count(what, given) {
  if (!Number.isSafeInteger(given) || given < 0) throw new classes.InvalidRequest(`${what} is an integer from 0 up`);
  return Math.min(given, 0xffffffff);
}

/** A time in milliseconds. */
function ms(what, given) {
  if (typeof given !== "number" || !(given >= 0)) throw new classes.InvalidRequest(`${what} is a number of milliseconds from 0 up`);
  return given;
}

module.exports = { Json, encode, json, name, digits, offset, count, ms };
