"use strict";

const native = require("./native");

const LEVELS = ["trace", "debug", "info", "warn", "error"];
const NOTHING = 255;

let log;
let handler;

function take() {
  const text = log.take();
  if (text === null || text === undefined) return;
  const [lost, lines] = JSON.parse(text);
  if (lost > 0) lines.push([LEVELS.indexOf("warn"), "klatch", `${lost} lines of the log were lost`]);
  for (const [level, target, text] of lines) {
    try {
      handler?.({ level: LEVELS[level], target, text });
    } catch (error) {
      // It is not the next line's fault.
      setImmediate(() => {
        throw error;
      });
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
