//! What all shards and the listener of one engine share.

use crate::broker::Broker;
use crate::broker::history::History;
use crate::clock::Clock;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::room::hub::Hub;
use crate::room::presence::Presence;
use crate::server::hookpool::HookPool;
use crate::server::reader::Readers;
use crate::session::Policy;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) policy: Policy,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) history: Arc<History>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) readers: Readers,
    pub(crate) hooks: Option<HookPool>,
    pub(crate) events: Arc<Events>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Secret that connection ids are made with.
    pub(crate) connection_seed: u64,
}
