//! One life of the topic: from the day that it was created to the day that it is deleted, or to the end of the node.

use super::bell::Bell;
use super::partition::partition_of;
use crate::broker::Reach;
use crate::broker::tail::Tail;
use crate::codes::Code;
use crate::error::Error;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug)]
pub struct Life {
    /// Which one it is of this node, from 1 on; 0 until there is one.
    pub number: u64,
    /// The topic's id.
    pub topic_id: [u8; 16],
    /// The same as records have it.
    pub topic_id_text: Arc<str>,
    /// The tail of each partition.
    pub tails: Vec<Arc<Tail>>,
    /// What the cluster has told of the partitions' ends.
    pub marks: Marks,
    parts: Vec<Part>,
}

/// What is known of a partition.
#[derive(Debug)]
struct Part {
    /// Its rooms' publishes can be stored: it has a leader, as far as is known.
    led: AtomicBool,
    /// It is not read although there is something to read.
    stalled: AtomicBool,
    /// How far it had been passed, and how often its end had been reached, when it was found to be stalled.
    stood: Mutex<(u64, u64)>,
}

impl Part {
    fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    fn stood(&self) -> MutexGuard<'_, (u64, u64)> {
        self.stood.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Life {
    /// With a tail for each partition.
    pub fn new(number: u64, topic_id: [u8; 16], tails: Vec<Arc<Tail>>, bell: Arc<Bell>) -> Life {
        let marks = Marks { parts: tails.iter().map(|_| Mutex::default()).collect(), bell };
        let part =
            |_| Part { led: AtomicBool::new(true), stalled: AtomicBool::new(false), stood: Mutex::default() };
        let parts = tails.iter().map(part).collect();
        let topic_id_text = BASE64_URL_SAFE_NO_PAD.encode(topic_id).into();
        Life { number, topic_id, topic_id_text, tails, marks, parts }
    }

    /// The partition of a room.
    pub fn partition(&self, room: &str) -> u32 {
        partition_of(room.as_bytes(), self.tails.len() as u32)
    }

    /// The tail of a room.
    pub fn tail(&self, room: &str) -> &Tail {
        // There is at least one: the settings are checked, and so are the indexes by the number of tails.
        &self.tails[self.partition(room) as usize]
    }

    /// See [`crate::broker::Broker::reach`].
    pub fn reach(&self, room: &str, offset: u64, since_ms: u64) -> Reach {
        let partition = self.partition(room);
        if self.tail(room).passed() >= offset {
            return Reach::Read;
        }
        match self.marks.get(partition) {
            Some(mark) if mark.end >= offset => Reach::Behind,
            Some(mark) if mark.asked_ms > since_ms => Reach::Beyond,
            _ => {
                self.marks.want(partition);
                Reach::Behind
            }
        }
    }

    /// Says whether a partition is stalled, and how far it has come: [`Tail::passed`] and [`Tail::ends`]. True if that is news.
    pub fn set_stalled(&self, partition: u32, stalled: bool, moved: (u64, u64)) -> bool {
        self.parts.get(partition as usize).is_some_and(|part| {
            *part.stood() = moved;
            part.stalled.swap(stalled, Ordering::AcqRel) != stalled
        })
    }

    /// Stalled partitions that have been read since are not any more.
    pub fn clear_stalls(&self) {
        for (part, tail) in self.parts.iter().zip(&self.tails).filter(|(part, _)| part.is_stalled()) {
            if *part.stood() != (tail.passed(), tail.ends()) {
                part.stalled.store(false, Ordering::Release);
            }
        }
    }

    /// Whether a partition is stalled.
    pub fn is_stalled(&self, partition: u32) -> bool {
        self.parts.get(partition as usize).is_some_and(Part::is_stalled)
    }

    /// How many are.
    pub fn stalled(&self) -> usize {
        self.parts.iter().filter(|part| part.is_stalled()).count()
    }

    /// Says which partitions have leaders. Nothing is said by nothing.
    pub fn set_led(&self, led: &[bool]) {
        self.parts.iter().zip(led).for_each(|(part, led)| part.led.store(*led, Ordering::Release));
    }

    /// Whether a partition has a leader, as far as is known.
    pub fn is_led(&self, partition: u32) -> bool {
        self.parts.get(partition as usize).is_some_and(|part| part.led.load(Ordering::Acquire))
    }

    /// Answers *unknown* to all publishes that wait, and wakes who was answered; how many that were.
    pub fn forsake(&self, text: &str) -> usize {
        let error = Error::new(Code::Unknown, text);
        let forsake = |tail: &Arc<Tail>| {
            let count = tail.forsake(&error);
            tail.wake();
            count
        };
        self.tails.iter().map(forsake).sum()
    }
}

/// First and next offset of a partition, as the cluster told them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When the cluster was asked (steady clock).
    pub asked_ms: u64,
    /// The first offset that is there.
    pub first: u64,
    /// The next offset.
    pub end: u64,
}

/// The marks of all partitions, and which of them somebody waits for. The watch asks for these.
#[derive(Debug)]
pub struct Marks {
    parts: Vec<Mutex<(Option<Mark>, bool)>>,
    bell: Arc<Bell>,
}

impl Marks {
    fn part(&self, partition: u32) -> Option<MutexGuard<'_, (Option<Mark>, bool)>> {
        self.parts.get(partition as usize).map(|p| p.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is known.
    pub fn get(&self, partition: u32) -> Option<Mark> {
        self.part(partition)?.0
    }

    /// Has the cluster asked soon.
    pub fn want(&self, partition: u32) {
        if self.part(partition).is_some_and(|mut part| !std::mem::replace(&mut part.1, true)) {
            self.bell.ring();
        }
    }

    /// The partitions that are wanted.
    pub fn wanted(&self) -> Vec<u32> {
        (0..self.parts.len() as u32).filter(|p| self.part(*p).is_some_and(|part| part.1)).collect()
    }

    /// The cluster has told.
    pub fn set(&self, partition: u32, mark: Mark) {
        if let Some(mut part) = self.part(partition) {
            *part = (Some(mark), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;
    use crate::room::hub::Hub;
    use crate::view::{Identity, View};

    #[test]
    fn a_position_is_beyond_the_log_only_if_the_cluster_says_so_afterwards() {
        let settings = Settings::default();
        let view = Arc::new(View::memory(Identity { log: [1; 16], partitions: 1 }, &settings.view));
        let hub = Arc::new(Hub::new(view.clone(), &settings.limits, Arc::default()));
        let tail = Tail::new(0, [1; 16], 0, view, hub, &settings, Arc::default());
        let bell = Arc::new(Bell::default());
        let life = Life::new(1, [1; 16], vec![Arc::new(tail)], bell.clone());
        let mark = |asked_ms, end| Mark { asked_ms, first: 0, end };
        life.tails[0].skip(10, 0);
        assert_eq!(life.reach("lobby", 10, 100), Reach::Read);
        assert!(life.marks.wanted().is_empty());
        assert_eq!(life.reach("lobby", 20, 100), Reach::Behind, "nobody knows");
        assert!(bell.wait(std::time::Duration::ZERO) && life.marks.wanted() == [0]);
        // What was asked before may have been overtaken.
        life.marks.set(0, mark(100, 19));
        assert_eq!(life.reach("lobby", 20, 100), Reach::Behind);
        assert_eq!(life.marks.wanted(), [0]);
        life.marks.set(0, mark(101, 19));
        assert_eq!(life.reach("lobby", 20, 100), Reach::Beyond);
        assert_eq!(life.reach("lobby", 19, 500), Reach::Behind, "a log does not become shorter");
        life.tails[0].skip(19, 0);
        assert_eq!(life.reach("lobby", 19, 500), Reach::Read);
    }

    /// It was cleared only at a look at all partitions, which none had while any was without a leader.
    #[test]
    fn a_stalled_partition_that_is_read_again_is_stalled_no_more() {
        let settings = Settings::default();
        let view = Arc::new(View::memory(Identity { log: [1; 16], partitions: 1 }, &settings.view));
        let hub = Arc::new(Hub::new(view.clone(), &settings.limits, Arc::default()));
        let tail = Tail::new(0, [1; 16], 0, view, hub, &settings, Arc::default());
        let life = Life::new(1, [1; 16], vec![Arc::new(tail)], Arc::default());
        life.tails[0].skip(10, 0);
        assert!(life.set_stalled(0, true, (10, 0)) && !life.set_stalled(0, true, (10, 0)));
        life.clear_stalls();
        assert_eq!(life.stalled(), 1);
        life.tails[0].at_end();
        life.clear_stalls();
        assert_eq!(life.stalled(), 0);
    }
}
