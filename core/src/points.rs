//! Where the simulation (`sim`) gets between two steps of the engine, and what it may break there to see that it would be noticed.
//!
//! In a build for users nothing of this is left: [`reach`] is empty and [`broken`] is false.

/// A place at which other threads may run, or the process may end. No lock is held there, but what its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// No lock.
    Free,
    /// No lock; between two steps of the tail, where whoever looks must see either all of a batch or nothing.
    Tail,
    /// Within a flush of the view, which no other flush may overtake.
    Flushing,
    /// The disk has just stopped: the process is no more.
    #[cfg_attr(not(test), expect(dead_code))]
    Died,
}

/// Rules of the engine. The simulation must notice when one is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A batch is synced before it is acknowledged.
    SyncBeforeAck,
    /// A failed sync is final.
    FailedSyncIsFinal,
    /// What may be stored is not reported as *not stored*.
    UnknownIsUnknown,
    /// What found no room is cut back.
    CutBack,
    /// The cut of an incomplete batch is durable before segments follow.
    CutIsDurable,
    /// Rows are in the view before members get them.
    RowsBeforeMembers,
    /// A route begins at what is visible, not at what the tail has placed.
    CursorIsVisible,
    /// A page reads from the member's position on, and leaves nothing out.
    PageIsWhole,
    /// A member that is behind goes on after each page.
    BehindGoesOn,
    /// A reply to a member that is behind waits for its place.
    ReplyInItsPlace,
    /// A shard does not sleep while something waits for it.
    NoLostWakeUp,
    /// A slow member is closed, not left without a part.
    SlowIsClosed,
    /// An id that is under way is not appended a second time.
    OneOfAKey,
    /// Ids that are no longer in memory are looked up in the view.
    OldIdsInTheView,
    /// Retention waits for the view.
    RetentionWaits,
    /// A reply goes to the connection that asked, not to a later one in its slot.
    RightConnection,
    /// The epoch is the log's, not the process's.
    EpochOfTheLog,
    /// The view goes on from its checkpoint.
    FromTheCheckpoint,
}

#[cfg(test)]
impl Rule {
    /// All of them.
    pub(crate) const ALL: &'static [Rule] = &[
        Rule::SyncBeforeAck,
        Rule::FailedSyncIsFinal,
        Rule::UnknownIsUnknown,
        Rule::CutBack,
        Rule::CutIsDurable,
        Rule::RowsBeforeMembers,
        Rule::CursorIsVisible,
        Rule::PageIsWhole,
        Rule::BehindGoesOn,
        Rule::ReplyInItsPlace,
        Rule::NoLostWakeUp,
        Rule::SlowIsClosed,
        Rule::OneOfAKey,
        Rule::OldIdsInTheView,
        Rule::RetentionWaits,
        Rule::RightConnection,
        Rule::EpochOfTheLog,
        Rule::FromTheCheckpoint,
    ];
}

#[cfg(not(test))]
#[inline(always)]
pub(crate) fn reach(_: Point) {}

#[cfg(not(test))]
#[inline(always)]
pub(crate) const fn broken(_: Rule) -> bool {
    false
}

#[cfg(test)]
pub(crate) use in_tests::{broken, reach};
#[cfg(test)]
pub(crate) mod in_tests {
    use super::{Point, Rule};
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    type Hook = Rc<dyn Fn(Point)>;

    thread_local! {
        static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
        static BROKEN: Cell<Option<Rule>> = const { Cell::new(None) };
        static RANDOM: Cell<Option<u64>> = const { Cell::new(None) };
    }

    /// Has this thread's points call `hook` from now on.
    pub(crate) fn set_hook(hook: Option<Hook>) {
        HOOK.set(hook);
    }

    /// Breaks a rule on this thread.
    pub(crate) fn break_rule(rule: Option<Rule>) {
        BROKEN.set(rule);
    }

    /// Has this thread's random bytes come from a seed.
    pub(crate) fn seed_random(seed: Option<u64>) {
        RANDOM.set(seed);
    }

    pub(crate) fn reach(point: Point) {
        let hook = HOOK.with_borrow(Clone::clone);
        if let Some(hook) = hook {
            hook(point);
        }
    }

    pub(crate) fn broken(rule: Rule) -> bool {
        BROKEN.get() == Some(rule)
    }

    /// The next random bytes, where they are not to be random.
    pub(crate) fn random_bytes(bytes: &mut [u8]) -> bool {
        let Some(mut seed) = RANDOM.get() else { return false };
        for byte in bytes {
            seed = seed.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            *byte = (seed >> 56) as u8;
        }
        RANDOM.set(Some(seed));
        true
    }
}
