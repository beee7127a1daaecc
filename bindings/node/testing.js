"use strict";

// For the tests of programs that embed klatch: an engine on a log and a port of its own, which are gone once it has stopped.

const fs = require("node:fs/promises");
const os = require("node:os");
const path = require("node:path");
const { Engine } = require("./index.js");

/** An engine that runs, with a log in a temporary folder and a free port. */
exports.engine = async function engine(options = {}) {
  const folder = await fs.mkdtemp(path.join(os.tmpdir(), "klatch-"));
  const remove = () => fs.rm(folder, { recursive: true, force: true });
  try {
    // Inside, so that the view of a Kafka topic can lie beside it.
    const made = new Engine({ log: path.join(folder, "log"), listen: "127.0.0.1:0", ...options });
    const stop = made.stop.bind(made);
    let stopped;
    made.stop = (timeoutMs) => (stopped ??= stop(timeoutMs).finally(remove));
    return await made.start();
  } catch (error) {
    await remove();
    throw error;
  }
};
