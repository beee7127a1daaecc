//! Fan-out: one write per member and room for what has gathered in a turn.

use super::Shard;
use crate::broker::append::ConnectionKey;
use crate::room::hub::{Own, RoomKey};
use crate::server::net::Net;
use bytes::Bytes;
use std::mem::take;

/// What one member gets otherwise than the others: pieces of the batch left out, replies put in.
struct Special {
    conn: u32,
    cuts: Vec<Cut>,
}

struct Cut {
    start: u32,
    end: u32,
    /// The piece is its own publication and it does not want it.
    skip: bool,
    reply: Option<Vec<u8>>,
}

impl<N: Net> Shard<N> {
    /// Sends what has gathered for a room.
    pub(super) fn fan_out(&mut self, slot: u32) {
        let Some(r) = self.rooms.get(slot) else { return };
        let turn = r.turn();
        let live = take(&mut r.live);
        let (name, all_live) = (r.name.clone(), r.late.is_empty());
        let mut specials: Vec<Special> = Vec::new();
        for own in turn.own {
            self.own_reply(own, &name, (&live, all_live), &mut specials);
        }
        specials.sort_unstable_by_key(|s| s.conn);
        self.flush_out();
        if !turn.frames.is_empty() {
            for &i in &live {
                if specials.is_empty() || specials.binary_search_by_key(&i, |s| s.conn).is_err() {
                    self.send(i, &turn.frames, Some(&turn.frames));
                }
            }
            self.shared.metrics.deliveries.add(u64::from(turn.count) * live.len() as u64);
        }
        for s in specials {
            let (conn, own) = (s.conn, s.apply(&turn.frames));
            if !own.is_empty() {
                self.send(conn, &own, None);
            }
        }
        // Nobody joins or leaves while the batch is written: slow and broken connections are dealt with at the turn's end.
        let Some(r) = self.rooms.get(slot) else { return };
        r.live = live;
        let late: Vec<u32> = r.late.iter().map(|l| l.conn).collect();
        for i in late {
            self.advance(i, slot);
        }
    }

    /// Settles a publish of this room: its reply goes to its place in the batch, for a member that is live.
    fn own_reply(&mut self, own: Own, room: &str, live: (&[u32], bool), specials: &mut Vec<Special>) {
        let Own { start, end, reply } = own;
        let Some(i) = self.alive(reply.key) else { return };
        let Some(c) = self.conn(i) else { return };
        c.session.settled();
        let member = c.session.memberships().iter().find(|m| *m.room == *room);
        let (is_member, echo) = (member.is_some(), member.is_some_and(|m| m.options.echo));
        let is_live = is_member && (live.1 || live.0.contains(&i));
        // Its publication is in this batch, and not only its reply.
        let here = start < end;
        // One that is not sent its own publication must be told that its position has moved, whether it asked or not: else
        // the next publication looks like one after a gap.
        let encoded = self.encode_reply(&reply, is_live && here && !echo);
        let is_ack = encoded.as_ref().is_some_and(|e| e.own_is_ack);
        // The usual case: it gets what everybody gets.
        let usual = here && echo && (encoded.is_none() || is_ack);
        if usual && is_live {
            return self.resume(i);
        }
        if is_live && (encoded.is_some() || !echo) {
            let cut = Cut { start, end, skip: !echo && here, reply: encoded.map(|e| e.bytes) };
            match specials.iter_mut().find(|s| s.conn == i) {
                Some(s) => s.cuts.push(cut),
                None => specials.push(Special { conn: i, cuts: vec![cut] }),
            }
        } else if let Some(encoded) = encoded {
            self.reply_at(i, room, encoded);
        }
        self.resume(i);
    }

    /// Sends a signal to the live members of a room.
    pub(super) fn signal(&mut self, room: RoomKey, except: Option<ConnectionKey>, frame: &Bytes) {
        let except = except.and_then(|k| (k.shard == self.index).then(|| self.alive(k)).flatten());
        let Some(r) = self.rooms.by_key(room) else { return };
        let members = r.members();
        self.flush_out();
        for i in members {
            if Some(i) != except {
                self.send(i, frame, Some(frame));
            }
        }
    }

    /// Sends a presence event to the members that asked for them.
    pub(super) fn presence_event(&mut self, room: RoomKey, frame: &Bytes) {
        let Some(r) = self.rooms.by_key(room).filter(|r| r.watchers > 0) else { return };
        let members = r.members();
        self.flush_out();
        for i in members {
            let asked = self.conn(i).is_some_and(|c| {
                c.session.memberships().iter().any(|m| m.slot == room.slot && m.options.presence)
            });
            if asked {
                self.send(i, frame, Some(frame));
            }
        }
    }
}

impl Special {
    fn apply(self, frames: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(frames.len() + 256);
        let mut at = 0;
        for cut in self.cuts {
            let (start, end) = (cut.start as usize, cut.end as usize);
            let upto = if cut.skip { start } else { end };
            out.extend_from_slice(frames.get(at..upto).unwrap_or_default());
            out.extend_from_slice(&cut.reply.unwrap_or_default());
            at = at.max(end);
        }
        out.extend_from_slice(frames.get(at..).unwrap_or_default());
        out
    }
}
