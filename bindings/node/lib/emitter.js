"use strict";

const { EventEmitter } = require("node:events");

/** Called with the name of an event whose listeners have become more or fewer; without one, all of them. */
const CHANGED = Symbol("changed");

/** An emitter that knows who listens. Node's event `newListener` would tell it only until somebody removes all listeners. */
class Emitter extends EventEmitter {
  #changed(name) {
    this[CHANGED](name);
    return this;
  }

  on(name, listener) {
    super.on(name, listener);
    return this.#changed(name);
  }

  addListener(name, listener) {
    return this.on(name, listener);
  }

  prependListener(name, listener) {
    super.prependListener(name, listener);
    return this.#changed(name);
  }

  removeListener(name, listener) {
    super.removeListener(name, listener);
    return this.#changed(name);
  }

  off(name, listener) {
    return this.removeListener(name, listener);
  }

  removeAllListeners(...names) {
    super.removeAllListeners(...names);
    return this.#changed(names[0]);
  }
}

module.exports = { Emitter, CHANGED };
