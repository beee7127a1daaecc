//! What the hub does where what comes next does not follow what came before.

use super::{Hub, RoomKey, Rooms};
use crate::room::subscriber::Ended;
use crate::view::View;
use std::sync::{Arc, PoisonError};

impl Hub {
    /// Another log takes the place of the one before, and this is its view. Whoever was in a room is to come back and be told; host
    /// subscriptions end.
    pub fn begin_anew(&self, view: Arc<View>) {
        let ended = {
            let mut rooms = self.lock();
            *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
            // A room that is being looked up in the old view is not made of what that says.
            let anew = Rooms { evictions: rooms.evictions + 1, batch: rooms.batch, ..Rooms::default() };
            let old = std::mem::replace(&mut *rooms, anew);
            self.metrics.recent_bytes.set(0);
            self.metrics.rooms.sub(old.slots.iter().flatten().filter(|r| r.has_audience()).count() as u64);
            let of_rooms = old.slots.into_iter().flatten().flat_map(|r| r.subscribers);
            of_rooms.chain(old.everywhere).collect::<Vec<_>>()
        };
        ended.iter().for_each(|s| s.end(Ended::Reset));
        self.ports().iter().for_each(|port| port.reconnect(None));
    }

    /// Everything up to this offset is gone from these rooms' part of the log, and the tail has not seen all of it. Whoever is in one of
    /// them is to come back and be told; host subscriptions end. By the tail alone, after [`View::begin_after`].
    pub fn skip(&self, offset: u64, is_affected: impl Fn(&str) -> bool) {
        let mut keys: Vec<Vec<RoomKey>> = vec![Vec::new(); self.ports().len()];
        let mut ended = Vec::new();
        {
            let mut rooms = self.lock();
            let (mut bytes, mut count) = (0, 0);
            for room in rooms.slots.iter_mut().flatten().filter(|r| r.last < offset && is_affected(&r.name)) {
                (room.last, room.visible) = (offset, offset);
                count += room.recent.len();
                bytes += room.recent.clear();
                ended.append(&mut room.subscribers);
                for (shard, key) in &room.routes {
                    keys.get_mut(*shard as usize).into_iter().for_each(|k| k.push(*key));
                }
            }
            ended.append(&mut rooms.everywhere);
            rooms.recent_bytes -= bytes;
            rooms.recent_count -= count;
            rooms.evictions += 1;
            self.metrics.recent_bytes.set(rooms.recent_bytes as u64);
        }
        ended.iter().for_each(|s| s.end(Ended::Dropped));
        for (port, keys) in self.ports().iter().zip(keys).filter(|(_, keys)| !keys.is_empty()) {
            port.reconnect(Some(keys));
        }
    }
}
