//! What a consumer sees of its node: how far it has read, and what became of a record there.

use crate::broker::kafka::{Shared, publication};
use crate::broker::tail::{Origin, Tail, view_error};
use crate::error::Result;
use crate::message::{Publication, Record};
use crate::view::{RowQuery, View};
use std::sync::Arc;

/// See the module. While it exists the node's view is open.
#[derive(Debug)]
pub struct Sight {
    shared: Arc<Shared>,
    /// The topic whose records are read; none before the node has read it up to its end.
    topic_id: Option<Arc<str>>,
}

impl Sight {
    /// Of a node that may have yet to find its topic.
    pub fn new(shared: Arc<Shared>) -> Sight {
        Sight { shared, topic_id: None }
    }

    /// Whether the node serves another topic than it did when this was asked last. From then on it is that one.
    pub fn turn_to_topic(&mut self) -> bool {
        if !self.shared.is_ready() {
            return false;
        }
        let now = self.shared.life().topic_id_text.clone();
        let another = self.topic_id.as_ref() != Some(&now);
        self.topic_id = Some(now);
        another
    }

    /// The steady clock.
    pub fn now_ms(&self) -> u64 {
        self.shared.clock.steady_ms()
    }

    /// How many partitions have rooms.
    pub fn partitions(&self) -> u32 {
        self.shared.life().tails.len() as u32
    }

    /// The id of the topic whose records are read.
    pub fn topic_id(&self) -> &str {
        self.topic_id.as_deref().unwrap_or_default()
    }

    /// What the node has decided of a partition; none while it serves another topic than that which is read here, or none.
    pub fn of(&self, partition: u32) -> Option<Decided> {
        let life = self.shared.life();
        let same = self.topic_id.as_ref() == Some(&life.topic_id_text);
        life.tails.get(partition as usize).filter(|_| same).map(|tail| Decided(tail.clone()))
    }
}

/// What the node has decided of a partition in one life of the topic. The end and the rows are of one view, also where another one is put in
/// its place meanwhile: a view that is empty would say of every record that no member saw it.
#[derive(Debug)]
pub struct Decided(Arc<Tail>);

impl Decided {
    /// The place of the last record that is decided.
    pub fn reached(&self) -> u64 {
        self.0.passed()
    }

    /// The publication that members got of a record which is decided; none if they got none.
    pub fn seen(&self, origin: &Origin, record: Option<&Record>) -> Result<Option<Publication>> {
        record.map_or(Ok(None), |record| seen(self.0.view(), origin, record))
    }
}

/// The same of a view.
pub(super) fn seen(view: &View, origin: &Origin, record: &Record) -> Result<Option<Publication>> {
    let place = record.offset();
    let query = RowQuery { after: place - 1, before: place + 1, limit: 1, backward: false };
    let rows = view.rows(record.room(), query).map_err(|e| view_error(&e))?;
    if let Some(row) = rows.rows.first() {
        return publication(row).map(Some);
    }
    // Not even the view knows what came before it.
    let forgotten = || Ok(Some(Publication { record: record.clone(), prev: 0 }));
    if !matches!(origin, Origin::Read) {
        // No duplicate of anything: its row was dropped.
        return forgotten();
    }
    if place > rows.floor {
        return Ok(None);
    }
    let key = view.hash_key().message(record.room(), record.user(), record.given_id());
    match view.id(key, 0).map_err(|e| view_error(&e))? {
        // What came later within the window leaves the entry at the accepted record.
        Some(entry) if entry.offset < place => Ok(None),
        _ => forgotten(),
    }
}
