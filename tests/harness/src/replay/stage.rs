//! How far each room's script may go, and what its steps do.

use super::corpus::{Script, Step};
use super::driver::{Chore, Driver, Msg, Phase};
use super::{Speed, prefix};
use crate::client::JoinOptions;
use crate::wire::Payload;
use std::time::Instant;

/// Where a room's script is.
pub(super) struct Stage {
    pub(super) script: Script,
    pub(super) next: usize,
    pub(super) under_way: usize,
    /// The largest offset that anyone was told of.
    pub(super) end: u64,
}

enum Did {
    Step,
    Message,
    Wait,
}

impl Driver<'_> {
    /// Whether a message waits only for its time.
    pub(super) fn paced(&self, now: Instant) -> bool {
        self.budget(now) == 0 && self.progress.sent < self.progress.total
    }

    /// Messages that may be sent now.
    fn budget(&self, now: Instant) -> u64 {
        match self.options.speed {
            Speed::Max => u64::MAX,
            Speed::PerSecond(rate) => {
                let due = (now - self.began).as_secs_f64() * rate + 1.0;
                (due as u64).saturating_sub(self.progress.sent)
            }
        }
    }

    /// Lets each room go on as far as it can, one step of each in turn.
    pub(super) fn pump(&mut self, now: Instant) {
        let mut budget = self.budget(now);
        let mut more = true;
        while more {
            more = false;
            for script in 0..self.stages.len() {
                match self.step(script, now, budget > 0) {
                    Did::Step => more = true,
                    Did::Message => {
                        more = true;
                        budget -= 1;
                    }
                    Did::Wait => {}
                }
            }
        }
    }

    fn step(&mut self, script: usize, now: Instant, may_send: bool) -> Did {
        let Some(stage) = self.stages.get(script) else { return Did::Wait };
        let Some(step) = stage.script.steps.get(stage.next) else { return Did::Wait };
        let (room, full) = (stage.script.room.clone(), stage.under_way >= self.options.window());
        let did = match step.clone() {
            Step::Join(who) => {
                let actor = self.person(&room, &who, false);
                self.come(actor, &room)
            }
            Step::Leave(who) => {
                let actor = self.person(&room, &who, false);
                self.leave(actor, &room)
            }
            Step::Rename(from, to) => {
                let (from, to) = (self.person(&room, &from, false), self.person(&room, &to, false));
                self.rename(from, to, &room)
            }
            Step::Message(..) if full || !may_send => Did::Wait,
            Step::Message(who, text) => {
                let actor = self.person(&room, &who, false);
                self.say(actor, script, &room, &text, now)
            }
        };
        if !matches!(did, Did::Wait)
            && let Some(stage) = self.stages.get_mut(script)
        {
            stage.next += 1;
        }
        did
    }

    pub(super) fn join(&mut self, actor: usize, room: &str, options: JoinOptions) {
        if let Some(a) = self.actors.get_mut(actor) {
            let frame = a.state.join(room, options);
            self.send(actor, frame);
            self.wanted(actor);
        }
    }

    /// The membership as it is asked for, whether or not it has been granted.
    fn come(&mut self, actor: usize, room: &str) -> Did {
        let Some(a) = self.actors.get_mut(actor) else { return Did::Wait };
        let place = a.state.room(room);
        if a.state.is_leaving(place) {
            return Did::Wait;
        }
        if !a.state.wants(place) {
            self.join(actor, room, JoinOptions::default());
        }
        Did::Step
    }

    fn leave(&mut self, actor: usize, room: &str) -> Did {
        let Some(a) = self.actors.get_mut(actor) else { return Did::Wait };
        let place = a.state.room(room);
        if !a.state.wants(place) {
            return Did::Step;
        }
        if !a.open || !a.state.is_in(place) || a.under_way > 0 || a.state.unanswered() > 0 {
            return Did::Wait;
        }
        let frame = a.state.leave(room);
        self.send(actor, frame);
        Did::Step
    }

    /// The person leaves under the old name and goes on from the same position under the new one.
    fn rename(&mut self, from: usize, to: usize, room: &str) -> Did {
        let Some(old) = self.actors.get_mut(from) else { return Did::Wait };
        let place = old.state.room(room);
        let (was_in, since) = (old.state.wants(place), old.state.position(place));
        if from == to || !was_in {
            return self.come(to, room);
        }
        let Some(new) = self.actors.get_mut(to) else { return Did::Wait };
        let place = new.state.room(room);
        if new.state.is_leaving(place) {
            return Did::Wait;
        }
        let taken = new.state.wants(place);
        if matches!(self.leave(from, room), Did::Wait) {
            return Did::Wait;
        }
        if !taken {
            let since = (!since.epoch.is_empty()).then_some(since);
            self.join(to, room, JoinOptions { since, ..JoinOptions::default() });
        }
        Did::Step
    }

    fn say(&mut self, actor: usize, script: usize, room: &str, text: &str, now: Instant) -> Did {
        if matches!(self.come(actor, room), Did::Wait) {
            return Did::Wait;
        }
        let Some(a) = self.actors.get_mut(actor) else { return Did::Wait };
        let place = a.state.room(room);
        // One message of a sender at a time, or one that is refused and retried would come after the next one.
        if !a.open || !a.state.is_in(place) || a.under_way > 0 || !a.may_publish(now) {
            return Did::Wait;
        }
        let number = self.messages.len();
        let id = format!("{}{}", prefix(self.options.seed), number + 1);
        let data = serde_json::json!({ "text": text }).to_string();
        let (message, frame) = a.state.publish(room, &id, Payload::Json(&data));
        a.numbers.push(number);
        a.under_way += 1;
        let every = self.options.duplicate_every;
        let twice = every > 0 && (number as u64 + 1).is_multiple_of(every);
        let at_once = twice && ((number as u64 + 1) / every).is_multiple_of(2);
        let drops = a.state.log().drops;
        let second = if at_once { a.state.send_again(message) } else { None };
        self.messages.push(Msg {
            actor,
            place: message,
            script,
            first_sent: now,
            phase: Phase::UnderWay,
            again: twice && !at_once,
        });
        if let Some(stage) = self.stages.get_mut(script) {
            stage.under_way += 1;
        }
        self.progress.sent += 1;
        self.later(self.options.answer_timeout, Chore::Overdue(number, drops));
        self.send(actor, frame);
        if let Some(second) = second {
            self.report.retries += 1;
            self.send(actor, second);
        }
        self.maybe_drop(actor, room);
        Did::Message
    }

    /// Breaks the sender's connection, or that of another member, after some of the messages.
    fn maybe_drop(&mut self, sender: usize, room: &str) {
        if self.random.below(1000) >= u64::from(self.options.drops_per_1000) {
            return;
        }
        if self.random.below(2) == 0 {
            self.cuts.push(sender);
            return;
        }
        for _ in 0..16 {
            let actor = self.random.below(self.actors.len() as u64) as usize;
            if let Some(a) = self.actors.get_mut(actor).filter(|a| a.open) {
                let place = a.state.room(room);
                if a.state.is_in(place) {
                    self.cuts.push(actor);
                    return;
                }
            }
        }
    }

    /// Whether all is said, answered, and seen by every member.
    pub(super) fn at_rest(&mut self) -> bool {
        let done = self.stages.iter().all(|s| s.next >= s.script.steps.len() && s.under_way == 0);
        done && self.actors.iter().all(|a| {
            a.state.unanswered() == 0
                && a.state.memberships().all(|(room, is_in, position)| {
                    let end = self.places.get(room).and_then(|p| self.stages.get(*p)).map_or(0, |s| s.end);
                    is_in && position >= end
                })
        })
    }
}
