"use strict";

// What is written in Rust. It is built by `npm run build`, or came with the package.

function load() {
  try {
    return require("../klatch.node");
  } catch (error) {
    const here = `${process.platform}-${process.arch}, Node ${process.versions.node}`;
    const text = error.code === "MODULE_NOT_FOUND" ? "it has not been built: npm run build" : error.message;
    throw new Error(`klatch cannot be loaded here (${here}): ${text}`, { cause: error });
  }
}

module.exports = load();
