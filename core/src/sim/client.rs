//! A client of the simulation: the harness's own state of a client, on a link of the simulation.

use super::Random;
use super::net::Ends;
use klatch_harness::client::{JoinOptions, Outcome, Seen, State};
use klatch_harness::observe::ClientLog;
use klatch_harness::wire::{Frame, Payload};
use std::collections::{BTreeSet, VecDeque};

/// See the module.
pub(super) struct Client {
    pub(super) state: State,
    pub(super) link: Option<Ends>,
    /// Sent and still on its way.
    out: VecDeque<u8>,
    /// Received, and not a whole frame yet.
    got: Vec<u8>,
    /// Messages to send again, and rooms to join again.
    retries: BTreeSet<usize>,
    rejoins: BTreeSet<usize>,
    /// Messages that were answered with a conflict: that body is stored nowhere.
    conflicts: Vec<usize>,
    user: String,
    number: usize,
    next_id: u32,
    /// Messages with ids that other clients of the user have too: room, id, body.
    shared_ids: BTreeSet<(String, u64, u64)>,
}

const ROOMS: [&str; 3] = ["a", "b", "lobby"];

impl Client {
    pub(super) fn new(number: usize, user: &str) -> Client {
        Client {
            state: State::new(format!("client-{number}"), user),
            link: None,
            out: VecDeque::new(),
            got: Vec::new(),
            retries: BTreeSet::new(),
            rejoins: BTreeSet::new(),
            conflicts: Vec::new(),
            user: user.to_owned(),
            number,
            next_id: 0,
            shared_ids: BTreeSet::new(),
        }
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// A link is established: it goes on where it was.
    pub(super) fn opened(&mut self, link: Ends) {
        self.link = Some(link);
        self.out.clear();
        self.got.clear();
        self.retries.clear();
        self.rejoins.clear();
        for text in self.state.resume() {
            self.say(&text);
        }
    }

    /// Its link is gone.
    pub(super) fn closed(&mut self) {
        if self.link.take().is_some() {
            self.state.closed();
            self.out.clear();
        }
    }

    pub(super) fn say(&mut self, text: &str) {
        // RFC 6455, section 5.2: a final text frame, masked.
        let mask = [0x5a, 0x17, text.len() as u8, 0xc3];
        self.out.push_back(0x81);
        match text.len() {
            n @ 0..126 => self.out.push_back(0x80 | n as u8),
            n => {
                self.out.push_back(0x80 | 126);
                self.out.extend((n as u16).to_be_bytes());
            }
        }
        self.out.extend(mask);
        self.out.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    }

    /// Some of what it has sent arrives.
    pub(super) fn send(&mut self, most: usize) -> bool {
        let n = self.out.len().min(most);
        let Some(link) = self.link.as_ref().filter(|_| n > 0) else { return false };
        link.arrive(self.out.drain(..n));
        true
    }

    /// It does what clients do.
    pub(super) fn act(&mut self, random: &mut Random) {
        let room = ROOMS[random.below(ROOMS.len() as u64) as usize];
        let place = self.state.room(room);
        match random.below(12) {
            0..2 if !self.state.wants(place) && !self.state.is_leaving(place) => self.join(room, random),
            2 if self.state.is_in(place) && random.one_in(4) => {
                let text = self.state.leave(room);
                self.say(&text);
            }
            3..9 => self.publish(room, random),
            9 if random.one_in(3) => {
                self.retry();
            }
            10 if random.one_in(4) => self.again(random),
            _ if self.rejoins.is_empty() => {}
            _ => {
                self.rejoin();
            }
        }
    }

    pub(super) fn join(&mut self, room: &str, random: &mut Random) {
        let place = self.state.room(room);
        let position = self.state.position(place);
        let been_there = self.state.log().rooms.get(place).is_some_and(|r| !r.runs.is_empty());
        let since = (been_there && random.one_in(2)).then_some(position);
        let history = random.below(6) as u32;
        let text = self.state.join(room, JoinOptions { history, since, echo: !random.one_in(4) });
        self.say(&text);
    }

    fn publish(&mut self, room: &str, random: &mut Random) {
        let (id, data) = match random.below(8) {
            0 => (String::new(), format!("{}", random.below(1000))),
            // Clients of one user meet in these, with the same body or another.
            1 => {
                let (id, body) = (random.below(12), random.below(2));
                // Sent as a new message once; again it is the same one.
                if !self.shared_ids.insert((room.to_owned(), id, body)) {
                    return self.again(random);
                }
                (format!("s{id}"), format!("\"{id}{body}\""))
            }
            _ => {
                self.next_id += 1;
                let id = format!("{}-{}", self.number, self.next_id);
                let data = format!("\"{id}{}\"", "é".repeat(random.below(40) as usize));
                (id, data)
            }
        };
        let (_, text) = self.state.publish(room, &id, Payload::Json(&data));
        self.say(&text);
    }

    /// Sends a message that may be stored already once more.
    fn again(&mut self, random: &mut Random) {
        let count = self.state.log().publishes.len() as u64;
        let message = random.below(count.max(1)) as usize;
        let has_id = self.state.log().publishes.get(message).is_some_and(|p| !p.id.is_empty());
        if has_id
            && !self.conflicts.contains(&message)
            && let Some(text) = self.state.send_again(message)
        {
            self.say(&text);
        }
    }

    /// Sends again what was not answered for good.
    pub(super) fn retry(&mut self) -> bool {
        let retries = std::mem::take(&mut self.retries);
        let mut any = false;
        for message in retries {
            if self.state.waits_for(message)
                && let Some(text) = self.state.send_again(message)
            {
                self.say(&text);
                any = true;
            }
        }
        any
    }

    pub(super) fn rejoin(&mut self) -> bool {
        let mut any = false;
        for room in std::mem::take(&mut self.rejoins) {
            if self.state.wants(room) && !self.state.is_in(room) {
                let text = self.state.rejoin(room);
                self.say(&text);
                any = true;
            }
        }
        any
    }

    /// Whether it waits for an answer that only the server can give now.
    pub(super) fn waits(&self) -> Option<String> {
        let state = &self.state;
        let message =
            (0..state.log().publishes.len()).find(|m| state.waits_for(*m) && !self.retries.contains(m));
        let room = (0..state.log().rooms.len()).find(|r| {
            state.is_leaving(*r) || state.wants(*r) && !state.is_in(*r) && !self.rejoins.contains(r)
        });
        match (message, room) {
            (Some(m), _) => Some(format!("an answer to message {m}")),
            (None, Some(r)) => Some(format!("an answer about its room {r}")),
            (None, None) => None,
        }
    }

    /// Whether it has neither anything to send nor to read.
    pub(super) fn is_idle(&self) -> bool {
        self.link.as_ref().is_none_or(|link| self.out.is_empty() && !link.has_news())
    }

    /// Reads some of what has come; false if there is nothing.
    pub(super) fn receive(&mut self, most: usize) -> Result<bool, String> {
        let Some(link) = self.link.clone().filter(Ends::has_news) else { return Ok(false) };
        match link.take(most) {
            Some(bytes) => self.got.extend(bytes),
            None => {
                // Its own end follows.
                link.end();
                self.closed();
                return Ok(true);
            }
        }
        let mut at = 0;
        while let Some((opcode, payload, len)) = frame_at(self.got.get(at..).unwrap_or_default()) {
            let payload = payload.to_vec();
            at += len;
            match opcode {
                1 => {
                    let text = std::str::from_utf8(&payload).map_err(|e| e.to_string())?;
                    self.frame(text)?;
                }
                9 => self.out.extend([0x8a, 0x80, 0, 0, 0, 0]),
                8 => {}
                other => return Err(format!("a frame with opcode {other}")),
            }
        }
        self.got.drain(..at);
        Ok(true)
    }

    fn frame(&mut self, text: &str) -> Result<(), String> {
        let frame = Frame::parse(text).map_err(|e| format!("{e} in {text}"))?;
        match self.state.frame(&frame) {
            Seen::Published { message, outcome } => match outcome {
                Outcome::Stored { .. } => {}
                Outcome::NotStored { error, .. } if error == "conflict" => {
                    self.conflicts.push(message);
                    self.retries.remove(&message);
                    self.state.settle(message);
                }
                Outcome::NotStored { later: true, .. } | Outcome::Unknown { .. } => {
                    if self.state.log().publishes.get(message).is_some_and(|p| p.id.is_empty()) {
                        self.state.settle(message);
                    } else {
                        self.retries.insert(message);
                    }
                }
                Outcome::NotStored { error, .. } if error == "storage_failed" || error == "stopping" => {
                    self.retries.insert(message);
                }
                Outcome::NotStored { error, .. } => return Err(format!("a publish was refused: {error}")),
            },
            Seen::Refused { room: Some(room), retry_after_ms, error }
                if retry_after_ms > 0 || error == "unavailable" =>
            {
                self.rejoins.insert(room);
            }
            Seen::Refused { room: Some(_), .. } => {}
            // Perhaps to another sending of one that was answered with a conflict already.
            Seen::Refused { .. } if !self.conflicts.is_empty() => {}
            Seen::Refused { error, .. } => return Err(format!("an error without a request: {error}")),
            _ => {}
        }
        Ok(())
    }

    /// What the checker is to see of it.
    pub(super) fn log(self) -> ClientLog {
        let conflicts = self.conflicts;
        let mut log = self.state.into_log();
        for message in conflicts {
            // That answer holds for every sending of this body.
            if let Some(publish) = log.publishes.get_mut(message) {
                publish.not_stored = publish.attempts;
            }
        }
        log
    }
}

/// The unmasked frame that `bytes` begin with: opcode, payload, length.
fn frame_at(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let [first, second, rest @ ..] = bytes else { return None };
    let (head, len) = match second {
        126 => (4, usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?]))),
        127 => (10, u64::from_be_bytes(rest.get(..8)?.try_into().ok()?) as usize),
        n => (2, usize::from(*n)),
    };
    Some((first & 15, bytes.get(head..head + len)?, head + len))
}
