//! The memory broker: the log and the view in memory, for tests and for chats that may be forgotten. A publish is ordered and
//! delivered by the thread that hands it over.

use crate::broker::append::Append;
use crate::broker::storage::{self, Storage};
use crate::broker::tail::Tail;
use crate::broker::{Broker, Health};
use crate::clock::Clock;
use crate::codes::Code;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::log::{Memory, Reader};
use crate::message::{Epoch, Publication};
use crate::metrics::Metrics;
use crate::room::hub;
use crate::view::{OwnedRow, ViewAt};
use std::sync::{Arc, Mutex, PoisonError};

/// See the module.
#[derive(Debug)]
pub struct MemoryBroker {
    storage: Mutex<Option<Storage>>,
    reader: Reader,
    tail: Arc<Tail>,
    clock: Arc<dyn Clock>,
}

impl MemoryBroker {
    /// An empty one. Without a retention of its own the log keeps the newest 256 MiB.
    pub fn new(settings: &Settings, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Result<MemoryBroker> {
        let mut settings = settings.clone();
        if settings.storage.retain_bytes == 0 {
            settings.storage.retain_bytes = 256 << 20;
        }
        settings.storage.segment_bytes = settings.storage.segment_bytes.min(16 << 20);
        let opened =
            storage::open(Arc::new(Memory::new()), &ViewAt::Memory, &settings, metrics, clock.wall_ms())?;
        Ok(MemoryBroker {
            storage: Mutex::new(Some(opened.storage)),
            reader: opened.reader,
            tail: opened.tail,
            clock,
        })
    }

    /// Its tail.
    pub fn tail(&self) -> &Arc<Tail> {
        &self.tail
    }
}

impl Broker for MemoryBroker {
    fn append(&self, appends: &mut Vec<Append>) {
        let mut storage = self.storage.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *storage {
            Some(_) if self.tail.hub().is_congested() => {
                self.tail.refuse(appends.drain(..), &hub::congested());
            }
            Some(storage) => {
                while !appends.is_empty() {
                    storage.step(appends, self.clock.wall_ms(), self.clock.steady_ms());
                }
            }
            None => {
                self.tail.refuse(appends.drain(..), &Error::new(Code::Stopping, "the engine is stopping"))
            }
        }
        drop(storage);
        self.tail.wake();
    }

    fn read(&self, rows: &[OwnedRow]) -> Result<Vec<Publication>> {
        storage::read(&self.reader, rows)
    }

    fn epoch(&self, room: &str) -> Epoch {
        self.tail.epoch(room)
    }

    fn sweep(&self) {
        if let Some(storage) = &mut *self.storage.lock().unwrap_or_else(PoisonError::into_inner) {
            storage.tick(self.clock.wall_ms());
        }
    }

    fn health(&self) -> Health {
        let storage = self.storage.lock().unwrap_or_else(PoisonError::into_inner);
        storage.as_ref().map_or(Health::Stopped, Storage::health)
    }

    fn stop(&self, _: u64) -> Result<u64> {
        let storage = self.storage.lock().unwrap_or_else(PoisonError::into_inner).take();
        storage.map_or(Ok(0), |s| s.close().map(|()| 0))
    }
}
