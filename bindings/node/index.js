"use strict";

const { codes, version } = require("./lib/native");
const errors = require("./lib/errors");
const { Json } = require("./lib/data");
const { Ack, HistoryPage, Publication } = require("./lib/publication");
const { Deny, Replace } = require("./lib/hooks");
const { Subscription } = require("./lib/subscription");
const { Consumer } = require("./lib/consumer");
const { Engine } = require("./lib/engine");
const { setLogHandler } = require("./lib/log");

// Named one by one, so that `import { Engine } from "klatch"` finds them in this file too.
exports.Engine = Engine;
exports.Subscription = Subscription;
exports.Consumer = Consumer;
exports.Publication = Publication;
exports.HistoryPage = HistoryPage;
exports.Ack = Ack;
exports.Json = Json;
exports.Deny = Deny;
exports.Replace = Replace;
exports.setLogHandler = setLogHandler;
exports.codes = JSON.parse(codes()).map(([code, name, retry, about]) => ({ code, name, retry, about }));
exports.version = version();
Object.assign(exports, errors.classes);
