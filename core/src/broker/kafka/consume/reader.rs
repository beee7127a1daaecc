//! The thread of a consumer: it polls, so that the group keeps the member, deals out work, and commits what is done.

use super::commit::Committer;
use super::group::{Change, GroupContext, assign, is_cooperative, unassign};
use super::lane::{Found, Lane, Work};
use super::sight::Sight;
use super::{Control, Watcher};
use crate::broker::consume::Consume;
use crate::codes::Code;
use crate::error::Error;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList, TopicPartitionListElem};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long it sleeps if nothing rings: librdkafka throws out who does not poll for far longer.
const NAP_MS: u64 = 100;
/// How often what is done is committed.
const COMMIT_MS: u64 = 200;
/// How long until a commit is tried again.
const COMMIT_AGAIN_MS: u64 = 500;
/// How long a commit may take before partitions go, or the group is left.
pub const LAST_COMMIT_MS: u64 = 2_000;
/// How long one question to the cluster may take, and until it is asked again.
const QUESTION: Duration = Duration::from_secs(1);
const ASK_AGAIN_MS: u64 = 300;

/// See the module.
pub struct Reader {
    how: Consume,
    topic: String,
    consumer: Arc<BaseConsumer<GroupContext>>,
    committer: Committer,
    sight: Sight,
    control: Arc<Control>,
    watcher: Arc<Watcher>,
    lanes: BTreeMap<u32, Lane>,
    /// The last assignment of a partition.
    number: u64,
    /// Jobs that the pool has.
    out: usize,
    /// The lane that is looked at first.
    turn: u32,
    change: Option<Pending>,
    /// What is being committed: which assignments, and how far.
    commit: Option<Vec<(u32, u64, u64)>>,
    /// When something is to be committed; may be, after a failure; when the cluster may be asked, and the numbers be looked at (steady
    /// clock).
    commit_ms: u64,
    again_ms: u64,
    ask_ms: u64,
    tick_ms: u64,
    /// Errors that the operator has been told of.
    told: Vec<RDKafkaErrorCode>,
}

/// A change of the assignment that is being dealt with.
#[derive(Debug)]
struct Pending {
    change: Change,
    /// Until when handlers, and the commit after them, are waited for.
    until_ms: u64,
    commit_until_ms: u64,
}

/// Where a partition is to be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Begin {
    pub at: u64,
    /// The group has committed this already.
    pub committed: bool,
    /// What came next is gone.
    pub reset: bool,
}

/// Where to begin, given what the group has committed, and with which topic's id; and the ends of the partition.
pub(super) fn begin(
    committed: Option<(u64, &str)>,
    topic_id: &str,
    (low, high): (u64, u64),
    from_end: bool,
) -> Begin {
    match committed {
        None => Begin { at: if from_end { high } else { low }, committed: false, reset: false },
        // Other tools commit without a word.
        Some((at, id)) if (id.is_empty() || id == topic_id) && (low..=high).contains(&at) => {
            Begin { at, committed: true, reset: false }
        }
        Some(_) => Begin { at: low, committed: false, reset: true },
    }
}

impl Reader {
    /// One that has yet to run.
    pub fn new(
        how: Consume,
        topic: &str,
        consumer: Arc<BaseConsumer<GroupContext>>,
        committer: Committer,
        sight: Sight,
        control: Arc<Control>,
        watcher: Arc<Watcher>,
    ) -> Reader {
        Reader {
            how,
            topic: topic.into(),
            consumer,
            committer,
            sight,
            control,
            watcher,
            lanes: BTreeMap::new(),
            number: 0,
            out: 0,
            turn: 0,
            change: None,
            commit: None,
            commit_ms: 0,
            again_ms: 0,
            ask_ms: 0,
            tick_ms: 0,
            told: Vec::new(),
        }
    }

    /// Works until it is told to stop. Whether all that was handled is committed. `end`: before the group is left.
    pub fn run(mut self, end: impl FnOnce()) -> bool {
        let ran = catch_unwind(AssertUnwindSafe(|| self.work()));
        let clean = ran.unwrap_or_else(|_| {
            self.control.fail(Error::new(Code::Internal, "the consumer's thread has ended by a fault"));
            false
        });
        self.control.pool().close();
        self.control.gauge(|m| &m.partitions, 0);
        self.control.gauge(|m| &m.lag, 0);
        let Reader { consumer, committer, commit, lanes, sight, .. } = self;
        end();
        drop(sight);
        consumer.context().close();
        // The queues of the lanes hold the client; the last one leaves the group.
        drop(lanes);
        // One that is stuck is the last to hold it, then.
        committer.end(if commit.is_none() { QUESTION } else { Duration::ZERO });
        drop(consumer);
        clean
    }

    fn work(&mut self) -> bool {
        let mut last_commit_ms = None;
        loop {
            let now_ms = self.sight.now_ms();
            if let Err(error) = self.follow_topic().and_then(|()| self.poll()) {
                self.control.fail(error);
                return false;
            }
            self.take_back(now_ms);
            self.committed(now_ms);
            let stop_by = self.control.stop_by();
            let mut more = false;
            if let Some(stop_by) = stop_by {
                if let Some(clean) = self.finish(stop_by, now_ms, &mut last_commit_ms) {
                    return clean;
                }
            } else {
                self.rebalance(now_ms);
                self.place_lost(now_ms);
                more = self.deal_out(now_ms);
                if now_ms >= self.commit_ms {
                    self.commit(now_ms, None);
                }
            }
            if now_ms >= self.tick_ms {
                self.tick_ms = now_ms + NAP_MS;
                self.tick();
            }
            if !more {
                self.control.bell().wait(self.nap(now_ms));
            }
        }
    }

    /// Subscribes once the node serves its topic, and again where another one has come in its place: of that the group has committed
    /// nothing. Here and not before, so that one who is a member answers the group.
    fn follow_topic(&mut self) -> Result<(), Error> {
        if !self.sight.turn_to_topic() {
            return Ok(());
        }
        // What is at work there is of the topic before, and not committed.
        self.halt(|_| true);
        self.lanes.clear();
        // One that is under way is still to be answered, and says nothing of what is committed from now on.
        self.commit = self.commit.take().map(|_| Vec::new());
        self.consumer.unsubscribe();
        self.consumer
            .subscribe(&[&self.topic])
            .map_err(|e| Error::new(Code::Unavailable, format!("the topic cannot be subscribed to: {e}")))
    }

    fn nap(&self, now_ms: u64) -> Duration {
        // A pool that is full rings when it is not.
        let open = self.pool_has_room();
        let retries = self.lanes.values().filter_map(|lane| match lane.work {
            Work::Later(_, at_ms) if open && !lane.halt.load(Ordering::Acquire) => Some(at_ms),
            _ => None,
        });
        let next = retries.chain([now_ms + NAP_MS]).min().unwrap_or(now_ms);
        Duration::from_millis(next.saturating_sub(now_ms).max(1))
    }

    /// Serves what is not of one partition.
    fn poll(&mut self) -> Result<(), Error> {
        // An event at a time; a few may have gathered.
        for _ in 0..8 {
            match self.consumer.poll(Duration::ZERO) {
                // Of a partition without rooms.
                None | Some(Ok(_)) => {}
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    let text = format!("the group has thrown the consumer out for good: {code}");
                    return Err(Error::new(Code::Unavailable, text));
                }
                Some(Err(e)) => match e.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::GroupAuthorizationFailed) => self.kept_out(),
                    Some(code) if !self.told.contains(&code) => {
                        self.told.push(code);
                        let group = &self.how.group;
                        tracing::warn!(%code, group, "a consumer group reports an error; further ones of its kind are not shown");
                    }
                    _ => tracing::debug!(error = %e, "a consumer group"),
                },
            }
        }
        Ok(())
    }

    /// The cluster does not let it be a member. The client asks again by itself.
    fn kept_out(&mut self) {
        let group = &self.how.group;
        let text = format!(
            "the cluster does not let this node be a member of the group {group}: it needs the right Read on the group {group}"
        );
        let code = RDKafkaErrorCode::GroupAuthorizationFailed;
        if !self.told.contains(&code) {
            self.told.push(code);
            tracing::error!("{text}");
        }
        self.control.set_last_error(Some(text));
    }

    /// Takes the jobs that have come back.
    fn take_back(&mut self, now_ms: u64) {
        for job in self.control.pool().take_back() {
            self.out -= 1;
            self.control.count(|m| m.handled.add(job.handled));
            if let Some(text) = &job.failed {
                self.control.count(|m| m.retries.inc());
                // Its text is the host's, and may hold what is nobody's business here.
                tracing::warn!(
                    partition = job.partition,
                    offset = job.next,
                    "a handler failed; its publication is handled again"
                );
                self.control.set_last_error(Some(text.clone()));
            } else if job.handled > 0 {
                self.control.set_last_error(None);
            }
            let lane = self.lanes.get_mut(&job.partition).filter(|lane| lane.number == job.number);
            if let Some(lane) = lane {
                lane.take_back(job, self.how.retry_ms, now_ms);
            }
        }
    }

    /// Gives the pool work. Whether there is more to look at.
    fn deal_out(&mut self, now_ms: u64) -> bool {
        // Before the looks: what the node decides after them rings.
        self.watcher.wait();
        let mut more = false;
        let order = self.lanes.range(self.turn..).chain(self.lanes.range(..self.turn));
        let order: Vec<u32> = order.map(|(partition, _)| *partition).collect();
        for partition in order {
            if !self.pool_has_room() {
                break;
            }
            let Some(lane) = self.lanes.get_mut(&partition) else { continue };
            let looked = lane.look(&self.sight, now_ms);
            self.control.count(|m| m.skipped.add(looked.skipped));
            if let Some(error) = looked.error {
                tracing::debug!(partition, %error, "a record cannot be looked up; it waits");
            }
            match looked.found {
                Found::Job(job) => {
                    self.turn = partition + 1;
                    self.out += 1;
                    self.control.pool().give(job);
                }
                Found::More => more = true,
                Found::Nothing => {}
            }
        }
        if !self.lanes.values().any(Lane::waits) {
            self.watcher.rest();
        }
        more
    }

    /// One job for each thread, and one that is ready when that is done.
    fn pool_has_room(&self) -> bool {
        self.out < 2 * self.how.threads
    }

    /// Once in a while.
    fn tick(&mut self) {
        let lag = self.lanes.values().map(|lane| lane.lag(&self.sight)).sum();
        self.control.gauge(|m| &m.lag, lag);
        self.control.gauge(|m| &m.partitions, self.lanes.len() as u64);
        self.lanes.values().for_each(Lane::tick);
    }

    /// Deals with changes of the assignment.
    fn rebalance(&mut self, now_ms: u64) {
        if self.change.is_none() {
            let Some(change) = self.consumer.context().take_change() else { return };
            let until_ms = now_ms + self.how.release_ms;
            let commit_until_ms = until_ms + LAST_COMMIT_MS;
            if let Change::Revoke(partitions) = &change {
                self.halt(|lane| partitions.contains(&(lane.partition as i32)));
            }
            self.change = Some(Pending { change, until_ms, commit_until_ms });
        }
        let Some(pending) = self.change.take() else { return };
        let done = match &pending.change {
            Change::Assign(partitions) => self.assign(partitions, now_ms),
            Change::Revoke(partitions) => self.revoke(partitions, &pending, now_ms),
        };
        if !done {
            self.change = Some(pending);
        }
    }

    /// Takes partitions, once it is known where to begin.
    fn assign(&mut self, partitions: &[i32], now_ms: u64) -> bool {
        if now_ms < self.ask_ms {
            return false;
        }
        let assigned = self.begins(partitions).and_then(|begins| {
            let mut list = TopicPartitionList::new();
            let mut lanes = Vec::new();
            for &number in partitions {
                let Some(begin) = begins.get(&(number as u32)) else {
                    // Without rooms: nothing is read there, and what comes all the same is not looked at.
                    list.add_partition_offset(&self.topic, number, Offset::End)?;
                    continue;
                };
                list.add_partition_offset(&self.topic, number, Offset::Offset(begin.at as i64))?;
                lanes.push(self.lane(number as u32, begin)?);
            }
            assign(&self.consumer, &list)?;
            Ok(lanes)
        });
        match assigned {
            Ok(lanes) => {
                tracing::debug!(partitions = lanes.len(), "a consumer got partitions");
                self.lanes.extend(lanes.into_iter().map(|lane| (lane.partition, lane)));
                self.tick_ms = now_ms;
                true
            }
            Err(e) => {
                tracing::debug!(error = %e, "where a consumer is to begin is not known; asking again");
                self.ask_ms = self.sight.now_ms() + ASK_AGAIN_MS;
                false
            }
        }
    }

    fn lane(&mut self, partition: u32, begin: &Begin) -> KafkaResult<Lane> {
        let queue = self.consumer.split_partition_queue(&self.topic, partition as i32);
        let queue = queue.ok_or_else(|| KafkaError::Subscription("no queue for a partition".into()))?;
        self.number += 1;
        if begin.reset {
            self.tell_reset(partition, begin.at);
        }
        let committed = begin.committed.then_some(begin.at);
        Ok(Lane::new(partition, self.number, queue, self.control.bell().clone(), begin.at, committed))
    }

    fn tell_reset(&self, partition: u32, at: u64) {
        self.control.count(|m| m.resets.inc());
        tracing::warn!(
            partition,
            offset = at,
            "the topic does not have what a group would handle next; it goes on at the first record there is"
        );
    }

    /// Where to begin these partitions; those without rooms are left out.
    fn begins(&self, partitions: &[i32]) -> KafkaResult<BTreeMap<u32, Begin>> {
        let mut list = TopicPartitionList::new();
        let rooms = self.sight.partitions() as i32;
        for &partition in partitions.iter().filter(|p| **p < rooms) {
            list.add_partition(&self.topic, partition);
        }
        if list.count() == 0 {
            return Ok(BTreeMap::new());
        }
        let answer = self.consumer.committed_offsets(list, QUESTION)?;
        let mut begins = BTreeMap::new();
        for element in answer.elements() {
            element.error()?;
            let partition = element.partition();
            let ends = self.ends(partition)?;
            let committed = match element.offset() {
                Offset::Offset(at) => Some((at.max(0) as u64, word(&element))),
                _ => None,
            };
            let committed = committed.as_ref().map(|(at, word)| (*at, word.as_str()));
            let begin = begin(committed, self.sight.topic_id(), ends, self.how.from_end);
            begins.insert(partition as u32, begin);
        }
        Ok(begins)
    }

    /// The first offset of a partition, and the next.
    fn ends(&self, partition: i32) -> KafkaResult<(u64, u64)> {
        let (low, high) = self.consumer.fetch_watermarks(&self.topic, partition, QUESTION)?;
        Ok((low.max(0) as u64, high.max(0) as u64))
    }

    /// Lets partitions go: after the handlers that are at work on them, if they are quick enough, and the commit of what is done.
    fn revoke(&mut self, partitions: &[i32], pending: &Pending, now_ms: u64) -> bool {
        let goes = |lane: &Lane| partitions.contains(&(lane.partition as i32));
        // Who has lost them already has nothing to say any more.
        if !self.consumer.assignment_lost() {
            let busy = self.lanes.values().any(|lane| goes(lane) && matches!(lane.work, Work::Out));
            if busy && now_ms < pending.until_ms {
                return false;
            }
            let dirty = self.lanes.values().any(|lane| goes(lane) && lane.is_dirty());
            if dirty && now_ms < pending.commit_until_ms {
                self.commit(now_ms, Some(partitions));
                return false;
            }
        }
        let mut list = TopicPartitionList::new();
        for &partition in partitions {
            list.add_partition(&self.topic, partition);
        }
        self.lanes.retain(|partition, _| !partitions.contains(&(*partition as i32)));
        if let Err(e) = unassign(&self.consumer, &list) {
            tracing::debug!(error = %e, "letting partitions go");
        }
        tracing::debug!(partitions = partitions.len(), "a consumer let partitions go");
        true
    }

    fn halt(&self, which: impl Fn(&Lane) -> bool) {
        let lanes = self.lanes.values().filter(|lane| which(lane));
        lanes.for_each(|lane| lane.halt.store(true, Ordering::Release));
    }

    /// Begins those partitions anew whose next record is not there.
    fn place_lost(&mut self, now_ms: u64) {
        let lost = |lane: &Lane| lane.lost && lane.is_empty() && now_ms >= lane.again_ms;
        if self.change.is_some() || now_ms < self.ask_ms || !self.lanes.values().any(lost) {
            return;
        }
        let numbers: Vec<u32> = self.lanes.values().filter(|l| lost(l)).map(|l| l.partition).collect();
        for partition in numbers {
            if let Err(e) = self.place(partition) {
                tracing::debug!(partition, error = %e, "where to go on is not known; asking again");
                self.ask_ms = self.sight.now_ms() + ASK_AGAIN_MS;
            }
        }
    }

    fn place(&mut self, partition: u32) -> KafkaResult<()> {
        let (low, high) = self.ends(partition as i32)?;
        let Some(lane) = self.lanes.get_mut(&partition) else { return Ok(()) };
        let gone = !(low..=high).contains(&lane.next);
        lane.place(if gone { low } else { lane.next });
        let at = lane.next;
        let mut list = TopicPartitionList::new();
        let one = |list: &mut TopicPartitionList, lane: &Lane| {
            list.add_partition_offset(&self.topic, lane.partition as i32, Offset::Offset(lane.next as i64))
        };
        if is_cooperative(&self.consumer) {
            if let Some(lane) = self.lanes.get(&partition) {
                one(&mut list, lane)?;
            }
            self.consumer.incremental_unassign(&list)?;
            self.consumer.incremental_assign(&list)?;
        } else {
            // There is only the whole; what the others have fetched comes again, and is left out.
            self.lanes.values().try_for_each(|lane| one(&mut list, lane))?;
            self.consumer.assign(&list)?;
        }
        if gone {
            self.tell_reset(partition, at);
        }
        Ok(())
    }

    /// Commits what is done, of all partitions or of these, if no commit is under way.
    fn commit(&mut self, now_ms: u64, only: Option<&[i32]>) {
        if self.commit.is_some() || now_ms < self.again_ms {
            return;
        }
        let wanted =
            |lane: &&Lane| lane.is_dirty() && only.is_none_or(|only| only.contains(&(lane.partition as i32)));
        let dirty = self.lanes.values().filter(wanted);
        let offsets: Vec<_> = dirty.map(|lane| (lane.partition, lane.number, lane.next)).collect();
        if offsets.is_empty() {
            return;
        }
        self.commit_ms = now_ms + COMMIT_MS;
        match self.offsets(&offsets).map(|list| self.committer.send(list)) {
            Ok(true) => self.commit = Some(offsets),
            Ok(false) => self.again_ms = now_ms + COMMIT_AGAIN_MS,
            Err(e) => {
                tracing::debug!(error = %e, "a commit cannot be sent");
                self.again_ms = now_ms + COMMIT_AGAIN_MS;
            }
        }
    }

    fn offsets(&self, offsets: &[(u32, u64, u64)]) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (partition, _, next) in offsets {
            let mut element = list.add_partition(&self.topic, *partition as i32);
            element.set_offset(Offset::Offset(*next as i64))?;
            // An offset means nothing in another topic of the same name.
            element.set_metadata(self.sight.topic_id());
        }
        Ok(list)
    }

    /// Sees what became of the commit under way.
    fn committed(&mut self, now_ms: u64) {
        let Some(answer) = self.committer.answer() else { return };
        let commit = self.commit.take().unwrap_or_default();
        if let Err(e) = answer {
            tracing::debug!(error = %e, "a commit failed; it is made again");
            self.again_ms = now_ms + COMMIT_AGAIN_MS;
            return;
        }
        for (partition, number, next) in commit {
            if let Some(lane) = self.lanes.get_mut(&partition).filter(|l| l.number == number) {
                lane.committed = Some(next);
            }
        }
    }

    /// The end: waits for the handlers that run, then for the commit of what is done. Some once there is nothing to wait for: whether all
    /// is committed.
    fn finish(&mut self, stop_by: u64, now_ms: u64, last_commit_ms: &mut Option<u64>) -> Option<bool> {
        self.halt(|_| true);
        if self.out > 0 && now_ms < stop_by {
            return None;
        }
        let until_ms = *last_commit_ms.get_or_insert(now_ms + LAST_COMMIT_MS);
        let until_ms = self.control.gone_by().map_or(until_ms, |gone_by| gone_by.min(until_ms));
        let dirty = self.lanes.values().any(Lane::is_dirty);
        if dirty && now_ms < until_ms && !self.consumer.assignment_lost() {
            self.commit(now_ms, None);
            return None;
        }
        // The group waits for the answers to what it said meanwhile.
        while let Some(pending) =
            self.change.take().map(|p| p.change).or_else(|| self.consumer.context().take_change())
        {
            let (Change::Assign(partitions) | Change::Revoke(partitions)) = &pending;
            let mut list = TopicPartitionList::new();
            for partition in partitions {
                list.add_partition(&self.topic, *partition);
            }
            let answered = match pending {
                Change::Assign(_) => assign(&self.consumer, &list),
                Change::Revoke(_) => unassign(&self.consumer, &list),
            };
            if let Err(e) = answered {
                tracing::debug!(error = %e, "answering a rebalance while leaving a group");
            }
        }
        Some(self.out == 0 && !dirty)
    }
}

/// What was said with a commit; another program's may be no text, which rdkafka panics at.
fn word(element: &TopicPartitionListElem<'_>) -> String {
    catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).unwrap_or_else(|_| "?".into())
}
