//! Whether each answer to a publish is true.

use super::verdict::{Verdict, Wrong};
use crate::log::{Log, Room};
use crate::observe::{ClientLog, PublishLog};
use std::collections::HashMap;

/// One message, over all the clients that sent it.
#[derive(Default)]
struct Message<'a> {
    who: &'a str,
    attempts: u32,
    not_stored: u32,
    positions: Vec<u64>,
    duplicate: bool,
}

type Key<'a> = (&'a str, &'a str, &'a str, u64);

/// Checks every answer of every client.
pub(super) fn check(clients: &[&ClientLog], log: &Log, complete: bool, verdict: &mut Verdict) {
    let none = Room::default();
    let mut messages: HashMap<Key<'_>, Message<'_>> = HashMap::new();
    for client in clients {
        for publish in &client.publishes {
            let room = client.rooms.get(publish.room).map_or("", |r| r.room.as_str());
            count(publish, verdict);
            if publish.overdue > 0 {
                verdict.add(Wrong::Unanswered, || {
                    format!("{} waited in vain for an answer to id {:?} in {room}", client.name, publish.id)
                });
            }
            let epoch = log.room(room).and_then(|r| r.epoch.as_deref());
            let told = publish.acks.iter().filter_map(|a| client.epochs.get(a.epoch));
            if let (Some(epoch), Some(other)) = (epoch, told.into_iter().find(|e| Some(e.as_str()) != epoch))
            {
                verdict.add(Wrong::EpochChanged, || {
                    format!("{} was acked in epoch {other} of {room}, the log's is {epoch}", client.name)
                });
            }
            if publish.id.is_empty() {
                let mut alone = Message::default();
                alone.add(client, publish);
                alone.without_id(room, publish, log.room(room).unwrap_or(&none), complete, verdict);
            } else {
                let key = (room, client.user.as_str(), &*publish.id, publish.body);
                messages.entry(key).or_default().add(client, publish);
            }
        }
    }
    // In a fixed order, so that a report is the same each time.
    let mut messages: Vec<_> = messages.into_iter().collect();
    messages.sort_unstable_by_key(|(key, _)| *key);
    for ((room, user, id, body), message) in &messages {
        let entries = log.room(room).unwrap_or(&none);
        message.with_id(room, user, id, *body, entries, complete, verdict);
    }
    verdict.counts.messages += messages.len() as u64;
    verdict.counts.acked += messages.iter().filter(|(_, m)| !m.positions.is_empty()).count() as u64;
}

fn count(publish: &PublishLog, verdict: &mut Verdict) {
    let counts = &mut verdict.counts;
    counts.unknowns += u64::from(publish.unknown);
    counts.not_stored += u64::from(publish.not_stored);
    counts.duplicates += publish.acks.iter().filter(|a| a.duplicate).count() as u64;
}

impl<'a> Message<'a> {
    fn add(&mut self, client: &'a ClientLog, publish: &PublishLog) {
        self.who = &client.name;
        self.attempts += publish.attempts;
        self.not_stored += publish.not_stored;
        self.duplicate |= publish.acks.iter().any(|a| a.duplicate);
        for ack in &publish.acks {
            if !self.positions.contains(&ack.offset) {
                self.positions.push(ack.offset);
            }
        }
    }

    fn without_id(
        &self,
        room: &str,
        publish: &PublishLog,
        log: &Room,
        complete: bool,
        verdict: &mut Verdict,
    ) {
        let who = self.who;
        verdict.counts.messages += 1;
        verdict.counts.acked += u64::from(!self.positions.is_empty());
        for offset in &self.positions {
            match log.find(*offset).and_then(|place| log.accepted.get(place)) {
                Some(record) if record.id.is_empty() && record.body == publish.body => {}
                Some(_) => verdict.add(Wrong::WrongAck, || {
                    format!("{who} was acked offset {offset} of {room} for a message without id, and another is there")
                }),
                None => verdict.add(Wrong::LostAck, || {
                    format!("{who} was acked offset {offset} of {room} for a message without id; the log has none")
                }),
            }
        }
        // Nobody can ask again for it, so a lost answer is no fault.
        if complete && self.positions.is_empty() && publish.not_stored + publish.unknown < publish.attempts {
            verdict
                .add(Wrong::Unanswered, || format!("{who} has no answer to a message without id in {room}"));
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn with_id(
        &self,
        room: &str,
        user: &str,
        id: &str,
        body: u64,
        log: &Room,
        complete: bool,
        verdict: &mut Verdict,
    ) {
        let who = self.who;
        let stored = log.by_id(user, id);
        let here = || format!("id {id:?} of user {user:?} in {room}");
        if let [first, others @ ..] = &self.positions[..] {
            if !others.is_empty() {
                verdict.add(Wrong::AckMoved, || {
                    format!("{who} was acked {} with offsets {:?}", here(), self.positions)
                });
            }
            if stored.is_empty() {
                verdict.add(Wrong::LostAck, || {
                    format!("{who} was acked {} at offset {first}; the log does not hold it", here())
                });
            } else if let Some(wrong) =
                self.positions.iter().find(|p| !stored.iter().any(|a| a.offset == **p && a.body == body))
            {
                verdict.add(Wrong::WrongAck, || {
                    let at: Vec<u64> = stored.iter().filter(|a| a.body == body).map(|a| a.offset).collect();
                    let there = if at.is_empty() {
                        "only another body of it".into()
                    } else {
                        format!("it at {at:?}")
                    };
                    format!("{who} was acked {} at offset {wrong}; the log has {there}", here())
                });
            }
            if self.duplicate && self.attempts < 2 {
                verdict.add(Wrong::FalseDuplicate, || format!("{who} sent {} once", here()));
            }
        } else if self.not_stored >= self.attempts {
            if let Some(record) = stored.iter().find(|a| a.body == body) {
                verdict.add(Wrong::StoredAfterAll, || {
                    format!("{who} was told that {} is not stored; it is at offset {}", here(), record.offset)
                });
            }
        } else if complete {
            verdict.add(Wrong::Unanswered, || {
                format!("{who} has no answer to {}, sent {} times", here(), self.attempts)
            });
        }
    }
}
