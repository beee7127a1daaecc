//! What a check found.

use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

macro_rules! wrongs {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal;)+) => {
        /// What can be wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Wrong { $($(#[doc = $doc])+ $variant,)+ }

        impl Wrong {
            /// Its name in reports.
            pub fn name(self) -> &'static str { match self { $(Wrong::$variant => $name,)+ } }
        }
    };
}

wrongs! {
    /// A message was acknowledged and the log does not hold it.
    LostAck = "lost_ack";
    /// An ack names a position at which the log has something else.
    WrongAck = "wrong_ack";
    /// One message was acknowledged with two positions.
    AckMoved = "ack_moved";
    /// A message sent once was acknowledged as a duplicate.
    FalseDuplicate = "false_duplicate";
    /// A message was reported as not stored each time it was sent, and the log holds it.
    StoredAfterAll = "stored_after_all";
    /// A message has no answer although the run came to rest, or had none in time on a connection that stood.
    Unanswered = "unanswered";
    /// A member got one publication twice.
    Double = "double";
    /// A member got a record that the rule for duplicates keeps from being a publication.
    DuplicateDelivered = "duplicate_delivered";
    /// A member got publications in an order that is not the log's.
    Order = "order";
    /// Two members of a room saw two publications in different orders.
    Disagree = "disagree";
    /// A member missed a publication and was not told.
    Gap = "gap";
    /// A member did not get what the log holds at the end, although the run came to rest.
    Behind = "behind";
    /// A member got a publication that the log does not hold.
    Unlogged = "unlogged";
    /// A member got a publication whose data, user, id or time is not the log's.
    Altered = "altered";
    /// A publication's `prev` is not the publication before it in the log.
    WrongPrev = "wrong_prev";
    /// A publication came after the reply to a leave, or without a join.
    AfterLeave = "after_leave";
    /// A room had two epochs.
    EpochChanged = "epoch_changed";
    /// The run saw less than it was meant to provoke, so it shows nothing.
    NotProvoked = "not_provoked";
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One thing that is wrong, with what is needed to look into it.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// What.
    pub wrong: Wrong,
    /// Who, where, and what was there instead.
    pub detail: String,
}

/// What a run saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Messages published, each counted once however often it was sent.
    pub messages: u64,
    /// Messages that were acknowledged, by an ack or by their own publication.
    pub acked: u64,
    /// Publications delivered.
    pub deliveries: u64,
    /// Acks that said `duplicate`.
    pub duplicates: u64,
    /// Sendings whose outcome was *unknown*: the answer said so, or the connection ended before it.
    pub unknowns: u64,
    /// Sendings that were answered with *not stored*.
    pub not_stored: u64,
    /// Joins with a position that was resumed from.
    pub resumes: u64,
    /// Joins with a position that the server said it could not resume from.
    pub resets: u64,
    /// Connections that ended, on purpose or not.
    pub drops: u64,
    /// Records in the log.
    pub records: u64,
}

/// What a run was meant to provoke. A run that saw less shows nothing and fails.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// At least so many messages.
    pub messages: u64,
    /// At least so many deliveries.
    pub deliveries: u64,
    /// At least so many resumes.
    pub resumes: u64,
    /// At least so many acks that say `duplicate`.
    pub duplicates: u64,
    /// At least so many unknown outcomes.
    pub unknowns: u64,
    /// At least so many resets.
    pub resets: u64,
    /// At most so many resets; `None`: any number.
    pub resets_at_most: Option<u64>,
}

/// The outcome of a check.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Verdict {
    /// How often each thing was wrong. Empty: nothing was.
    pub found: BTreeMap<Wrong, u64>,
    /// The first 20 of each kind.
    pub violations: Vec<Violation>,
    /// What the run saw.
    pub counts: Counts,
    /// Errors the clients were sent, by name. Not wrong in themselves.
    pub errors: BTreeMap<String, u64>,
}

const SHOWN: u64 = 20;

impl Verdict {
    /// Whether nothing is wrong.
    pub fn ok(&self) -> bool {
        self.found.is_empty()
    }

    /// How often this was wrong.
    pub fn count(&self, wrong: Wrong) -> u64 {
        self.found.get(&wrong).copied().unwrap_or_default()
    }

    /// Adds something wrong; `detail` is only made if it will be shown.
    pub fn add(&mut self, wrong: Wrong, detail: impl FnOnce() -> String) {
        let count = self.found.entry(wrong).or_default();
        *count += 1;
        if *count <= SHOWN {
            self.violations.push(Violation { wrong, detail: detail() });
        }
    }

    pub(super) fn provoked(&mut self, expect: &Expect) {
        let seen = self.counts.clone();
        for (what, least, seen) in [
            ("messages", expect.messages, seen.messages),
            ("deliveries", expect.deliveries, seen.deliveries),
            ("resumes", expect.resumes, seen.resumes),
            ("duplicates", expect.duplicates, seen.duplicates),
            ("unknown outcomes", expect.unknowns, seen.unknowns),
            ("resets", expect.resets, seen.resets),
        ] {
            if seen < least {
                self.add(Wrong::NotProvoked, || format!("{seen} {what}, at least {least} were expected"));
            }
        }
        if let Some(most) = expect.resets_at_most.filter(|most| seen.resets > *most) {
            self.add(Wrong::NotProvoked, || format!("{} resets, at most {most} were expected", seen.resets));
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        writeln!(
            f,
            "{} messages, {} acked, {} deliveries, {} duplicates, {} unknown, {} not stored, {} drops, {} resumes, {} resets",
            c.messages,
            c.acked,
            c.deliveries,
            c.duplicates,
            c.unknowns,
            c.not_stored,
            c.drops,
            c.resumes,
            c.resets
        )?;
        if self.ok() {
            return f.write_str("nothing wrong");
        }
        f.write_str("WRONG:")?;
        for (wrong, count) in &self.found {
            write!(f, "\n  {wrong}: {count}")?;
            for violation in self.violations.iter().filter(|v| v.wrong == *wrong) {
                write!(f, "\n    {}", violation.detail)?;
            }
        }
        Ok(())
    }
}
