//! Who is in which room on this node. Changes are gathered, so that a room of 10,000 does not cost 10,000 squared.

use crate::config::Limit;
use crate::metrics::Metrics;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug)]
pub struct Presence {
    rooms: Mutex<Rooms>,
    names: usize,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Rooms {
    map: HashMap<Arc<str>, Room>,
    changed: Vec<Arc<str>>,
}

#[derive(Debug, Default)]
struct Room {
    /// Connections by user; anonymous ones are only counted.
    users: BTreeMap<Arc<str>, u32>,
    members: u32,
    watchers: u32,
    changed: bool,
    joined: BTreeSet<Arc<str>>,
    left: BTreeSet<Arc<str>>,
    /// More changes than an event names.
    many: bool,
}

/// Who is in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresenceList {
    /// Members, counted by connection, anonymous ones among them.
    pub count: u32,
    /// Named users with their connections, sorted by name; at most `presence_names`.
    pub users: Vec<(Arc<str>, u32)>,
    /// There are more named users than are listed.
    pub truncated: bool,
}

/// Users that came and users that went.
pub type Changes = (Vec<Arc<str>>, Vec<Arc<str>>);

/// What changed in a room since the last event.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PresenceEvent {
    /// The room.
    pub room: Arc<str>,
    /// Members now.
    pub count: u32,
    /// Users that came with their first connection and users that went with their last; none if there were too many.
    pub changes: Option<Changes>,
}

impl Presence {
    /// `names`: how many users a list or an event names at most.
    pub fn new(names: usize, metrics: Arc<Metrics>) -> Presence {
        Presence { rooms: Mutex::default(), names, metrics }
    }

    fn lock(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member has come.
    pub fn join(&self, name: &Arc<str>, user: &Arc<str>, watcher: bool) {
        let mut rooms = self.lock();
        let rooms = &mut *rooms;
        let room = rooms.map.entry(name.clone()).or_default();
        room.members += 1;
        room.watchers += u32::from(watcher);
        if !user.is_empty() {
            let n = room.users.entry(user.clone()).or_default();
            *n += 1;
            if *n == 1 && !room.left.remove(user) {
                room.joined.insert(user.clone());
            }
        }
        room.note(name, self.names, &mut rooms.changed);
    }

    /// A member has gone.
    pub fn leave(&self, name: &Arc<str>, user: &Arc<str>, watcher: bool) {
        let mut rooms = self.lock();
        let rooms = &mut *rooms;
        let Some(room) = rooms.map.get_mut(name) else { return };
        room.members = room.members.saturating_sub(1);
        room.watchers = room.watchers.saturating_sub(u32::from(watcher));
        if let Some(n) = room.users.get_mut(user) {
            *n -= 1;
            if *n == 0 {
                room.users.remove(user);
                if !room.joined.remove(user) {
                    room.left.insert(user.clone());
                }
            }
        }
        if room.members == 0 {
            rooms.map.remove(name);
        } else {
            room.note(name, self.names, &mut rooms.changed);
        }
    }

    /// Who is in a room.
    pub fn list(&self, name: &str) -> PresenceList {
        let rooms = self.lock();
        let Some(room) = rooms.map.get(name) else { return PresenceList::default() };
        let truncated = room.users.len() > self.names;
        self.metrics.limit_hits[Limit::PresenceNames].add(u64::from(truncated));
        PresenceList {
            count: room.members,
            users: room.users.iter().take(self.names).map(|(u, n)| (u.clone(), *n)).collect(),
            truncated,
        }
    }

    /// The events of everything that changed since the last call, for rooms in which somebody asked for them.
    pub fn gather(&self) -> Vec<PresenceEvent> {
        let mut rooms = self.lock();
        let changed = std::mem::take(&mut rooms.changed);
        let mut events = Vec::new();
        for name in changed {
            let Some(room) = rooms.map.get_mut(&name) else { continue };
            room.changed = false;
            let joined: Vec<_> = std::mem::take(&mut room.joined).into_iter().collect();
            let left: Vec<_> = std::mem::take(&mut room.left).into_iter().collect();
            let many = std::mem::take(&mut room.many);
            if room.watchers > 0 {
                let changes = (!many).then_some((joined, left));
                self.metrics.limit_hits[Limit::PresenceGatherMs].inc();
                self.metrics.limit_hits[Limit::PresenceNames].add(u64::from(many));
                events.push(PresenceEvent { room: name, count: room.members, changes });
            }
        }
        events
    }
}

impl Room {
    fn note(&mut self, name: &Arc<str>, names: usize, changed: &mut Vec<Arc<str>>) {
        if self.joined.len() + self.left.len() > names {
            self.many = true;
            self.joined.clear();
            self.left.clear();
        }
        if self.watchers == 0 {
            // Nobody will be told; what comes before the first watcher is in its list.
            self.joined.clear();
            self.left.clear();
            self.many = false;
        } else if !self.changed {
            self.changed = true;
            changed.push(name.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(v: &[Arc<str>]) -> Vec<&str> {
        v.iter().map(|s| &**s).collect()
    }

    #[test]
    fn events_name_first_and_last_connections_since_the_last_event() {
        let p = Presence::new(3, Arc::default());
        let (room, ann, bob): (Arc<str>, Arc<str>, Arc<str>) = ("r".into(), "ann".into(), "bob".into());
        p.join(&room, &ann, false);
        assert!(p.gather().is_empty(), "nobody watches");
        p.join(&room, &bob, true);
        p.join(&room, &ann, false);
        let e = p.gather();
        assert_eq!(e[0].count, 3);
        assert_eq!(names(&e[0].changes.as_ref().unwrap().0), ["bob"]);
        p.leave(&room, &ann, false);
        p.leave(&room, &ann, false);
        p.join(&room, &ann, false);
        let e = p.gather();
        assert_eq!(e[0].changes, Some((vec![], vec![])), "came back within one event");
        for u in ["a", "b", "c", "d"] {
            p.join(&room, &u.into(), false);
        }
        let e = p.gather();
        assert_eq!((e[0].count, &e[0].changes), (6, &None));
        let list = p.list("r");
        assert_eq!((list.count, list.users.len(), list.truncated), (6, 3, true));
        assert_eq!(p.list("empty"), PresenceList::default());
    }
}
