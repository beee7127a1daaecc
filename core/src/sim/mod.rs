//! A deterministic simulation: the session, the shards, the hub, the tail, the log and the view under a seeded scheduler, with a clock,
//! a disk and a network of its own. No threads, no sockets, no sleeps; a seed replays exactly.
//!
//! What runs is the engine's own code. The scheduler gives one part after another its turn, and takes over at the [points] where a
//! thread of the engine could be overtaken by others: around every operation of the disk and between the steps of the tail. There it
//! also ends the process, cuts the power, or lets the disk fail or fill up. Clients are the harness's own; at the end everything heals,
//! comes to rest, and the harness's checker compares what they saw with what the log ever held.
//!
//! [points]: crate::points

mod client;
mod disk;
mod net;
mod node;
mod plan;
mod tests;
mod world;

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `n`.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}
