"use strict";

// What can go wrong. The names and numbers are those of docs/codes.md; what each class is for, index.d.ts says.

class KlatchError extends Error {
  constructor(message = "") {
    super(message);
    const { code, word, retry } = new.target;
    // The name that all faces of klatch share, in the place where JavaScript shows it.
    define(this, { name: word, code, retry, retryAfterMs: 0 });
  }

  static code = 502;
  static word = "internal";
  static retry = "operator";
}

function define(error, properties) {
  for (const [name, value] of Object.entries(properties)) {
    Object.defineProperty(error, name, { value, writable: true, configurable: true, enumerable: name !== "name" });
  }
}

const classes = { KlatchError };

function one(name, Base, code, word, retry) {
  const made = {
    [name]: class extends Base {
      static code = code;
      static word = word;
      static retry = retry;
    },
  }[name];
  classes[name] = made;
  return made;
}

const NotStored = one("NotStored", KlatchError, 502, "internal", "operator");
const OutcomeUnknown = one("OutcomeUnknown", KlatchError, 300, "outcome_unknown", "same_id");
for (const [name, code, word] of [
  ["Busy", 100, "busy"],
  ["Unavailable", 101, "unavailable"],
  ["StorageFull", 102, "storage_full"],
  ["RateLimited", 103, "rate_limited"],
  ["HookTimeout", 104, "hook_timeout"],
  ["Stopping", 105, "stopping"],
  ["Timeout", 106, "timeout"],
]) {
  one(name, NotStored, code, word, "later");
}
const InvalidRequest = one("InvalidRequest", NotStored, 200, "bad_request", "never");
for (const [name, code, word] of [
  ["InvalidName", 202, "invalid_name"],
  ["InvalidData", 203, "invalid_data"],
  ["TooLarge", 204, "too_large"],
  ["TooDeep", 205, "too_deep"],
  ["Conflict", 206, "conflict"],
  ["InvalidId", 211, "invalid_id"],
  ["Unsupported", 212, "unsupported"],
]) {
  one(name, InvalidRequest, code, word, "never");
}
one("Unauthorized", KlatchError, 400, "unauthorized", "forbidden");
one("Denied", KlatchError, 401, "denied", "forbidden");
one("StorageFailed", NotStored, 500, "storage_failed", "operator");
one("LogDamaged", NotStored, 501, "log_damaged", "operator");
one("InternalError", KlatchError, 502, "internal", "operator");
one("DataDirLocked", KlatchError, 503, "data_dir_locked", "operator");
one("Stopped", NotStored, 504, "stopped", "operator");
one("WouldDeadlock", KlatchError, 505, "would_deadlock", "operator");
one("InvalidConfig", KlatchError, 510, "invalid_config", "operator");
one("AddressUnusable", KlatchError, 511, "address_unusable", "operator");
one("DataDirUnusable", KlatchError, 512, "data_dir_unusable", "operator");

class SubscriptionEnded extends KlatchError {
  constructor(why = "") {
    super(`the subscription cannot go on: ${why}`);
    define(this, { why });
  }

  static code = 213;
  static word = "ended";
  static retry = "never";
}
classes.SubscriptionEnded = SubscriptionEnded;

const byWord = new Map();
for (const made of Object.values(classes)) {
  if (made !== KlatchError && made !== NotStored) byWord.set(made.word, made);
}

/** An error from the parts of the engine's. One that this version has no class for is of the class of its hundred. */
function fromParts(code, name, retry, message, retryAfterMs) {
  const hundred = { 1: NotStored, 2: InvalidRequest, 3: OutcomeUnknown }[Math.floor(code / 100)];
  const Class = byWord.get(name) ?? hundred ?? KlatchError;
  const error = new Class(message);
  define(error, { name, code, retry, retryAfterMs });
  return error;
}

/** The error of what the native half threw. */
function typed(error) {
  if (error instanceof Error && error.message.startsWith("[")) {
    let parts;
    try {
      parts = JSON.parse(error.message);
    } catch {
      return error;
    }
    return fromParts(...parts);
  }
  return error;
}

/** Calls the native half. */
function call(run) {
  try {
    return run();
  } catch (error) {
    throw typed(error);
  }
}

module.exports = { classes, fromParts, typed, call };
