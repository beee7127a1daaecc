"use strict";

const { classes } = require("./errors");
const data = require("./data");
const { NEVER } = require("./turn");

/** No; the text goes to the client. To be thrown or returned. */
class Deny extends Error {
  constructor(message = "not allowed") {
    super(message);
    this.name = "Deny";
  }
}

/** Yes, but store this instead. */
class Replace {
  constructor(data) {
    this.data = data;
  }
}

/** A message that a client publishes. */
class PublishRequest {
  #data;
  #made = false;

  constructor(connection, user, room, id, isBytes, raw) {
    this.connection = connection;
    this.user = user;
    this.room = room;
    this.id = id;
    this.raw = isBytes ? Buffer.from(raw, "base64") : raw;
  }

  get isBytes() {
    return typeof this.raw !== "string";
  }

  get data() {
    if (!this.#made) {
      this.#data = this.isBytes ? this.raw : JSON.parse(this.raw);
      this.#made = true;
    }
    return this.#data;
  }
}

const REQUESTS = {
  connect: ([connection, user, token, address]) => ({ connection, user, token, address }),
  join: ([connection, user, room]) => ({ connection, user, room }),
  publish: (parts) => new PublishRequest(...parts),
};

/** The hooks of an engine. */
class Hooks {
  #hooks = {};
  #native;
  #timeout;
  #fail;

  constructor(hooks, native, timeout, fail) {
    for (const [kind, hook] of Object.entries(hooks)) {
      if (hook === undefined) continue;
      if (typeof hook !== "function") throw new TypeError(`a hook is a function, not ${typeof hook}`);
      this.#hooks[kind] = hook;
    }
    this.#native = native;
    // The engine answers for hooks that are late; what is theirs is dropped after, a little later.
    this.#timeout = Math.min(timeout + 200, NEVER);
    this.#fail = fail;
  }

  get authorize() {
    return "connect" in this.#hooks || "join" in this.#hooks;
  }

  get publish() {
    return "publish" in this.#hooks;
  }

  /** Asks the program. */
  ask(answer, kind, parts) {
    const request = REQUESTS[kind](parts);
    const hook = this.#hooks[kind];
    if (!hook) {
      // There is one for connects or joins, but not for this: then everybody may.
      this.#native.allow(answer, request.user);
      return;
    }
    let outcome;
    let waits;
    try {
      outcome = hook(request);
      waits = typeof outcome?.then === "function";
    } catch (error) {
      this.#threw(answer, kind, error);
      return;
    }
    if (!waits) {
      this.#answer(answer, kind, outcome);
      return;
    }
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      this.#native.giveUp(answer);
      this.#fail(new classes.HookTimeout(`the ${kind} hook did not answer in time`));
    }, this.#timeout);
    timer.unref();
    // It may be a promise of somebody else's, which calls when it likes.
    Promise.resolve(outcome).then(
      (value) => {
        clearTimeout(timer);
        if (!late) this.#answer(answer, kind, value);
      },
      (error) => {
        clearTimeout(timer);
        if (!late) this.#threw(answer, kind, error);
      },
    );
  }

  #threw(answer, kind, error) {
    if (error instanceof Deny) {
      this.#answer(answer, kind, error);
    } else {
      this.#native.giveUp(answer);
      this.#fail(error);
    }
  }

  #answer(answer, kind, outcome) {
    const native = this.#native;
    try {
      if (outcome instanceof Deny) {
        native.deny(answer, String(outcome.message));
      } else if (outcome === false) {
        native.deny(answer, "not allowed");
      } else if (kind === "connect" && typeof outcome === "string") {
        native.allow(answer, data.name("a user", outcome));
      } else if (kind !== "connect" && outcome === true) {
        native.allow(answer, "");
      } else if (kind === "publish" && outcome instanceof Replace) {
        const replaced = data.encode(outcome.data);
        if (typeof replaced === "string") native.replace(answer, replaced);
        else native.replaceBytes(answer, replaced);
      } else {
        const what = outcome === undefined ? "nothing" : outcome === null ? "null" : `a ${typeof outcome}`;
        throw new TypeError(`the ${kind} hook returned ${what}, which is no answer`);
      }
    } catch (error) {
      native.giveUp(answer);
      this.#fail(error);
    }
  }
}

module.exports = { Deny, Replace, PublishRequest, Hooks };
