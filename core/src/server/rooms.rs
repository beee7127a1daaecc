//! The rooms of one shard: members that are live, members that are behind, and the batches of this turn.

use crate::room::hub::{Own, RoomBatch, RoomKey};
use crate::server::shard::effects::EncodedReply;
use crate::session::stream::Behind;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// A member that is behind.
#[derive(Debug)]
pub(crate) struct Late {
    /// The connection's slot.
    pub(crate) conn: u32,
    /// Tells this stream from others that the connection has had in the room.
    pub(crate) number: u64,
    /// None while its start is being read.
    pub(crate) stream: Option<Behind<EncodedReply>>,
    /// How the join's reply is to be made, until it has been sent.
    pub(crate) join: Option<(crate::command::JoinOptions, crate::command::Ref)>,
    /// Replies that came before its start was known.
    pub(crate) early: Vec<EncodedReply>,
}

/// One room of a shard.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) name: Arc<str>,
    pub(crate) generation: u32,
    /// Everything up to here has gone to the live members.
    pub(crate) cursor: u64,
    /// Slots of the connections that are live.
    pub(crate) live: Vec<u32>,
    pub(crate) late: Vec<Late>,
    /// Live or late members that asked for presence events.
    pub(crate) watchers: u32,
    pending: Vec<RoomBatch>,
}

/// The rooms of one shard.
#[derive(Debug, Default)]
pub(crate) struct Rooms {
    slots: Vec<Option<Room>>,
    generations: Vec<u32>,
    free: Vec<u32>,
    names: HashMap<Arc<str>, u32>,
    dirty: Vec<u32>,
}

/// What goes to the members of a room in one turn.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) frames: Bytes,
    pub(crate) count: u32,
    pub(crate) own: Vec<Own>,
}

impl Rooms {
    /// The slot of a room by its name.
    pub(crate) fn find(&self, name: &str) -> Option<u32> {
        self.names.get(name).copied()
    }

    pub(crate) fn get(&mut self, slot: u32) -> Option<&mut Room> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// The room with this key, if it is still that one.
    pub(crate) fn by_key(&mut self, key: RoomKey) -> Option<&mut Room> {
        self.get(key.slot).filter(|r| r.generation == key.generation)
    }

    /// The key that a new room will have.
    pub(crate) fn next_key(&mut self) -> RoomKey {
        let slot = self.free.last().copied().unwrap_or(self.slots.len() as u32);
        RoomKey { slot, generation: self.generations.get(slot as usize).copied().unwrap_or(0) }
    }

    /// Makes the room whose key [`Rooms::next_key`] told.
    pub(crate) fn insert(&mut self, name: Arc<str>, cursor: u64) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.generations.push(0);
            self.slots.len() as u32 - 1
        });
        self.names.insert(name.clone(), slot);
        self.slots[slot as usize] = Some(Room {
            name,
            generation: self.generations[slot as usize],
            cursor,
            live: Vec::new(),
            late: Vec::new(),
            watchers: 0,
            pending: Vec::new(),
        });
        slot
    }

    /// Forgets a room without members; replies that were waiting in it are returned.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<(Arc<str>, RoomKey, Vec<Own>)> {
        let room = self.slots.get_mut(slot as usize)?.take()?;
        self.names.remove(&room.name);
        let key = RoomKey { slot, generation: room.generation };
        self.generations[slot as usize] = room.generation.wrapping_add(1);
        self.free.push(slot);
        Some((room.name, key, room.pending.into_iter().flat_map(|b| b.own).collect()))
    }

    /// Keeps a batch for the end of the turn; one for a room that has gone is given back.
    pub(crate) fn gather(&mut self, batch: RoomBatch) -> Option<RoomBatch> {
        let slot = batch.room.slot;
        match self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
            Some(room) if room.generation == batch.room.generation => {
                if room.pending.is_empty() {
                    self.dirty.push(slot);
                }
                room.pending.push(batch);
                None
            }
            _ => Some(batch),
        }
    }

    /// The rooms that have batches.
    pub(crate) fn take_dirty(&mut self, into: &mut Vec<u32>) {
        into.append(&mut self.dirty);
    }
}

impl Room {
    /// What gathered in this turn; moves the cursor. Batches from before the route (the shard left the room and came back) are
    /// left out, but for their replies.
    pub(crate) fn turn(&mut self) -> Turn {
        let mut turn = Turn { frames: Bytes::new(), count: 0, own: Vec::new() };
        let mut joined: Option<Vec<u8>> = None;
        for batch in self.pending.drain(..) {
            let RoomBatch { last, count, frames, mut own, .. } = batch;
            if last <= self.cursor {
                let end = joined.as_ref().map_or(turn.frames.len(), Vec::len) as u32;
                own.iter_mut().for_each(|o| (o.start, o.end) = (end, end));
                turn.own.append(&mut own);
                continue;
            }
            self.cursor = last;
            turn.count += count;
            if turn.frames.is_empty() {
                turn.frames = frames;
            } else {
                let all = joined.get_or_insert_with(|| turn.frames.to_vec());
                let at = all.len() as u32;
                all.extend_from_slice(&frames);
                own.iter_mut().for_each(|o| (o.start, o.end) = (o.start + at, o.end + at));
            }
            turn.own.append(&mut own);
        }
        if let Some(all) = joined {
            turn.frames = all.into();
        }
        turn
    }

    /// The connections that are members by their own knowledge: their join has been answered.
    pub(crate) fn members(&self) -> Vec<u32> {
        let late = self.late.iter().filter(|l| l.join.is_none()).map(|l| &l.conn);
        self.live.iter().chain(late).copied().collect()
    }

    /// The connections that are in it, also those whose join has yet to be answered.
    pub(crate) fn everyone(&self) -> Vec<u32> {
        self.live.iter().copied().chain(self.late.iter().map(|l| l.conn)).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.live.is_empty() && self.late.is_empty()
    }
}
