//! A toy server of the native protocol: correct, in memory, on one thread. It stands for the real one where the
//! harness itself is tested.

use klatch_harness::client::{Event, Fleet, Link};
use klatch_harness::log::{Log, LogRecord};
use klatch_harness::wire::Frame;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the toy keeps when it is stopped and started again.
#[derive(Default)]
pub struct Store {
    records: Vec<LogRecord>,
    rooms: HashMap<String, Vec<usize>>,
    keys: HashMap<(String, String, String), usize>,
}

pub struct Toy {
    pub address: SocketAddr,
    pub store: Arc<Mutex<Store>>,
    /// One publish in so many is refused with `rate_limited`; 0: none.
    pub refuse_one_in: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

const EPOCH: &str = "00c0ffee00c0ffee";

impl Toy {
    pub fn start() -> Toy {
        Toy::on(TcpListener::bind("127.0.0.1:0").unwrap(), Arc::default())
    }

    /// Starts on this listener with what an earlier one kept.
    pub fn on(listener: TcpListener, store: Arc<Mutex<Store>>) -> Toy {
        let address = listener.local_addr().unwrap();
        let (stop, refuse_one_in) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut fleet = Fleet::new().unwrap();
        fleet.listen(listener).unwrap();
        let mut server = Server {
            fleet,
            store: store.clone(),
            people: HashMap::new(),
            members: HashMap::new(),
            publishes: 0,
            refuse_one_in: refuse_one_in.clone(),
        };
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut events = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                server.fleet.turn(Duration::from_millis(5), &mut events).unwrap();
                for (link, event) in std::mem::take(&mut events) {
                    server.event(link, event);
                }
            }
        });
        Toy { address, store, refuse_one_in, stop, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    /// Stops as a crash does and starts again with the same store on the same port.
    pub fn restart(&mut self) {
        self.halt();
        let store = self.store.clone();
        *self = Toy::on(TcpListener::bind(self.address).unwrap(), store);
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    /// What the checker may know.
    pub fn log(&self) -> Log {
        let mut log = Log::default();
        for record in &self.store.lock().unwrap().records {
            log.push(record.clone());
            log.set_epoch(&record.room, EPOCH);
        }
        log
    }
}

impl Drop for Toy {
    fn drop(&mut self) {
        self.halt();
    }
}

struct Server {
    fleet: Fleet,
    store: Arc<Mutex<Store>>,
    people: HashMap<Link, String>,
    /// By room: members and whether they want their own publications.
    members: HashMap<String, HashMap<Link, bool>>,
    publishes: u64,
    refuse_one_in: Arc<AtomicU64>,
}

impl Store {
    fn publication(&self, room: &str, place: usize) -> String {
        let rows = &self.rooms[room];
        let record = &self.records[rows[place]];
        let prev = place.checked_sub(1).map_or(0, |p| self.records[rows[p]].offset);
        let text = |s: &str| serde_json::Value::from(s).to_string();
        let user =
            if record.user.is_empty() { String::new() } else { format!(r#""user":{},"#, text(&record.user)) };
        let id = if record.id.is_empty() { String::new() } else { format!(r#""id":{},"#, text(&record.id)) };
        format!(
            r#"{{"type":"publication","room":{},"offset":{},"prev":{prev},"time":{},{user}{id}"data":{}}}"#,
            text(room),
            record.offset,
            record.time,
            record.data
        )
    }

    fn last(&self, room: &str) -> u64 {
        self.rooms.get(room).and_then(|rows| rows.last()).map_or(0, |r| self.records[*r].offset)
    }

    /// The first place after an offset.
    fn after(&self, room: &str, offset: u64) -> usize {
        self.rooms.get(room).map_or(0, |rows| rows.partition_point(|r| self.records[*r].offset <= offset))
    }

    fn len(&self, room: &str) -> usize {
        self.rooms.get(room).map_or(0, Vec::len)
    }
}

impl Server {
    fn event(&mut self, link: Link, event: Event) {
        match event {
            Event::Accepted(opening) => {
                let user =
                    opening.path.split(['?', '&']).find_map(|p| p.strip_prefix("user=")).unwrap_or_default();
                self.people.insert(link, user.to_owned());
                self.fleet.send(
                    link,
                    format!(r#"{{"type":"welcome","version":1,"connection":"c","user":"{user}"}}"#),
                );
            }
            Event::Text(text) => self.request(link, &text),
            Event::Closed { .. } => {
                self.people.remove(&link);
                self.members.values_mut().for_each(|m| {
                    m.remove(&link);
                });
            }
            _ => {}
        }
    }

    fn request(&mut self, link: Link, text: &str) {
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        let frame = Frame::parse(text).unwrap();
        let room = frame.room.to_string();
        let reference = frame.reference.unwrap_or_default();
        match &*frame.kind {
            "join" => {
                let store = self.store.lock().unwrap();
                let (last, len) = (store.last(&room), store.len(&room));
                let since = value["since"].as_u64();
                let good =
                    since.is_some_and(|s| s <= last && value["epoch"].as_str().is_none_or(|e| e == EPOCH));
                let from = match since {
                    Some(since) if good => store.after(&room, since),
                    _ => len - (value["history"].as_u64().unwrap_or(0) as usize).min(len),
                };
                let offset = match since {
                    Some(since) if good => since,
                    _ => from.checked_sub(1).map_or(0, |p| store.records[store.rooms[&room][p]].offset),
                };
                let recovered =
                    if since.is_some() { format!(r#","recovered":{good}"#) } else { String::new() };
                self.fleet.send(
                    link,
                    format!(r#"{{"type":"joined","ref":{reference},"room":"{room}","epoch":"{EPOCH}","offset":{offset},"last":{last}{recovered}}}"#),
                );
                for place in from..len {
                    self.fleet.send(link, store.publication(&room, place));
                }
                let echo = value["echo"].as_bool().unwrap_or(true);
                self.members.entry(room).or_default().insert(link, echo);
            }
            "leave" => {
                let was = self.members.get_mut(&room).and_then(|m| m.remove(&link)).is_some();
                self.fleet.send(
                    link,
                    if was {
                        format!(r#"{{"type":"left","ref":{reference},"room":"{room}"}}"#)
                    } else {
                        format!(r#"{{"type":"error","ref":{reference},"room":"{room}","code":207,"name":"not_joined","message":"","retry":"never"}}"#)
                    },
                );
            }
            // The toy greets everybody at once.
            "connect" => {}
            "publish" => self.publish(link, &frame, &room, reference),
            _ => panic!("the toy does not know {text}"),
        }
    }

    fn publish(&mut self, link: Link, frame: &Frame<'_>, room: &str, reference: u64) {
        self.publishes += 1;
        let (user, id) = (self.people.get(&link).cloned().unwrap_or_default(), frame.id.to_string());
        let error = |code, name, outcome, after| {
            format!(
                r#"{{"type":"error","ref":{reference},"id":"{id}","room":"{room}","code":{code},"name":"{name}","message":"","retry":"x","retry_after_ms":{after},"outcome":"{outcome}"}}"#
            )
        };
        let ack = |offset, duplicate: bool| {
            let duplicate = if duplicate { r#","duplicate":true"# } else { "" };
            format!(
                r#"{{"type":"ack","ref":{reference},"room":"{room}","epoch":"{EPOCH}","offset":{offset},"id":"{id}"{duplicate}}}"#
            )
        };
        let one_in = self.refuse_one_in.load(Ordering::Relaxed);
        if one_in > 0 && self.publishes.is_multiple_of(one_in) {
            self.fleet.send(link, error(103, "rate_limited", "not_stored", 20));
            return;
        }
        let mut store = self.store.lock().unwrap();
        let data = frame.data.unwrap().get().to_owned();
        let key = (room.to_owned(), user.clone(), id.clone());
        if let Some(record) = store.keys.get(&key).map(|r| &store.records[*r]) {
            let reply = if record.data == data {
                ack(record.offset, true)
            } else {
                error(206, "conflict", "not_stored", 0)
            };
            self.fleet.send(link, reply);
            return;
        }
        let place = store.records.len();
        let offset = place as u64 + 1;
        let room_name = room.to_owned();
        store.records.push(LogRecord {
            offset,
            time: 1_764_000_000_000 + offset,
            room: room_name.clone(),
            user,
            id: id.clone(),
            binary: false,
            data,
        });
        store.rooms.entry(room_name).or_default().push(place);
        if !id.is_empty() {
            store.keys.insert(key, place);
        }
        let publication: tungstenite::Utf8Bytes = store.publication(room, store.len(room) - 1).into();
        let mut acked = false;
        for (member, echo) in self.members.get(room).into_iter().flatten() {
            if *member != link || *echo {
                self.fleet.send(*member, publication.clone());
            }
            acked |= *member == link && *echo && !id.is_empty();
        }
        if !acked {
            self.fleet.send(link, ack(offset, false));
        }
    }
}

/// Serves `GET /rooms/{room}/history` of a toy, for as long as the process lives.
pub fn serve_history(store: Arc<Mutex<Store>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let first = lines.next().unwrap().unwrap();
            while lines.next().is_some_and(|l| !l.unwrap().is_empty()) {}
            let path = first.split(' ').nth(1).unwrap();
            let (room, query) = path.strip_prefix("/rooms/").unwrap().split_once("/history?").unwrap();
            let number = |name: &str| {
                query.split('&').find_map(|p| p.strip_prefix(name)).unwrap().parse::<u64>().unwrap()
            };
            let store = store.lock().unwrap();
            let from = store.after(room, number("after="));
            let to = store.len(room).min(from + number("limit=").min(7) as usize);
            let page: Vec<String> = (from..to).map(|place| store.publication(room, place)).collect();
            let body = format!(
                r#"{{"type":"history","room":"{room}","epoch":"{EPOCH}","publications":[{}],"more":{},"last":{}}}"#,
                page.join(","),
                to < store.len(room),
                store.last(room)
            );
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        }
    });
    format!("http://{address}")
}
