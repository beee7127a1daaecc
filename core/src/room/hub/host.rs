//! The host's subscriptions.

use super::Hub;
use crate::room::subscriber::{Ended, Subscriber};
use crate::view::ViewError;
use std::sync::Arc;

impl Hub {
    /// A host listens to a room. Returns the cursor, as [`Hub::route`] does.
    pub fn subscribe(&self, name: &Arc<str>, subscriber: Arc<Subscriber>) -> Result<u64, ViewError> {
        self.with(name, |rooms, slot| {
            let Some(room) = rooms.slots[slot].as_mut() else { return 0 };
            if !room.has_audience() {
                self.metrics.rooms.inc();
            }
            room.subscribers.push(subscriber);
            room.visible
        })
    }

    /// A host listens no more.
    pub fn unsubscribe(&self, name: &str, subscriber: &Arc<Subscriber>) {
        let mut rooms = self.lock();
        let Some(&slot) = rooms.index.get(name) else { return };
        if let Some(room) = rooms.slots[slot].as_mut() {
            let before = room.subscribers.len();
            room.subscribers.retain(|s| !Arc::ptr_eq(s, subscriber));
            if room.subscribers.len() < before {
                self.lost_audience(&mut rooms, slot);
            }
        }
    }

    /// A host listens to every room: it gets the batches that are handed over from now on.
    pub fn subscribe_all(&self, subscriber: Arc<Subscriber>) {
        self.lock().everywhere.push(subscriber);
    }

    /// It listens no more.
    pub fn unsubscribe_all(&self, subscriber: &Arc<Subscriber>) {
        self.lock().everywhere.retain(|s| !Arc::ptr_eq(s, subscriber));
    }

    /// Ends every host subscription.
    pub fn end_subscriptions(&self) {
        // Whoever is woken may call back: not under the lock.
        let all: Vec<_> = {
            let rooms = self.lock();
            let of_rooms = rooms.slots.iter().flatten().flat_map(|r| &r.subscribers);
            of_rooms.chain(&rooms.everywhere).cloned().collect()
        };
        all.iter().for_each(|s| s.end(Ended::Stopped));
    }
}
