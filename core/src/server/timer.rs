//! One timer wheel per shard: when to look at a connection again. What is due is decided by the connection's own state, so an
//! entry that has become pointless costs one look.

const SLOTS: usize = 512;
const TICK_MS: u64 = 64;

/// A wheel of half a minute; what is further away is looked at once a turn and put back.
#[derive(Debug)]
pub(crate) struct Wheel {
    slots: Vec<Vec<(u32, u32)>>,
    /// The tick that was served last.
    tick: u64,
    count: usize,
}

impl Wheel {
    pub(crate) fn new(now_ms: u64) -> Wheel {
        let mut slots = Vec::new();
        slots.resize_with(SLOTS, Vec::new);
        Wheel { slots, tick: now_ms / TICK_MS, count: 0 }
    }

    /// Looks at connection (slot, generation) at `at_ms`, at most a tick later, or at the wheel's end if that is sooner. Returns
    /// when.
    pub(crate) fn add(&mut self, at_ms: u64, slot: u32, generation: u32) -> u64 {
        let tick = at_ms.div_ceil(TICK_MS).clamp(self.tick + 1, self.tick + SLOTS as u64 - 1);
        self.slots[tick as usize % SLOTS].push((slot, generation));
        self.count += 1;
        tick * TICK_MS
    }

    /// Takes everything that is due.
    pub(crate) fn due(&mut self, now_ms: u64, out: &mut Vec<(u32, u32)>) {
        let now = now_ms / TICK_MS;
        let turns = (now.saturating_sub(self.tick)).min(SLOTS as u64);
        for i in 1..=turns {
            let slot = &mut self.slots[(self.tick + i) as usize % SLOTS];
            self.count -= slot.len();
            out.append(slot);
        }
        self.tick = self.tick.max(now);
    }

    /// In how many milliseconds something may be due.
    pub(crate) fn wait_ms(&self, now_ms: u64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let i = (1..SLOTS as u64).find(|i| !self.slots[(self.tick + i) as usize % SLOTS].is_empty())?;
        Some(((self.tick + i) * TICK_MS).saturating_sub(now_ms).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_in_time_and_once() {
        let mut w = Wheel::new(1_000_000);
        let mut out = Vec::new();
        w.add(1_000_500, 1, 0);
        w.add(1_000_000, 2, 0);
        w.add(9_000_000, 3, 0);
        assert!(w.wait_ms(1_000_000).unwrap() <= TICK_MS);
        w.due(1_000_499, &mut out);
        assert_eq!(out, [(2, 0)]);
        out.clear();
        w.due(1_000_500 + TICK_MS, &mut out);
        assert_eq!(out, [(1, 0)]);
        out.clear();
        w.due(1_000_500 + SLOTS as u64 * TICK_MS * 3, &mut out);
        assert_eq!(out, [(3, 0)], "far ones come early and are put back by their owner");
        assert_eq!(w.wait_ms(5_000_000), None);
    }
}
