//! How a node comes to work on its topic: it finds it, opens the view and reads up to the end.

use super::address::Address;
use super::admin::{self, Patience, Right, Topic, TopicIds};
use super::bell::Bell;
use super::client::{self, Context, Role};
use super::life::Life;
use super::partition::partition_of;
use super::producer::Producer;
use super::tailer::{Plan, Start, Tailer, Trouble};
use super::{Shared, WATCH_ENDS};
use crate::broker::tail::{Tail, view_error};
use crate::codes::Code;
use crate::config::Settings;
use crate::error::{Error, Result};
use crate::view::{Identity, View, ViewAt, ViewError};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// How often an opening that takes long tells how far it is.
const PROGRESS_MS: u64 = 5_000;
/// How often it is told why it has not come to an end.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How long until it is tried again.
const AGAIN: Duration = Duration::from_millis(300);
/// How long a view that is given up may be in use by readers.
const RELEASE: Duration = Duration::from_secs(30);

/// What an opening goes by; it may be done again and again.
#[derive(Debug)]
pub struct Opening {
    /// How the topic's id is found out.
    pub ids: TopicIds,
    /// The settings.
    pub settings: Settings,
    /// The address.
    pub address: Address,
    /// The view's place.
    pub at: ViewAt,
    /// The topic has been found once.
    pub seen: AtomicBool,
}

/// What it makes.
#[derive(Debug)]
pub struct Opened {
    /// Sends.
    pub producer: Producer,
    /// Reads.
    pub tailer: Tailer,
}

/// The view's place by the settings.
pub fn view_at(settings: &Settings) -> Result<ViewAt> {
    Ok(match settings.kafka.view_dir.as_str() {
        "memory" => ViewAt::Memory,
        dir => ViewAt::Dir(
            std::path::absolute(Path::new(dir))
                .map_err(|e| Error::new(Code::DataDirUnusable, format!("where is {dir}? {e}")))?,
        ),
    })
}

impl Opening {
    /// Opens, and tries again as long as the cluster is away. None: the broker is to stop. What does not mend itself is an error as
    /// long as the start is waited for; a node that listens waits until somebody has mended it.
    pub fn open(&self, shared: &Shared, number: u64) -> Result<Option<Opened>> {
        let mut tell = Instant::now();
        loop {
            let error = match self.attempt(shared, number) {
                _ if shared.is_stopping() => return Ok(None),
                Ok(opened) => return Ok(Some(opened)),
                Err(e) if number == 1 && e.code() != Code::Unavailable && shared.fail_start(&e) => {
                    return Err(e);
                }
                Err(e) => e,
            };
            if shared.life().number != 0 {
                release(shared, &self.settings);
            }
            if Instant::now() >= tell {
                tell = Instant::now() + TELL_EVERY;
                tracing::warn!(%error, "the Kafka topic cannot be served yet; it is tried again");
            }
            shared.bell.wait(AGAIN);
        }
    }

    fn attempt(&self, shared: &Shared, number: u64) -> Result<Opened> {
        let patience = Patience::new(shared.stopping.clone());
        let context = || Context::new(shared.trouble.clone());
        let topic =
            admin::prepare(&self.ids, &self.address, &self.settings.kafka, &self.seen, context, patience)?;
        shared.metrics.kafka_single_copy.set(u64::from(topic.found.single_copy));
        let trouble = match self.follow(shared, number, &topic)? {
            Ok(opened) => return Ok(opened),
            Err(trouble) => trouble,
        };
        Err(match trouble {
            Trouble::OtherPast(why) => {
                tracing::warn!(why, "the view does not fit the topic; rebuilding it");
                // One that is open cannot be removed.
                release(shared, &self.settings);
                self.at.destroy().map_err(|e| unusable_view(&e))?;
                Error::new(Code::Unavailable, format!("the view is being rebuilt: {why}"))
            }
            Trouble::View(e) => view_error(&e),
            Trouble::Client(e) => client::start_error("the Kafka consumer cannot be made", &e),
        })
    }

    /// Reads a topic up to its end, and begins a life of it.
    fn follow(&self, shared: &Shared, number: u64, topic: &Topic) -> Result<Result<Opened, Trouble>> {
        let view = self.at.open(self.identity(topic), &self.settings.view).map_err(|e| unusable_view(&e))?;
        view.locate_rooms(partition_of);
        let starts = match starts(&view, &topic.marks) {
            Ok(starts) => starts,
            Err(why) => return Ok(Err(Trouble::OtherPast(why))),
        };
        let mut tailer = match self.tailer(shared, number, topic, Arc::new(view), &starts)? {
            Ok(tailer) => tailer,
            Err(trouble) => return Ok(Err(trouble)),
        };
        if let Err(trouble) = self.catch_up(shared, &mut tailer)? {
            return Ok(Err(trouble));
        }
        if shared.is_stopping() {
            return Err(Error::new(Code::Stopping, "the engine is stopping"));
        }
        // Another topic may have come while this one was read.
        match self.ids.of(tailer.client().client(), &self.address.topic, WATCH_ENDS) {
            Ok(found) if found.id == topic.id => {}
            Ok(_) => {
                return Ok(Err(Trouble::OtherPast("the topic was created again while it was read".into())));
            }
            Err(e) => {
                let text = format!("the Kafka topic cannot be looked at: {e}");
                return Err(Error::new(Code::Unavailable, text));
            }
        }
        let mut config = client::config(Role::Producer, &self.address.servers, &self.settings.kafka)?;
        topic.found.fit(&mut config);
        let trouble = shared.trouble.clone();
        let context = move || Context::new(trouble.clone());
        let limit = self.settings.kafka.queue_bytes as usize;
        let producer = Producer::new(config, context, &self.address.topic, &id_text(topic), limit)
            .map_err(|e| client::start_error("the Kafka producer cannot be made", &e))?;
        Ok(Ok(Opened { producer, tailer }))
    }

    /// Which log this is: another topic, and another number of partitions, is another one.
    fn identity(&self, topic: &Topic) -> Identity {
        let partitions = self.settings.kafka.partitions;
        let mut log = topic.id;
        log.iter_mut().zip(partitions.to_le_bytes()).for_each(|(byte, n)| *byte ^= n);
        Identity { log, partitions }
    }

    /// Begins to read.
    fn tailer(
        &self,
        shared: &Shared,
        number: u64,
        topic: &Topic,
        view: Arc<View>,
        starts: &[Start],
    ) -> Result<Result<Tailer, Trouble>> {
        for (partition, (low, _)) in (0..).zip(&topic.marks) {
            if view.checkpoint(partition).is_none() && *low > 0 {
                view.begin_after(partition, *low);
            }
            view.trim_below(partition, low + 1).map_err(|e| view_error(&e))?;
        }
        shared.hub.begin_anew(view.clone());
        let (log, before) = (self.identity(topic).log, shared.life());
        let tail = |(partition, start): (u32, &Start)| {
            let since = if start.read_before { u64::MAX } else { 0 };
            let (hub, metrics) = (shared.hub.clone(), shared.metrics.clone());
            let tail = Tail::new(partition, log, since, view.clone(), hub, &self.settings, metrics);
            Arc::new(tail.doubting(Some(log), before.tails.get(partition as usize).map(|t| &**t)))
        };
        let tails: Vec<Arc<Tail>> = (0..).zip(starts).map(tail).collect();
        // What is gone from the topic is passed.
        let now_ms = shared.clock.steady_ms();
        tails.iter().zip(&topic.marks).for_each(|(tail, (low, _))| tail.skip(*low, now_ms));
        shared.set_life(Life::new(number, topic.id, tails.clone(), shared.trouble.clone()));
        let trouble = shared.trouble.clone();
        let tailer = Tailer::start(Plan {
            config: client::config(Role::Tail, &self.address.servers, &self.settings.kafka)?,
            context: Box::new(move || Context::new(trouble.clone())),
            topic: self.address.topic.clone(),
            topic_id: id_text(topic),
            starts,
            tails: &tails,
            bell: shared.bell.clone(),
            checks: shared.checks.clone(),
            metrics: shared.metrics.clone(),
            window_ms: self.settings.dedupe_window_ms,
        });
        Ok(tailer)
    }

    /// Errors: what asking again does not mend.
    fn catch_up(&self, shared: &Shared, tailer: &mut Tailer) -> Result<Result<(), Trouble>> {
        let mut tell_ms = shared.clock.steady_ms() + PROGRESS_MS;
        while tailer.behind() > 0 && !shared.is_stopping() {
            let now_ms = shared.clock.steady_ms();
            let turned = tailer.tick().and_then(|()| tailer.turn(now_ms));
            shared.set_view_full(tailer.is_full());
            match turned {
                Ok(true) => {}
                Ok(false) => drop(shared.bell.wait(Duration::from_millis(50))),
                Err(trouble) => return Ok(Err(trouble)),
            }
            if let Some(code) = tailer.refused() {
                return Err(self.may_not_read(code));
            }
            if let Some(partition) = tailer.first_lost() {
                let text = format!("partition {partition} no longer has what comes next");
                return Ok(Err(Trouble::OtherPast(text)));
            }
            if now_ms >= tell_ms {
                tell_ms = now_ms + PROGRESS_MS;
                tracing::info!(partitions = tailer.behind(), "reading the topic up to its end");
            }
        }
        Ok(Ok(()))
    }

    fn may_not_read(&self, code: RDKafkaErrorCode) -> Error {
        let topic = &self.address.topic;
        if code != RDKafkaErrorCode::GroupAuthorizationFailed {
            return admin::needs(topic, Right::Read, Code::InvalidConfig);
        }
        let group = client::GROUP;
        let text = format!(
            "the cluster does not let this node read the topic {topic}: it needs the right Read on the group {group}"
        );
        Error::new(Code::InvalidConfig, text)
    }
}

/// The topic's id as records have it.
fn id_text(topic: &Topic) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(topic.id)
}

/// Where to read each partition from, given its first and next offsets; or why the view cannot go on.
pub fn starts(view: &View, marks: &[(u64, u64)]) -> Result<Vec<Start>, String> {
    let start = |(partition, &(low, end)): (u32, &(u64, u64))| {
        let all = Start { from: low, again: None, end, read_before: true, headless: false, told_from: None };
        let Some(c) = view.checkpoint(partition) else {
            return Ok(Start { read_before: false, headless: low > 0, ..all });
        };
        // It was stopped while it kept the first records to itself.
        let told_from = Some(view.begun_after(partition)).filter(|begun| *begun > c.sequence);
        match c.sequence {
            at if at > end => Err(format!("partition {partition} ends at {end}, before the view")),
            at if at > low => Ok(Start { from: at - 1, again: Some(c), told_from, ..all }),
            // What the view saw last is gone, and what comes next is there.
            at if at == low => Ok(Start { told_from, ..all }),
            at => Err(format!("partition {partition} has lost what is between {at} and {low}")),
        }
    };
    (0..).zip(marks).map(start).collect()
}

/// Puts nothing in the place of the view and of all that feeds it, and waits until nobody reads it any more: only then can it be opened
/// again.
pub fn release(shared: &Shared, settings: &Settings) {
    let old = shared.hub.view();
    let identity = Identity { log: [0; 16], partitions: settings.kafka.partitions };
    let none = Arc::new(View::memory(identity, &settings.view));
    let before = shared.life();
    let tail = |partition| {
        let (hub, metrics) = (shared.hub.clone(), shared.metrics.clone());
        let tail = Tail::new(partition, [0; 16], 0, none.clone(), hub, settings, metrics);
        Arc::new(tail.doubting(None, before.tails.get(partition as usize).map(|t| &**t)))
    };
    let tails = (0..settings.kafka.partitions).map(tail).collect();
    drop(before);
    // Before the hub's view: with the end that the old life has reached goes the old view.
    shared.set_life(Life::new(0, [0; 16], tails, Arc::new(Bell::default())));
    shared.hub.begin_anew(none);
    if let Err(e) = old.close() {
        tracing::warn!(error = %e, "the view was not closed well; what it lacks is read again from the topic");
    }
    let until = Instant::now() + RELEASE;
    while Arc::strong_count(&old) > 1 && Instant::now() < until {
        // Readers hold it for a page.
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn unusable_view(e: &ViewError) -> Error {
    Error::new(Code::DataDirUnusable, format!("the view cannot be opened: {e}"))
}
