//! An engine that sends every WebSocket message back, for the Autobahn cases: what reads and writes frames is the product's.

#![allow(clippy::print_stdout)]

use klatch::{Engine, Settings};
use std::io::Read;

fn main() -> klatch::Result<()> {
    let mut settings = Settings::default();
    let limits = &mut settings.limits;
    // The largest cases have messages of 16 MiB, some of them in fragments of 64 bytes.
    (limits.message_bytes, limits.outbound_bytes) = (16 << 20, 64 << 20);
    limits.fragments = 1 << 20;
    // The cases name nobody, and some take their time.
    limits.handshake_timeout_ms = 600_000;
    let engine = Engine::builder().settings(settings).log("memory").listen("127.0.0.1:0").echo().start()?;
    for address in engine.addresses() {
        println!("listening on {address}");
    }
    // Until whoever started it lets go of it.
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    engine.stop(std::time::Duration::from_secs(5)).map(|_| ())
}
