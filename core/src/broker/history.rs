//! Reading a room's history: pages for clients and hosts, and the part of a member's stream before it is live.
//!
//! Functions that may read the disk block their thread; a shard calls only those whose name begins with `memory`.

use crate::broker::{Broker, Reach};
use crate::clock::Clock;
use crate::codes::Code;
use crate::command::{HistoryQuery, Start};
use crate::config::{Limit, Limits};
use crate::error::{Error, Result};
use crate::message::{Epoch, Publication};
use crate::metrics::Metrics;
use crate::points::{Point, reach};
use crate::protocol::frame;
use crate::room::hub::Hub;
use crate::room::recent::Frame;
use crate::room::subscriber::Subscriber;
use crate::view::{OwnedRow, RowQuery};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Rows that are read from the log at once.
const READ_ROWS: usize = 8;
/// How often a subscription looks whether this node has read up to its position.
const AGAIN: Duration = Duration::from_millis(5);

/// See the module.
#[derive(Debug)]
pub struct History {
    broker: Arc<dyn Broker>,
    hub: Arc<Hub>,
    limits: Limits,
    metrics: Arc<Metrics>,
}

/// A page of history.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HistoryPage {
    /// The publications, in the order asked for.
    pub publications: Vec<Publication>,
    /// The range holds more, in the direction read.
    pub more: bool,
    /// The room's last offset.
    pub last: u64,
    /// The room's epoch.
    pub epoch: Epoch,
}

/// A part of a member's stream, as frames.
#[derive(Clone, Debug, Default)]
pub struct StreamPage {
    /// The frames, in order.
    pub frames: Vec<Bytes>,
    /// How many publications.
    pub count: u64,
    /// Everything up to here is in it or was sent before.
    pub reached: u64,
}

/// How a member's stream starts.
#[derive(Clone, Debug)]
pub struct StreamStart {
    /// The member's position: what follows comes after it.
    pub offset: u64,
    /// Whether the position that it asked for holds.
    pub recovered: bool,
    /// What is sent at once.
    pub page: StreamPage,
}

impl History {
    /// A reader of what `broker` stores.
    pub fn new(broker: Arc<dyn Broker>, hub: Arc<Hub>, limits: &Limits, metrics: Arc<Metrics>) -> History {
        History { broker, hub, limits: limits.clone(), metrics }
    }

    /// The room's epoch.
    pub fn epoch(&self, room: &str) -> Epoch {
        self.broker.epoch(room)
    }

    /// The room's last offset.
    pub fn last(&self, room: &str) -> Result<u64> {
        self.hub.last(room).map_err(|e| unreadable(&e))
    }

    /// A page for a client or the host. May read the disk.
    pub fn query(&self, room: &str, query: &HistoryQuery) -> Result<HistoryPage> {
        self.broker.serves(room)?;
        let epoch = self.broker.epoch(room);
        let last = self.last(room)?;
        if query.at_least > last {
            return Err(Error::new(Code::Unavailable, "this node has not reached the position asked for"));
        }
        self.asked(query.limit);
        let limit = (query.limit as usize).clamp(1, self.limits.history_page);
        // Nothing above `last` is shown, even if the view is already ahead: the page and its `last` agree.
        let before = if query.before == 0 { last + 1 } else { query.before.min(last + 1) };
        let view = self.hub.view();
        let rows = view
            .rows(room, RowQuery { after: query.after, before, limit, backward: query.backward })
            .map_err(|e| unreadable(&e))?;
        let mut publications = self.read(&rows.rows, query.backward)?;
        let more = rows.more || publications.len() < rows.rows.len();
        if query.backward {
            publications.reverse();
        }
        // The view of the same log may be built again, and be empty meanwhile.
        self.broker.serves(room)?;
        if self.broker.epoch(room) != epoch || !Arc::ptr_eq(&view, &self.hub.view()) {
            return Err(Error::new(Code::Unavailable, "another log came while this was read; ask again"));
        }
        Ok(HistoryPage { publications, more, last, epoch })
    }

    fn asked(&self, count: u32) {
        if count as usize > self.limits.history_page {
            self.metrics.limit_hits[Limit::HistoryPage].inc();
        }
    }

    /// A stream is asked for that starts so: counts one that asks for more than a page.
    pub fn asked_start(&self, start: &Start) {
        match *start {
            Start::Live => {}
            Start::History(n) | Start::Since { history: n, .. } => self.asked(n),
        }
    }

    /// Reads the first of these rows, or the newest, as many as are within `history_page_bytes` and at least one; in order of offset.
    ///
    /// A few at a time: a page of large messages is a few of the rows that a page may have, and the others are not worth reading.
    fn read(&self, rows: &[OwnedRow], newest: bool) -> Result<Vec<Publication>> {
        reach(Point::Free);
        let (mut all, mut bytes) = (Vec::new(), 0);
        let some: Box<dyn Iterator<Item = &[OwnedRow]>> =
            if newest { Box::new(rows.rchunks(READ_ROWS)) } else { Box::new(rows.chunks(READ_ROWS)) };
        'all: for rows in some {
            let mut read = self.broker.read(rows)?;
            if newest {
                read.reverse();
            }
            for publication in read {
                bytes += publication.record.body().len();
                if bytes > self.limits.history_page_bytes && !all.is_empty() {
                    self.metrics.limit_hits[Limit::HistoryPageBytes].inc();
                    break 'all;
                }
                all.push(publication);
            }
        }
        if newest {
            all.reverse();
        }
        Ok(all)
    }

    /// The start of a stream, if memory alone can tell: `cursor` is the shard's.
    pub fn memory_start(&self, room: &str, start: &Start, cursor: u64) -> Option<StreamStart> {
        match *start {
            Start::Live => Some(StreamStart::at(cursor, false)),
            Start::History(n) => self.memory_newest(room, n, cursor, false),
            Start::Since { epoch, offset, history } => {
                if epoch.is_some_and(|e| e != self.epoch(room)) {
                    return self.memory_newest(room, history, cursor, false);
                }
                if offset == cursor {
                    return Some(StreamStart::at(cursor, true));
                }
                let page = self.memory_page(room, offset, cursor)?;
                (offset < cursor).then_some(StreamStart { offset, recovered: true, page })
            }
        }
    }

    fn memory_newest(&self, room: &str, n: u32, cursor: u64, recovered: bool) -> Option<StreamStart> {
        if cursor == 0 || n == 0 {
            return Some(StreamStart::at(cursor, recovered));
        }
        let n = (n as usize).min(self.limits.history_page);
        let frames = self.hub.newest(room, n, cursor, self.limits.history_page_bytes)?;
        let offset = frames.first()?.prev;
        Some(StreamStart { offset, recovered, page: page_of(frames, cursor, false) })
    }

    /// The start of a stream; none while this node has yet to read up to the position, which was first asked for at `since_ms` (steady
    /// clock). May read the disk.
    pub fn start(
        &self,
        room: &str,
        start: &Start,
        cursor: u64,
        since_ms: u64,
    ) -> Result<Option<StreamStart>> {
        if let Some(start) = self.memory_start(room, start, cursor) {
            return Ok(Some(start));
        }
        reach(Point::Free);
        let n = match *start {
            Start::Live => 0,
            Start::History(n) => n,
            Start::Since { epoch, offset, history } => {
                let same = epoch.is_none_or(|e| e == self.epoch(room));
                if same && offset > cursor {
                    match self.ahead(room, offset, since_ms)? {
                        // The client has seen more than this shard has handed out yet.
                        Reach::Read => return Ok(Some(StreamStart::at(offset, true))),
                        Reach::Behind => return Ok(None),
                        Reach::Beyond => {}
                    }
                }
                if same && offset <= cursor {
                    let query = self.rows_after(offset, cursor);
                    let rows = self.hub.view().rows(room, query).map_err(|e| unreadable(&e))?;
                    if rows.floor <= offset {
                        let page = self.page_from(rows, cursor)?;
                        return Ok(Some(StreamStart { offset, recovered: true, page }));
                    }
                }
                history
            }
        };
        let limit = (n as usize).min(self.limits.history_page);
        if limit == 0 || cursor == 0 {
            return Ok(Some(StreamStart::at(cursor, false)));
        }
        let query = RowQuery { after: 0, before: cursor + 1, limit, backward: true };
        let rows = self.hub.view().rows(room, query).map_err(|e| unreadable(&e))?;
        let newest = self.read(&rows.rows, true)?;
        let offset = newest.first().map_or(cursor, |p| p.prev);
        Ok(Some(StreamStart { offset, recovered: false, page: frames_of(&newest, cursor) }))
    }

    /// How a position that is ahead of a cursor lies to what this node has read.
    fn ahead(&self, room: &str, offset: u64, since_ms: u64) -> Result<Reach> {
        let shown = offset <= self.last(room)?;
        Ok(if shown { Reach::Read } else { self.broker.reach(room, offset, since_ms) })
    }

    /// Waits until this node has read up to a position. False: the log does not reach so far.
    fn read_up_to(&self, room: &str, offset: u64, clock: &dyn Clock) -> Result<bool> {
        let since_ms = clock.steady_ms();
        loop {
            match self.ahead(room, offset, since_ms)? {
                Reach::Read => return Ok(true),
                Reach::Beyond => return Ok(false),
                Reach::Behind if clock.steady_ms() >= since_ms + self.limits.resume_wait_ms => {
                    return Err(self.behind());
                }
                Reach::Behind => std::thread::sleep(AGAIN),
            }
        }
    }

    /// The refusal of a join or subscription that has waited for `resume_wait_ms`.
    pub fn behind(&self) -> Error {
        let text = "this node has not yet read up to this position; try again, or at another node";
        Error::new(Code::Unavailable, text).at(Limit::ResumeWaitMs)
    }

    fn rows_after(&self, after: u64, to: u64) -> RowQuery {
        RowQuery { after, before: to + 1, limit: self.limits.history_page, backward: false }
    }

    /// The part after `after` and up to `to`, if memory has the beginning of it.
    pub fn memory_page(&self, room: &str, after: u64, to: u64) -> Option<StreamPage> {
        let limit = self.limits.history_page;
        let frames = self.hub.recent(room, after, to, limit, self.limits.history_page_bytes)?;
        // Cut short by a bound, it reaches only its own last one; else there is nothing more up to `to`.
        let cut = frames.last().is_some_and(|f| f.offset < to);
        Some(page_of(frames, to, cut))
    }

    /// The part after `after` and up to `to`, or the beginning of it. May read the disk.
    pub fn page(&self, room: &str, after: u64, to: u64) -> Result<StreamPage> {
        if let Some(page) = self.memory_page(room, after, to) {
            return Ok(page);
        }
        let rows = self.hub.view().rows(room, self.rows_after(after, to)).map_err(|e| unreadable(&e))?;
        if rows.floor > after {
            return Err(dropped());
        }
        self.page_from(rows, to)
    }

    /// Whether the room can be joined now; the error says why not.
    pub fn serves(&self, room: &str) -> Result<()> {
        self.broker.serves(room)
    }

    /// Adds a host's listener to a room; returns the cursor.
    pub fn listen(&self, room: &Arc<str>, subscriber: Arc<Subscriber>) -> Result<u64> {
        self.serves(room)?;
        self.hub.subscribe(room, subscriber).map_err(|e| unreadable(&e))
    }

    /// Where a host's stream starts, and whether the position asked for holds. May read the disk, and waits at most `resume_wait_ms` for
    /// a position that this node has yet to read.
    pub fn position(&self, room: &str, start: &Start, cursor: u64, clock: &dyn Clock) -> Result<(u64, bool)> {
        let n = match *start {
            Start::Live => return Ok((cursor, false)),
            Start::History(n) => n,
            Start::Since { epoch, offset, history } => {
                let same = epoch.is_none_or(|e| e == self.epoch(room));
                if same && offset > cursor && self.read_up_to(room, offset, clock)? {
                    return Ok((offset, true));
                }
                if same && offset <= cursor {
                    let query = RowQuery { limit: 1, ..self.rows_after(offset, cursor) };
                    let rows = self.hub.view().rows(room, query).map_err(|e| unreadable(&e))?;
                    if rows.floor <= offset {
                        return Ok((offset, true));
                    }
                }
                history
            }
        };
        if n == 0 || cursor == 0 {
            return Ok((cursor, false));
        }
        let limit = (n as usize).min(self.limits.history_page);
        let query = RowQuery { after: 0, before: cursor + 1, limit, backward: true };
        let rows = self.hub.view().rows(room, query).map_err(|e| unreadable(&e))?;
        Ok((rows.rows.first().map_or(cursor, |r| r.prev), false))
    }

    /// At most `max` publications after `after` and up to `to`; none if there are none. Nothing if retention has dropped some of
    /// these. May read the disk.
    pub fn publications(
        &self,
        room: &str,
        after: u64,
        to: u64,
        max: usize,
    ) -> Result<Option<Vec<Publication>>> {
        let query = RowQuery { limit: max.clamp(1, self.limits.history_page), ..self.rows_after(after, to) };
        let rows = self.hub.view().rows(room, query).map_err(|e| unreadable(&e))?;
        if rows.floor > after {
            return Ok(None);
        }
        self.broker.read(&rows.rows).map(Some)
    }

    fn page_from(&self, rows: crate::view::Rows, to: u64) -> Result<StreamPage> {
        let publications = self.read(&rows.rows, false)?;
        let cut = rows.more || publications.len() < rows.rows.len();
        let reached = if cut { publications.last().map_or(to, Publication::offset) } else { to };
        Ok(frames_of(&publications, reached))
    }
}

impl StreamStart {
    fn at(offset: u64, recovered: bool) -> StreamStart {
        StreamStart { offset, recovered, page: StreamPage { reached: offset, ..StreamPage::default() } }
    }
}

fn page_of(frames: Vec<Frame>, to: u64, cut: bool) -> StreamPage {
    let reached = if cut { frames.last().map_or(to, |f| f.offset) } else { to };
    StreamPage { count: frames.len() as u64, reached, frames: frames.into_iter().map(|f| f.bytes).collect() }
}

fn frames_of(publications: &[Publication], reached: u64) -> StreamPage {
    let mut out = Vec::new();
    for p in publications {
        frame::publication(&mut out, &p.record, p.prev);
    }
    // It may wait for a slow member.
    out.shrink_to_fit();
    let frames = if out.is_empty() { Vec::new() } else { vec![out.into()] };
    StreamPage { frames, count: publications.len() as u64, reached }
}

fn unreadable(e: &crate::view::ViewError) -> Error {
    Error::new(Code::Unavailable, format!("the view cannot be read: {e}"))
}

fn dropped() -> Error {
    Error::new(Code::Unavailable, "what comes next was dropped by the retention while it was read")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Health;
    use crate::broker::append::Append;
    use crate::config::ViewSettings;
    use crate::view::{Identity, View};
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    /// A broker that begins anew while history is read.
    #[derive(Debug)]
    struct Anew {
        hub: Arc<Hub>,
        /// Whether it serves again before the page is made.
        back: bool,
        begun: AtomicBool,
        asked: AtomicU32,
    }

    impl Broker for Anew {
        fn append(&self, _: &mut Vec<Append>) {}

        fn read(&self, _: &[OwnedRow]) -> Result<Vec<Publication>> {
            self.hub.begin_anew(Arc::new(view()));
            self.begun.store(true, Ordering::SeqCst);
            Ok(Vec::new())
        }

        fn epoch(&self, _: &str) -> Epoch {
            Epoch(7)
        }

        fn serves(&self, _: &str) -> Result<()> {
            self.asked.fetch_add(1, Ordering::SeqCst);
            match self.begun.load(Ordering::SeqCst) && !self.back {
                true => Err(Error::new(Code::Unavailable, "it has yet to read the log")),
                false => Ok(()),
            }
        }

        fn sweep(&self) {}

        fn health(&self) -> Health {
            Health::Up
        }

        fn stop(&self, _: u64) -> Result<u64> {
            Ok(0)
        }
    }

    fn view() -> View {
        View::memory(Identity { log: [1; 16], partitions: 1 }, &ViewSettings::default())
    }

    /// The view of the same log is built again: for a while it has nothing, and the epoch stays.
    #[test]
    fn a_page_of_a_view_that_is_gone_is_no_answer() {
        let limits = Limits::default();
        for back in [false, true] {
            let hub = Arc::new(Hub::new(Arc::new(view()), &limits, Arc::default()));
            let (begun, asked) = (AtomicBool::new(false), AtomicU32::new(0));
            let broker = Arc::new(Anew { hub: hub.clone(), back, begun, asked });
            let room: Arc<str> = "lobby".into();
            let row = crate::view::Row { room: &room, offset: 1, prev: 0, place: &[0; 16] };
            hub.view().add(0, &[row], &[], crate::view::Checkpoint { sequence: 1, check: 0 });
            let history = History::new(broker.clone(), hub, &limits, Arc::default());
            let query = HistoryQuery { limit: 10, ..HistoryQuery::default() };
            assert_eq!(history.query("lobby", &query).unwrap_err().code(), Code::Unavailable);
            assert!(broker.begun.load(Ordering::SeqCst) && broker.asked.load(Ordering::SeqCst) > 1);
        }
    }
}
