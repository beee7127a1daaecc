//! One life of the server in the simulation: the engine's own parts, without its threads and sockets.

use super::disk::SimFiles;
use super::net::{Bell, Ends, SimNet, SimSocket};
use crate::broker::Broker;
use crate::broker::embedded::{EmbeddedBroker, Writer};
use crate::broker::history::History;
use crate::clock::Clock;
use crate::codes::Disconnect;
use crate::command::Connect;
use crate::config::Settings;
use crate::engine::housekeeping::flush_view;
use crate::error::Result;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::room::hub::ShardPort;
use crate::room::presence::Presence;
use crate::server::admission::Admission;
use crate::server::inbox::{Arrival, Inbox, Item, Target};
use crate::server::net::Ready;
use crate::server::reader::{Job, Readers};
use crate::server::shard::Shard;
use crate::server::shared::Shared;
use crate::session::Policy;
use crate::view::{View, ViewAt};
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;

/// A shard, and what its poll set would know.
struct Seat {
    shard: RefCell<Shard<SimNet>>,
    inbox: Arc<Inbox>,
    bell: Bell,
    links: RefCell<Vec<(u32, Ends)>>,
    /// When it wants its next turn (steady clock), if nothing comes before.
    next_ms: Cell<Option<u64>>,
    /// It has been stopped and has ended.
    ended: Cell<bool>,
}

/// See the module. Whatever is borrowed is at work: somebody else's turn comes while it waits.
pub(super) struct Node {
    pub(super) files: Arc<SimFiles>,
    pub(super) broker: Arc<EmbeddedBroker>,
    writer: RefCell<Option<Writer>>,
    view: Arc<View>,
    history: Arc<History>,
    jobs: RefCell<Receiver<Job>>,
    reading: Cell<u32>,
    seats: Vec<Seat>,
    shared: Arc<Shared>,
    admission: Arc<Admission>,
    flush_failing: RefCell<bool>,
    window_ms: u64,
    /// The process is no more: nothing that it still does counts.
    pub(super) dead: Cell<bool>,
    /// When the writer last ran (steady clock).
    wrote_ms: Cell<u64>,
}

impl Node {
    pub(super) fn start(
        files: Arc<SimFiles>,
        at: &ViewAt,
        settings: &Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Node> {
        let metrics = Arc::new(Metrics::default());
        let (broker, writer) =
            EmbeddedBroker::prepare(files.clone(), at, settings, clock.clone(), metrics.clone())?;
        let broker = Arc::new(broker);
        let (view, hub) = (broker.tail().view().clone(), broker.tail().hub().clone());
        let history = Arc::new(History::new(broker.clone(), hub.clone(), &settings.limits, metrics.clone()));
        let (readers, jobs) = Readers::queue(settings.shards * settings.limits.history_reads.max(1));
        let wrote_ms = Cell::new(clock.steady_ms());
        let shared = Arc::new(Shared {
            broker: broker.clone(),
            hub: hub.clone(),
            history: history.clone(),
            presence: Arc::new(Presence::new(settings.limits.presence_names, metrics.clone())),
            readers,
            hooks: None,
            events: Arc::new(Events::new(settings.limits.event_queue, metrics.clone())),
            metrics: metrics.clone(),
            clock,
            connection_seed: 1,
            policy: Policy {
                limits: settings.limits.clone(),
                authorizer: false,
                publish_hook: false,
                open_users: true,
            },
        });
        let seats: Vec<Seat> = (0..settings.shards as u32)
            .map(|index| {
                let bell = Bell::default();
                let inbox = Arc::new(Inbox::new(Box::new(bell.clone())));
                let shard = Shard::new(index, shared.clone(), inbox.clone(), SimNet);
                let (links, next_ms) = (RefCell::default(), Cell::new(Some(0)));
                Seat { shard: RefCell::new(shard), inbox, bell, links, next_ms, ended: Cell::new(false) }
            })
            .collect();
        hub.set_ports(seats.iter().map(|s| s.inbox.clone() as Arc<dyn ShardPort>).collect());
        Ok(Node {
            files,
            broker,
            writer: RefCell::new(Some(writer)),
            view,
            history,
            jobs: RefCell::new(jobs),
            reading: Cell::new(0),
            seats,
            admission: Arc::new(Admission::new(&settings.limits, metrics)),
            shared,
            flush_failing: RefCell::new(false),
            window_ms: settings.dedupe_window_ms,
            dead: Cell::new(false),
            wrote_ms,
        })
    }

    pub(super) fn shards(&self) -> usize {
        self.seats.len()
    }

    /// An upgraded connection comes to a shard; false if that is at work.
    pub(super) fn enter(&self, shard: usize, ends: &Ends, user: &str) -> bool {
        let Some(seat) = self.seats.get(shard % self.seats.len()) else { return false };
        let Ok(mut shard) = seat.shard.try_borrow_mut() else { return false };
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let Some(permit) = self.admission.arrive(address.ip()) else { return false };
        let slot = shard.vacancy();
        let connect = Connect { user: Some(user.to_owned().into()), ..Connect::default() };
        let arrival = Arrival { read: bytes::Bytes::new(), address, connect: Some(connect), permit };
        shard.enter(slot, SimSocket(ends.clone()), arrival);
        let mut links = seat.links.borrow_mut();
        links.retain(|(s, l)| *s != slot && !l.is_over());
        links.push((slot, ends.clone()));
        // As the poll set does for what has come before the registration.
        seat.next_ms.set(Some(0));
        true
    }

    /// The host closes a user's connections, or takes them out of a room.
    pub(super) fn kick(&self, user: &str, room: Option<&str>) {
        for seat in &self.seats {
            let target = Target::User(user.into());
            seat.inbox.push(Item::Kick { target, room: room.map(Box::from), code: Disconnect::Reconnect });
        }
    }

    /// Whether a shard's poll would return.
    fn is_awake(&self, seat: &Seat) -> bool {
        seat.bell.has_rung()
            || seat.next_ms.get().is_some_and(|at| at <= self.shared.clock.steady_ms())
            || seat.links.try_borrow().is_ok_and(|links| links.iter().any(|(_, l)| l.is_ready()))
    }

    /// One turn of a shard, if its poll would return; with `few`, of what is ready only a part is told.
    pub(super) fn turn(&self, shard: usize, few: bool) -> bool {
        let Some(seat) = self.seats.get(shard) else { return false };
        if seat.ended.get() || !self.is_awake(seat) {
            return false;
        }
        let Ok(mut shard) = seat.shard.try_borrow_mut() else { return false };
        seat.bell.take();
        let most = if few { 1 } else { usize::MAX };
        let ready: Vec<Ready> =
            seat.links.borrow().iter().filter_map(|(slot, link)| link.ready(*slot)).take(most).collect();
        seat.ended.set(!shard.turn(ready.into_iter()));
        let wait = shard.wait();
        seat.next_ms.set(wait.map(|wait| self.shared.clock.steady_ms() + wait.as_millis() as u64));
        true
    }

    /// One read of history, of which at most two are under way.
    pub(super) fn read(&self) -> bool {
        if self.reading.get() >= 2 {
            return false;
        }
        let job = match self.jobs.try_borrow_mut() {
            Ok(jobs) => jobs.try_recv(),
            Err(_) => return false,
        };
        let Ok(job) = job else { return false };
        self.reading.set(self.reading.get() + 1);
        let read = job.perform(&self.history);
        self.reading.set(self.reading.get() - 1);
        job.inbox.push(Item::Read(job.to, read));
        true
    }

    /// One round of the log's thread, if it has something to do.
    pub(super) fn write(&self) -> bool {
        // It may have to flush the view, which waits for a flush under way.
        if self.flush_failing.try_borrow_mut().is_err() {
            return false;
        }
        let Ok(mut writer) = self.writer.try_borrow_mut() else { return false };
        let now = self.shared.clock.steady_ms();
        if !self.broker.has_work() && now < self.wrote_ms.get() + 1000 {
            return false;
        }
        self.wrote_ms.set(now);
        let Some(writer) = writer.as_mut() else { return false };
        writer.step();
        true
    }

    /// One flush of the view.
    pub(super) fn flush(&self) -> bool {
        let Ok(mut failing) = self.flush_failing.try_borrow_mut() else { return false };
        flush_view(&self.view, self.window_ms, &mut failing);
        true
    }

    pub(super) fn fail_view(&self, failing: bool) {
        self.view.fail_writes(failing);
    }

    pub(super) fn sweep(&self) {
        self.broker.sweep();
    }

    /// Ends as a stop does: connections are told, what is queued is written, the view is closed. False if something is at work.
    pub(super) fn stop(&self) -> bool {
        if self.flush_failing.try_borrow_mut().is_err()
            || self.seats.iter().any(|s| s.shard.try_borrow_mut().is_err())
        {
            return false;
        }
        let Ok(mut slot) = self.writer.try_borrow_mut() else { return false };
        let Some(mut writer) = slot.take() else { return false };
        let deadline_ms = self.shared.clock.steady_ms() + 1000;
        for (i, seat) in self.seats.iter().enumerate() {
            seat.inbox.push(Item::Stop { deadline_ms });
            while self.turn(i, false) && !self.dead.get() {}
        }
        while self.broker.has_work() && !self.dead.get() {
            writer.step();
        }
        let _ = writer.close();
        let _ = self.view.close();
        true
    }

    /// Whether nobody has anything to do before time passes.
    pub(super) fn is_idle(&self) -> bool {
        !self.seats.iter().any(|s| self.is_awake(s)) && !self.broker.has_work()
    }
}
