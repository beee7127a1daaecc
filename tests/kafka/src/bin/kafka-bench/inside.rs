//! klatch inside this process, as a host has it: published by the engine's own calls, received by a subscription of each room.

use crate::chat;
use crate::load::room;
use crate::meter::{Figures, Meter, Shape};
use klatch::{Engine, Message, Publishing, Settings, Start, Subscription};
use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long the last messages are waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The longest sleep, so that the times of a run are kept.
const NAP: Duration = Duration::from_millis(5);
/// Most publications that are taken from a room at once.
const BATCH: usize = 256;

/// An engine and a subscription to each room.
pub struct Inside {
    engine: Engine,
    rooms: Vec<Room>,
    next: u64,
}

struct Room {
    name: String,
    subscription: Subscription,
    /// Sent and not acknowledged, oldest first.
    sent: VecDeque<(u64, Publishing)>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// Rings when a room has something; this thread then looks.
struct Bell {
    rung: AtomicBool,
    thread: Thread,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        // Once until somebody looks.
        if !self.rung.swap(true, Ordering::AcqRel) {
            self.thread.unpark();
        }
    }
}

impl Inside {
    /// On a topic that exists, with its view in this folder.
    pub fn new(url: &str, folder: &Path, rooms: usize) -> klatch::Result<Inside> {
        let mut settings = Settings::default();
        settings.kafka.view_dir = folder.join("view-inside").display().to_string();
        let engine = Engine::builder().settings(settings).log(url).start()?;
        let room = |number| {
            let name = room(number);
            let subscription = engine.subscribe(&name, Start::Live)?;
            let bell = Arc::new(Bell { rung: AtomicBool::new(true), thread: thread::current() });
            let waker = Waker::from(bell.clone());
            Ok(Room { name, subscription, sent: VecDeque::new(), bell, waker })
        };
        let rooms = (0..rooms).map(room).collect::<klatch::Result<_>>()?;
        Ok(Inside { engine, rooms, next: 0 })
    }

    /// Sends as the shape says until the meter says that it is enough, and waits for what is under way.
    pub fn run(&mut self, shape: Shape, mut meter: Meter) -> Figures {
        let first = self.next;
        let mut sent: Vec<u64> = Vec::new();
        let (mut acked, mut delivered) = (0, 0);
        let mut wrong = Vec::new();
        let mut due = Duration::ZERO;
        let mut enough = None;
        loop {
            let sending = meter.tick();
            let now = meter.now();
            let count = match shape {
                _ if !sending => 0,
                Shape::One => usize::from(acked.min(delivered) == sent.len()),
                Shape::Bulk(count) => count.saturating_sub(sent.len() - acked),
                Shape::Paced(rate) => {
                    let late = Duration::from_nanos(now).saturating_sub(due).as_secs_f64() * rate;
                    let count = if due <= Duration::from_nanos(now) { late as usize + 1 } else { 0 };
                    due += Duration::from_secs_f64(count as f64 / rate);
                    count
                }
            };
            self.send(first + sent.len() as u64, count, now);
            sent.extend((0..count).map(|_| now));
            if !sending && acked == sent.len() && delivered == sent.len() {
                break;
            }
            if !sending && *enough.get_or_insert_with(|| Instant::now() + PATIENCE) < Instant::now() {
                wrong.push(format!("{} sent, {acked} acknowledged, {delivered} delivered", sent.len()));
                break;
            }
            let mut quiet = true;
            for room in self.rooms.iter_mut().filter(|room| room.bell.rung.swap(false, Ordering::AcqRel)) {
                quiet = false;
                let mut cx = Context::from_waker(&room.waker);
                while let Poll::Ready(batch) = pin!(room.subscription.next(BATCH)).poll(&mut cx) {
                    let batch = batch.unwrap_or_else(|e| panic!("the subscription to {}: {e:?}", room.name));
                    let now = meter.now();
                    for publication in batch {
                        let number = chat::number(&publication.data()).unwrap_or(u64::MAX);
                        let Some(at) = sent.get(number.wrapping_sub(first) as usize) else { continue };
                        meter.delivered(*at, now);
                        delivered += 1;
                    }
                }
                while let Some((at, publishing)) = room.sent.front_mut() {
                    let Poll::Ready(answer) = Pin::new(publishing).poll(&mut cx) else { break };
                    answer.unwrap_or_else(|e| panic!("a publish: {e}"));
                    meter.acked(*at, meter.now());
                    acked += 1;
                    room.sent.pop_front();
                }
            }
            if quiet {
                let wait = match shape {
                    Shape::Paced(_) if sending => due.saturating_sub(Duration::from_nanos(meter.now())),
                    _ => NAP,
                };
                thread::park_timeout(wait.min(NAP));
            }
        }
        self.next += sent.len() as u64;
        let mut figures = meter.end();
        figures.wrong = wrong;
        figures
    }

    fn send(&mut self, first: u64, count: usize, now: u64) {
        let Inside { engine, rooms, .. } = self;
        let places = rooms.len();
        let place = |number: u64| number as usize % places;
        let message = |number: u64| {
            // As the members of the server's rooms do.
            let data = format!("\"{}\"", chat::text(number));
            let name = rooms.get(place(number)).map_or("", |room| &room.name);
            Message::json(name, &data).user("user").id(&format!("{number:036}"))
        };
        let numbers = first..first + count as u64;
        let answers = engine.publish_batch(numbers.clone().map(message).collect());
        for (number, publishing) in numbers.zip(answers) {
            if let Some(room) = rooms.get_mut(place(number)) {
                room.sent.push_back((now, publishing));
                room.bell.rung.store(true, Ordering::Release);
            }
        }
    }
}
