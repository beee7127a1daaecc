//! Whether each membership saw a stretch of the room's log, whole and in order.

use super::verdict::{Verdict, Wrong};
use crate::log::{Accepted, Room};
use crate::observe::{Began, ClientLog, End, Run};
use std::collections::{BTreeSet, HashSet};

/// The check of one room, client by client.
pub(super) struct RoomCheck<'a> {
    name: &'a str,
    log: &'a Room,
    epoch: Option<&'a str>,
    /// Runs that saw the places from the first to before the second, in order, and who they were.
    whole: Vec<(usize, usize, &'a str)>,
    /// Places that a client saw in the wrong order: (late, after, who).
    inversions: Vec<(usize, usize, &'a str)>,
}

impl<'a> RoomCheck<'a> {
    pub(super) fn new(name: &'a str, log: &'a Room) -> RoomCheck<'a> {
        RoomCheck { name, log, epoch: log.epoch.as_deref(), whole: Vec::new(), inversions: Vec::new() }
    }

    /// Checks all that one client saw in this room.
    pub(super) fn client(
        &mut self,
        client: &'a ClientLog,
        place: usize,
        complete: bool,
        verdict: &mut Verdict,
    ) {
        let Some(seen) = client.rooms.get(place) else { return };
        for delivery in &seen.outside {
            verdict.counts.deliveries += 1;
            verdict.add(Wrong::AfterLeave, || {
                format!("{} got offset {} of {} as no member of it", client.name, delivery.offset, self.name)
            });
        }
        // What it need not get: own messages, where it asked for no echo.
        let own: HashSet<(&str, &str)> = client
            .publishes
            .iter()
            .filter(|p| p.room == place)
            .map(|p| (client.user.as_str(), &*p.id))
            .collect();
        let acked: HashSet<u64> = client
            .publishes
            .iter()
            .filter(|p| p.room == place)
            .flat_map(|p| p.acks.iter().map(|a| a.offset))
            .collect();
        for run in &seen.runs {
            verdict.counts.deliveries += run.deliveries.len() as u64;
            verdict.counts.resumes += run.resumes.len() as u64 + u64::from(run.began == Began::Since);
            verdict.counts.resets += u64::from(run.began == Began::Reset);
            let epoch = client.epochs.get(run.epoch).map_or("", String::as_str);
            if *self.epoch.get_or_insert(epoch) != epoch {
                let first = self.epoch.unwrap_or_default();
                verdict.add(Wrong::EpochChanged, || {
                    format!("{} was told epoch {epoch} of {}, others {first}", client.name, self.name)
                });
                continue;
            }
            // An own message without an id may have been passed by its ack alone when the connection dropped.
            let excused = |a: &Accepted| {
                let mine = if a.id.is_empty() {
                    acked.contains(&a.offset)
                } else {
                    own.contains(&(&*a.user, &*a.id))
                };
                mine && (!run.echo || a.id.is_empty())
            };
            self.run(&client.name, run, complete, excused, verdict);
        }
    }

    fn run(
        &mut self,
        who: &'a str,
        run: &Run,
        complete: bool,
        excused: impl Fn(&Accepted) -> bool,
        verdict: &mut Verdict,
    ) {
        let log = &self.log.accepted;
        let room = self.name;
        // The place after the position it began at, and the place that comes next.
        let first = log.partition_point(|a| a.offset <= run.start);
        let mut next = first;
        let mut missing: BTreeSet<usize> = BTreeSet::new();
        let mut whole = true;
        let mut odd = run.odd_prev.iter().peekable();
        for (at, delivery) in run.deliveries.iter().enumerate() {
            let offset = delivery.offset;
            let prev = odd.next_if(|(place, _)| *place == at).map(|(_, prev)| *prev);
            // In step, which nearly all are; else search.
            let place = match log.get(next) {
                Some(expected) if expected.offset == offset => Some(next),
                _ => self.log.find(offset),
            };
            let Some(place) = place else {
                whole = false;
                match self.log.refused.get(&offset) {
                    Some(why) => verdict.add(Wrong::DuplicateDelivered, || {
                        format!(
                            "{who} got offset {offset} of {room}, which is a {why:?} of an earlier record"
                        )
                    }),
                    None => verdict.add(Wrong::Unlogged, || {
                        format!("{who} got offset {offset} of {room}, which the log does not hold")
                    }),
                }
                continue;
            };
            let Some(record) = log.get(place) else { continue };
            if record.content != delivery.content {
                verdict.add(Wrong::Altered, || {
                    format!(
                        "{who} got another content at offset {offset} of {room} than the log's, which is of user {:?} with id {:?}",
                        record.user, record.id
                    )
                });
            }
            // `prev` is the position before it where nothing else was noted; what is out of step is named below.
            let before = place.checked_sub(1).and_then(|p| log.get(p)).map_or(0, |a| a.offset);
            if let Some(prev) = prev.filter(|prev| *prev != before) {
                verdict.add(Wrong::WrongPrev, || {
                    format!(
                        "{who} got offset {offset} of {room} with prev {prev}; the log has {before} before it"
                    )
                });
            }
            if place >= next {
                for skipped in next..place {
                    missing.insert(skipped);
                }
                if prev.is_none() && place > next && log.get(next).is_some_and(|a| !excused(a)) {
                    // It hid the gap: prev fitted the client's position and not the log.
                    verdict.add(Wrong::WrongPrev, || {
                        format!(
                            "{who} got offset {offset} of {room} with a prev that hides the gap before it"
                        )
                    });
                }
                next = place + 1;
            } else if missing.remove(&place) {
                whole = false;
                let after = next.saturating_sub(1);
                verdict.add(Wrong::Order, || {
                    let later = log.get(after).map_or(0, |a| a.offset);
                    format!("{who} got offset {offset} of {room} after offset {later}")
                });
                self.inversions.push((place, after, who));
            } else if place >= first {
                verdict.add(Wrong::Double, || {
                    format!(
                        "{who} got offset {offset} of {room} twice (id {:?} of user {:?})",
                        record.id, record.user
                    )
                });
            } else {
                whole = false;
                verdict.add(Wrong::Order, || {
                    format!("{who} got offset {offset} of {room}, from before its position {}", run.start)
                });
            }
        }
        missing.retain(|place| log.get(*place).is_some_and(|a| !excused(a)));
        whole &= missing.is_empty();
        for place in &missing {
            verdict.add(Wrong::Gap, || {
                let offset_at = |p: Option<usize>| p.and_then(|p| log.get(p)).map_or(0, |a| a.offset);
                let (offset, id) = log.get(*place).map_or((0, ""), |a| (a.offset, &*a.id));
                let after = if *place == first { run.start } else { offset_at(place.checked_sub(1)) };
                let resumes: Vec<String> = run
                    .resumes
                    .iter()
                    .filter(|r| r.since <= offset)
                    .map(|r| format!("resume since {} at delivery {}, told {}", r.since, r.after, r.offset))
                    .collect();
                format!(
                    "{who} missed offset {offset} of {room} (id {id:?}), which follows {after}; it began at {} ({:?}); {}",
                    run.start,
                    run.began,
                    resumes.last().map_or("no resume before", String::as_str)
                )
            });
        }
        let end = log.len();
        if complete && run.end == End::Open && log.get(next..).unwrap_or_default().iter().any(|a| !excused(a))
        {
            verdict.add(Wrong::Behind, || {
                let last = next.checked_sub(1).and_then(|p| log.get(p)).map_or(0, |a| a.offset);
                let end = log.last().map_or(0, |a| a.offset);
                format!(
                    "{who} is still a member of {room} and got it only up to {last}; the log goes on to {end}"
                )
            });
        }
        if whole {
            self.whole.push((first, next.min(end), who));
        }
    }

    /// Names a member that saw it otherwise, for each inversion that has one.
    pub(super) fn witnesses(&self, verdict: &mut Verdict) {
        for (late, after, who) in &self.inversions {
            let other =
                self.whole.iter().find(|(from, to, other)| from <= late && after < to && other != who);
            if let Some((.., other)) = other {
                let offset = |place: usize| self.log.accepted.get(place).map_or(0, |a| a.offset);
                verdict.add(Wrong::Disagree, || {
                    format!(
                        "{who} saw offset {} of {} after {}, {other} before it",
                        offset(*late),
                        self.name,
                        offset(*after)
                    )
                });
            }
        }
    }
}
