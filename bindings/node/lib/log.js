"use strict";

const native = require("./native");
const { text: describe } = require("./turn");

const LEVELS = ["trace", "debug", "info", "warn", "error"];
const NOTHING = 255;

let log;
let handler;

/** It is neither the next line's fault nor the program's end. */
function failed(error) {
  process.emitWarning(`the log handler failed: ${describe(error)}`, "KlatchWarning");
}

function take() {
  const text = log.take();
  if (text === null || text === undefined) return;
  const [lost, lines] = JSON.parse(text);
  if (lost > 0) lines.push([LEVELS.indexOf("warn"), "klatch", `${lost} lines of the log were lost`]);
  for (const [level, target, text] of lines) {
    try {
      const outcome = handler?.({ level: LEVELS[level], target, text });
      if (typeof outcome?.then === "function") Promise.resolve(outcome).catch(failed);
    } catch (error) {
      failed(error);
    }
  }
}

/** Has a function called with each line of the log, at this level and above; null: no more. */
function setLogHandler(next, level = "warn") {
  const least = LEVELS.indexOf(level);
  if (least < 0) throw new TypeError(`a level is one of ${LEVELS.join(", ")}`);
  if (next !== null && typeof next !== "function") throw new TypeError("a log handler is a function, or null");
  handler = next ?? undefined;
  if (next === null) log?.setLevel(NOTHING);
  else if (log) log.setLevel(least);
  else log = new native.Log(take, least);
}

module.exports = { setLogHandler };
