"use strict";

// Builds klatch.node beside this, with cargo and the crates that lie around it: `node build.js`. `--if-missing` does so only where the
// package came without one; `--built` takes what cargo has made already.

const { execFileSync, spawnSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const addon = path.join(__dirname, "klatch.node");
const options = new Set(process.argv.slice(2));

function stop(text) {
  process.stderr.write(`klatch: ${text}\n`);
  process.exit(1);
}

if (options.has("--if-missing") && fs.existsSync(addon)) process.exit(0);
const manifest = path.join(__dirname, "Cargo.toml");
if (!fs.existsSync(manifest)) stop(`there is no klatch.node for ${process.platform}-${process.arch}, nor sources to build it from`);

function cargo(args, stdio) {
  try {
    return execFileSync("cargo", args, { cwd: __dirname, stdio, maxBuffer: 1 << 28 });
  } catch (error) {
    return stop(error.code === "ENOENT" ? "cargo is missing; install Rust from https://rustup.rs" : "cargo failed; see above");
  }
}

const metadata = JSON.parse(cargo(["metadata", "--no-deps", "--format-version", "1"], ["ignore", "pipe", "inherit"]));
if (!options.has("--built")) cargo(["build", "--release", "-p", "klatch-node"], "inherit");
const ending = process.platform === "darwin" ? "dylib" : "so";
const built = path.join(metadata.target_directory, "release", `libklatch_node.${ending}`);
// Under another name first: a program may have the old one open.
const fresh = `${addon}.${process.pid}.tmp`;
fs.copyFileSync(built, fresh);
spawnSync("strip", [process.platform === "darwin" ? "-S" : "--strip-debug", fresh], { stdio: "ignore" });
fs.renameSync(fresh, addon);
