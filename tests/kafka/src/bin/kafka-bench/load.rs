//! The members of all rooms, on one thread: they send, and note what they are told and what reaches them.

use crate::chat::{self, Dialect, Meaning, Told};
use crate::meter::{Figures, Meter, Shape};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nanoseconds that deliveries are waited for after anything came.
const QUIET: u64 = 5_000_000_000;
/// The longest wait for an event, so that the times of a run are kept.
const NAP: u64 = 5_000_000;

/// A member of a room.
struct Member {
    room: usize,
    socket: TcpStream,
    inbox: Vec<u8>,
    out: Vec<u8>,
    open: bool,
    /// The numbers of the messages of others that it got, in their order.
    seen: Vec<u64>,
}

/// A message that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// When.
    pub at: u64,
    /// In which room.
    pub room: usize,
    /// By which member.
    pub by: usize,
    /// What its sender was told, the first time.
    pub told: Option<Told>,
    /// When.
    pub told_at: u64,
}

/// What a run leaves for whoever checks it.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The first message's number.
    pub first: u64,
    /// All messages, by number.
    pub sent: Vec<Sent>,
    /// Each member's room and what it saw of others.
    pub seen: Vec<(usize, Vec<u64>)>,
    /// Connections that the server has ended.
    pub closed: usize,
}

/// See the module.
pub struct Crowd {
    dialect: Dialect,
    members: Vec<Member>,
    others: i64,
    outcome: Outcome,
    /// Members that may send their next message.
    free: VecDeque<usize>,
    unanswered: usize,
    undelivered: i64,
    last: u64,
    buffer: Vec<u8>,
}

/// A room's name.
pub fn room(number: usize) -> String {
    format!("room-{number}")
}

impl Crowd {
    /// So many rooms with so many members each, who connect to these servers in turn. `first` numbers the first message.
    pub fn join(
        dialect: Dialect,
        servers: &[SocketAddr],
        rooms: usize,
        in_room: usize,
        first: u64,
    ) -> io::Result<Crowd> {
        let member = |m: usize| {
            let server = *servers.get(m / rooms % servers.len()).ok_or(io::ErrorKind::InvalidInput)?;
            let socket = dialect.join(server, &room(m % rooms), &format!("user-{m}"))?;
            let (inbox, out, seen) = Default::default();
            Ok(Member { room: m % rooms, socket, inbox, out, open: true, seen })
        };
        let members: Vec<Member> = (0..rooms * in_room).map(member).collect::<io::Result<_>>()?;
        Ok(Crowd {
            dialect,
            free: (0..members.len()).collect(),
            members,
            others: in_room as i64 - 1,
            outcome: Outcome { first, ..Outcome::default() },
            unanswered: 0,
            undelivered: 0,
            last: 0,
            buffer: vec![0; 1 << 18],
        })
    }

    /// Sends as the shape says until the meter says that it is enough, and waits so long for what is under way.
    pub fn run(
        mut self,
        shape: Shape,
        mut meter: Meter,
        patience: Duration,
    ) -> io::Result<(Figures, Outcome)> {
        let mut due = 0.0;
        let mut enough = None;
        loop {
            let sending = meter.tick();
            let now = meter.now();
            if sending {
                match shape {
                    Shape::One if self.complete() => self.send(now),
                    Shape::One => {}
                    Shape::Paced(rate) => {
                        while due <= now as f64 {
                            self.send(meter.now());
                            due += 1e9 / rate;
                        }
                    }
                    Shape::Bulk(count) => (self.unanswered..count).for_each(|_| self.send(now)),
                }
            } else if self.complete()
                || (self.unanswered == 0 && now > self.last + QUIET)
                || now > *enough.get_or_insert(now + patience.as_nanos() as u64)
            {
                break;
            }
            self.members.iter_mut().for_each(Member::flush);
            let wait = match shape {
                Shape::Paced(_) if sending => (due as u64).saturating_sub(meter.now()).min(NAP),
                _ => NAP,
            };
            for member in self.ready(wait)? {
                self.read(member, &mut meter);
            }
        }
        let seen = self.members.iter_mut().map(|m| (m.room, std::mem::take(&mut m.seen)));
        self.outcome.seen = seen.collect();
        self.outcome.closed = self.members.iter().filter(|m| !m.open).count();
        Ok((meter.end(), self.outcome))
    }

    /// Whether nothing is under way.
    fn complete(&self) -> bool {
        self.unanswered == 0 && self.undelivered <= 0
    }

    fn send(&mut self, now: u64) {
        // One after the other, so that nobody has much under way.
        let Some(by) = self.free.pop_front() else { return };
        self.free.push_back(by);
        let number = self.outcome.first + self.outcome.sent.len() as u64;
        let Some(member) = self.members.get_mut(by) else { return };
        self.dialect.publish(number, &mut member.out);
        self.outcome.sent.push(Sent { at: now, room: member.room, by, told: None, told_at: 0 });
        self.unanswered += 1;
        self.undelivered += self.others;
    }

    /// The members whose sockets have something.
    fn ready(&mut self, wait: u64) -> io::Result<Vec<usize>> {
        let open = || self.members.iter().enumerate().filter(|(_, m)| m.open);
        let wanted =
            |m: &Member| if m.out.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut sockets: Vec<PollFd<'_>> = open().map(|(_, m)| PollFd::new(&m.socket, wanted(m))).collect();
        let wait = Timespec { tv_sec: 0, tv_nsec: wait as i64 };
        match poll(&mut sockets, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let something =
            |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR);
        Ok(open().zip(&sockets).filter(|(_, fd)| something(fd)).map(|((m, _), _)| m).collect())
    }

    fn read(&mut self, by: usize, meter: &mut Meter) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let Some(member) = self.members.get_mut(by) else { return };
        match member.socket.read(&mut buffer) {
            Ok(0) => member.open = false,
            Ok(n) => member.inbox.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => member.open = false,
        }
        self.buffer = buffer;
        let inbox = std::mem::take(&mut member.inbox);
        let now = meter.now();
        self.last = now;
        let mut at = 0;
        while let Some((start, length, opcode)) = inbox.get(at..).and_then(chat::head)
            && let Some(body) = inbox.get(at + start..at + start + length)
        {
            at += start + length;
            match opcode {
                9 => self.out(by, |out| chat::ws_pong(out, body)),
                1 => match self.dialect.meaning(body) {
                    Meaning::Message(number) => self.message(by, number, now, meter),
                    Meaning::Answer(number, told) => self.told(number, told, now, meter),
                    Meaning::Ping => self.out(by, Dialect::pong),
                    Meaning::Other => {}
                },
                _ => {}
            }
        }
        if let Some(member) = self.members.get_mut(by) {
            member.inbox = inbox;
            member.inbox.drain(..at);
        }
    }

    fn out(&mut self, member: usize, put: impl FnOnce(&mut Vec<u8>)) {
        if let Some(member) = self.members.get_mut(member) {
            put(&mut member.out);
        }
    }

    /// A message has reached a member. In klatch's protocol its own is its answer.
    fn message(&mut self, member: usize, number: u64, now: u64, meter: &mut Meter) {
        let place = number.wrapping_sub(self.outcome.first) as usize;
        let Some(sent) = self.outcome.sent.get_mut(place) else { return };
        if sent.by == member && self.dialect == Dialect::Klatch {
            return self.told(number, Told::Stored, now, meter);
        }
        meter.delivered(sent.at, now);
        self.undelivered -= 1;
        if let Some(member) = self.members.get_mut(member) {
            member.seen.push(number);
        }
    }

    fn told(&mut self, number: u64, told: Told, now: u64, meter: &mut Meter) {
        let place = number.wrapping_sub(self.outcome.first) as usize;
        let Some(sent) = self.outcome.sent.get_mut(place) else { return };
        if sent.told.is_some() {
            return;
        }
        (sent.told, sent.told_at) = (Some(told), now);
        self.unanswered -= 1;
        match told {
            Told::Stored => meter.acked(sent.at, now),
            // klatch promises that nobody gets it; the recipe sends it to all.
            Told::NotStored if self.dialect == Dialect::Klatch => self.undelivered -= self.others,
            _ => {}
        }
    }
}

impl Member {
    fn flush(&mut self) {
        if self.out.is_empty() || !self.open {
            return;
        }
        match self.socket.write(&self.out) {
            Ok(n) => drop(self.out.drain(..n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.open = false,
        }
    }
}
