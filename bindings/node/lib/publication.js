"use strict";

const { offset } = require("./data");

/** Of each publication in a table of one room; where it is of many, the room is one more. */
const ITEMS = 6;

/** An id, where 0 stands for none that was given. */
const idOf = (given, at) => (given === 0 ? `~${at}` : given);

/** A stored message. */
class Publication {
  #data;
  #made = false;

  constructor(room, at, prev, time, user, given, raw) {
    this.room = room;
    this.offset = at;
    this.prev = prev;
    this.time = time;
    this.user = user;
    this.id = idOf(given, at);
    this.givenId = given === 0 ? "" : given;
    this.raw = raw;
  }

  get isBytes() {
    return typeof this.raw !== "string";
  }

  /** Made when it is asked for, and then kept. */
  get data() {
    if (!this.#made) {
      this.#data = this.isBytes ? this.raw : JSON.parse(this.raw);
      this.#made = true;
    }
    return this.#data;
  }

  /** With the fields that it has on the wire. */
  toJSON() {
    const { room, offset, prev, time, user, givenId } = this;
    const exact = (n) => (typeof n === "bigint" ? n.toString() : n);
    const head = { room, offset: exact(offset), prev: exact(prev), time };
    if (user) head.user = user;
    if (givenId) head.id = givenId;
    return this.isBytes ? { ...head, bytes: this.raw.toString("base64") } : { ...head, data: this.data };
  }
}

/** Publications from the table, the text and the bytes that the native half makes of them; those of many rooms where the name is empty. */
function made(room, table, text, bytes) {
  const items = room === "" ? ITEMS + 1 : ITEMS;
  const all = new Array(table.length / items);
  let inText = 0;
  let inBytes = 0;
  for (let i = 0, n = 0; i < table.length; i += items, n++) {
    const length = table[i + 5];
    let raw;
    if (length >= 0) {
      raw = text.slice(inText, inText + length);
      inText += length;
    } else {
      // Not a part of the same memory: who keeps one would keep all.
      raw = Buffer.from(bytes.subarray(inBytes, inBytes - 1 - length));
      inBytes += -1 - length;
    }
    const [at, prev] = [offset(table[i]), offset(table[i + 1])];
    all[n] = new Publication(room || table[i + ITEMS], at, prev, table[i + 2], table[i + 3], table[i + 4], raw);
  }
  return all;
}

/** The same from one JSON value. */
function inline(room, [table, text, bytes]) {
  return made(room, table, text, Buffer.from(bytes, "base64"));
}

/** A page of a room's history. */
class HistoryPage {
  constructor(room, [last, epoch, more, page]) {
    this.publications = inline(room, page);
    this.more = more;
    this.last = offset(last);
    this.epoch = epoch;
  }

  get length() {
    return this.publications.length;
  }

  [Symbol.iterator]() {
    return this.publications[Symbol.iterator]();
  }
}

/** What a publish came to: the message is stored. */
class Ack {
  constructor(at, epoch, given, duplicate) {
    this.offset = offset(at);
    this.epoch = epoch;
    this.id = idOf(given, at);
    this.duplicate = duplicate;
  }
}

module.exports = { Publication, HistoryPage, Ack, made, inline };
