"use strict";

// Writes the parts of index.d.ts that are said elsewhere already, between their two marks: the settings, from the tables of
// docs/configuration.md, and the errors, from the classes and codes that run and the classes of codes in docs/codes.md. `node types.js`;
// `--check` only says whether they are up to date. The rest of the file is written by hand.

const fs = require("node:fs");
const path = require("node:path");
const klatch = require("./index.js");

const FILE = path.join(__dirname, "index.d.ts");
const WIDTH = 140;
/** Keys that JavaScript gives in more ways than a file does, and those of tables in tables. */
const TYPES = { listen: "string | readonly string[]", "kafka.properties": "Properties" };

const read = (name) => fs.readFileSync(path.join(__dirname, "../../docs", name), "utf8");
const upper = (text) => text[0].toUpperCase() + text.slice(1);

/** A text of a document as one of the package's, where no document lies beside it: instead of a link the place that it leads to. */
function plain(text, document) {
  const links = text.replace(/\[([^\]]*)\]\(([^)]*)\)/g, (_, shown, to) => {
    const place = to.includes("://") ? to : path.posix.join("docs", to.split("#")[0] || document);
    return place.endsWith(shown) ? place : `${shown} (${place})`;
  });
  return links.replaceAll("\\|", "|");
}

/** A comment of one paragraph or several. */
function comment(paragraphs, indent) {
  const whole = `${indent}/** ${paragraphs.join(" ")} */`;
  if (whole.indexOf("*/") < whole.length - 2) throw new Error(`this would end a comment: ${whole}`);
  if (whole.length <= WIDTH) return [whole];
  const lines = [];
  for (const paragraph of paragraphs) {
    let line = `${indent} *`;
    // What is code stays on one line.
    for (const word of paragraph.match(/(?:`[^`]*`|\S)+/g)) {
      if (line.length + 1 + word.length > WIDTH) {
        lines.push(line);
        line = `${indent} *`;
      }
      line += ` ${word}`;
    }
    lines.push(line);
  }
  return [`${indent}/**`, ...lines, `${indent} */`];
}

/** The rows of the tables of a document whose first column has this name, and below which heading and first words each is. */
function* rows(document, columns) {
  let [heading, intro, within] = ["", "", false];
  for (const line of document.split("\n")) {
    const cells = line.startsWith("|") ? line.split(/(?<!\\)\|/).slice(1, -1).map((cell) => cell.trim()) : [];
    if (line.startsWith("#")) [heading, intro, within] = [line.replace(/^#+ /, ""), "", false];
    else if (cells.length === 0) within = false;
    else if (columns.includes(cells[0])) within = true;
    else if (within && cells[0] !== "---") yield { heading, intro: intro.match(/^.*?[.](?= |$)/)?.[0] ?? "", cells };
    if (cells.length === 0 && !/^(#|<!--|$)/.test(line)) intro += `${intro && " "}${line}`;
  }
}

const unquoted = (cell) => cell.match(/^`([^`]*)`/)[1];

const configuration = [...rows(read("configuration.md"), ["key", "name"])];
const limits = new Set(configuration.filter(({ heading }) => heading === "Limits").map(({ cells }) => unquoted(cells[0])));

/** The type of a setting, by its default; a choice where its text goes through the values, as in "`create`: ...". */
function typeOf(key, value, text) {
  if (key in TYPES) return TYPES[key];
  if (/^\d+$/.test(value)) return "number";
  if (value === "true" || value === "false") return "boolean";
  if (value === "[]") return "readonly string[]";
  if (value === "{}") return "Readonly<Record<string, string>>";
  if (!/^".*"$/.test(value)) throw new Error(`what is the type of ${key}, whose default is ${value}?`);
  const choices = [...text.matchAll(/(?:^|\. )`([^`]+)`: /g)].map(([, choice]) => `"${choice}"`);
  return choices.includes(value) ? choices.join(" | ") : "string";
}

function settings() {
  const tables = new Map([["", { heading: "The settings", intro: "Those that are in no table come first.", lines: [] }]]);
  for (const { heading, intro, cells } of configuration) {
    const [first, said, unit, text] = cells;
    const inLimits = heading === "Limits";
    const key = inLimits ? `limits.${unquoted(first)}` : unquoted(first);
    const [name, table = ""] = key.split(".").reverse();
    if (!tables.has(table)) tables.set(table, { heading, intro, lines: [] });
    const value = unquoted(said);
    const round = said.match(/\(.*\)$/)?.[0];
    const ended = `Default: ${[value === "{}" || value === "[]" ? "none" : inCode(value), unit, round].filter(Boolean).join(" ")}.`;
    const about = plain(inLimits ? text : withTables(text), "configuration.md");
    tables.get(table).lines.push(...comment([about, ended], "  "), `  ${name}?: ${typeOf(key, value, text)};`);
  }
  const nameOf = (table) => (table === "limits" ? "Limits" : `${upper(table)}Settings`);
  const out = [];
  for (const [table, { heading, intro, lines }] of tables) {
    if (table === "") {
      for (const [other, { heading: what }] of tables) {
        if (other !== "") lines.push(...comment([`${what}.`], "  "), `  ${other}?: ${nameOf(other)};`);
      }
    }
    out.push("", ...comment([`${heading}${table && `, \`${table}\``}.`, plain(intro, "configuration.md")].filter(Boolean), ""));
    out.push(`export interface ${table ? nameOf(table) : "Settings"} {`, ...lines, "}");
  }
  return out.slice(1);
}

const inCode = (value) => (/^\d+$/.test(value) ? value : `\`${value}\``);

/** With the names of limits as they are found from elsewhere. */
function withTables(text) {
  return text.replace(/`(\w+)`/g, (whole, name) => (limits.has(name) ? `\`limits.${name}\`` : whole));
}

/** The classes of errors, but those that have more to them and so are written by hand. */
function errors(byHand) {
  const isError = (made) => made === klatch.KlatchError || made?.prototype instanceof klatch.KlatchError;
  const classes = Object.entries(klatch).filter(([, made]) => isError(made));
  const hundreds = new Map();
  for (const { cells } of rows(read("codes.md"), ["code"])) {
    if (/^\dxx$/.test(cells[0])) hundreds.set(cells[0][0], cells[2]);
  }
  const named = ({ code, name }) => `\`${name}\` (${code})`;
  const unnamed = klatch.codes.filter(({ name }) => !classes.some(([, made]) => made.word === name));
  const out = [];
  for (const [name, made] of classes) {
    if (byHand.includes(`export class ${name} `)) continue;
    const own = klatch.codes.find((code) => code.name === made.word);
    const paragraphs = [withTables(plain(own.about, "codes.md")), `${named(own)}, retry: \`${own.retry}\`.`];
    if (classes.some(([, other]) => Object.getPrototypeOf(other) === made)) {
      // Whatever is wrong with a request, also what has no class of its own.
      const hundred = String(own.code)[0];
      const others = unnamed.filter(({ code }) => String(code)[0] === hundred);
      paragraphs[0] = `${upper(plain(hundreds.get(hundred), "codes.md"))}.`;
      paragraphs[1] = `Retry: \`${own.retry}\`. It is the class of ${[own, ...others].map(named).join(", ")} too.`;
    }
    out.push(...comment(paragraphs, ""), `export class ${name} extends ${Object.getPrototypeOf(made).name} {}`);
  }
  return out;
}

/** The file with this part made anew: `make` gets what lies outside of it. */
function renewed(text, source, make) {
  const mark = `// Generated by types.js from ${source}`;
  const [begin, end] = [`${mark}: begin\n`, `${mark}: end\n`];
  const [before, rest] = text.split(begin);
  const after = rest?.split(end)[1];
  if (after === undefined) throw new Error(`index.d.ts has no two lines "${mark}: begin" and "... end"`);
  return `${before}${begin}${make(before + after).join("\n")}\n${end}${after}`;
}

const old = fs.readFileSync(FILE, "utf8");
const withSettings = renewed(old, "docs/configuration.md", settings);
const fresh = renewed(withSettings, "docs/codes.md and lib/errors.js", errors);
if (!process.argv.includes("--check")) {
  fs.writeFileSync(FILE, fresh);
} else if (fresh !== old) {
  process.stderr.write("klatch: index.d.ts is not what the documents and classes say: run `node types.js` in bindings/node\n");
  process.exit(1);
}
