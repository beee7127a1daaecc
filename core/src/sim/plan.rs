//! What a seed decides before anything happens: settings, clients, and which faults there are.

use super::Random;
use crate::config::Settings;

/// See the module.
pub(super) struct Plan {
    pub(super) settings: Settings,
    /// The user of each client; some have several.
    pub(super) clients: Vec<&'static str>,
    pub(super) turns: u64,
    /// One in so many points gives somebody else a turn.
    pub(super) overtaking: u64,
    /// Bytes that a socket takes before its client reads.
    pub(super) socket: usize,
    /// How rare each kind of fault is, 1 the most frequent; 0: there is none.
    pub(super) kills: u64,
    pub(super) cuts: u64,
    pub(super) disk_faults: u64,
    pub(super) drops: u64,
    /// A start may find no view.
    pub(super) lost_views: bool,
    pub(super) clock_jumps: bool,
}

impl Plan {
    pub(super) fn new(random: &mut Random) -> Plan {
        let mut settings = Settings { shards: 1 + random.below(3) as usize, ..Settings::default() };
        let limits = &mut settings.limits;
        limits.publish_rate = 0;
        limits.request_rate = 0;
        limits.connections_per_address = 0;
        limits.pending_publishes = [2, 8, 256][random.below(3) as usize];
        limits.outbound_bytes = [400, 3000, 1 << 20][random.below(3) as usize];
        limits.history_page = 1 + random.below(8) as usize;
        limits.history_page_bytes = [200, 1000, 256 << 10][random.below(3) as usize];
        limits.history_reads = 1 + random.below(3) as usize;
        limits.recent_bytes = [0, 600, 64 << 20][random.below(3) as usize];
        limits.rooms_in_memory = [1, 2, 200_000][random.below(3) as usize];
        limits.ids_bytes = [0, 64 << 20][random.below(2) as usize];
        limits.append_queue = [2, 10, 65_536][random.below(3) as usize];
        settings.storage.segment_bytes = [1, 400, 2000, 128 << 20][random.below(4) as usize];
        let retains = random.one_in(2);
        if retains {
            settings.storage.retain_bytes = [1, 1500, 4000][random.below(3) as usize];
        }
        if random.one_in(4) {
            settings.view.history_per_room = 1 + random.below(8);
        }
        let rate = |random: &mut Random, most: u64| match random.below(3) {
            0 => 0,
            _ => 1 + random.below(most),
        };
        let clients = ["ann", "ann", "bob", "cy", ""];
        let count = 2 + random.below(clients.len() as u64 - 1) as usize;
        Plan {
            clients: clients.into_iter().take(count).collect(),
            turns: 200 + random.below(1200),
            overtaking: 2 + random.below(12),
            socket: [64, 700, 1 << 20][random.below(3) as usize],
            kills: rate(random, 6),
            cuts: rate(random, 6),
            disk_faults: rate(random, 4),
            drops: rate(random, 3),
            // With both, what was dropped is known to nobody, and the checker cannot tell what is right.
            lost_views: !retains && random.one_in(3),
            clock_jumps: random.one_in(3),
            settings,
        }
    }

    /// Whether a position can ever be too old.
    pub(super) fn forgets(&self) -> bool {
        self.settings.storage.retain_bytes > 0 || self.settings.view.history_per_room < 100
    }
}
