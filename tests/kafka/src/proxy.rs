//! A proxy between one node of klatch and the cluster. It reads of Kafka's protocol as much as it takes to know what a frame is
//! about: a request begins with its size, kind, version and number, an answer with its size and the number of its request.
//!
//! A cluster advertises the proxy's own ports to whoever connects through it, so that nobody gets past it.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What can be held back. What comes after it on its connection waits behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Traffic {
    /// Records on their way to the node: it has asked, and gets no answer.
    Fetched,
    /// Records on their way to the cluster, which does not have them yet.
    Produced,
    /// The cluster's word that it has them.
    Acks,
}

/// A running proxy; ended when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    addresses: Vec<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    held: HashSet<Traffic>,
    /// How many frames of each kind wait.
    waiting: HashMap<Traffic, usize>,
    cut: bool,
    /// Counts cuts: who waits at a gate belongs to a connection of before or after.
    cuts: u64,
    /// Both sides of each connection, to be broken.
    open: HashMap<u64, [TcpStream; 2]>,
    last: u64,
}

impl Proxy {
    /// Listens at each of these addresses, for what is at the other one of its pair.
    pub fn start(pairs: &[(SocketAddr, SocketAddr)]) -> io::Result<Proxy> {
        let shared = Arc::new(Shared::default());
        let mut proxy = Proxy { shared, addresses: Vec::new(), threads: Vec::new() };
        for (address, target) in pairs {
            let (listener, shared, target) = (TcpListener::bind(address)?, proxy.shared.clone(), *target);
            proxy.addresses.push(listener.local_addr()?);
            proxy.threads.push(std::thread::spawn(move || {
                for client in listener.incoming() {
                    if shared.stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Who cannot reach the cluster finds the connection closed.
                    if let Ok(client) = client {
                        let _ = relay(&shared, client, target);
                    }
                }
            }));
        }
        Ok(proxy)
    }

    /// Where clients connect: hosts and ports, with commas.
    pub fn addresses(&self) -> String {
        let all: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        all.join(",")
    }

    /// klatch's address of a topic.
    pub fn url(&self, topic: &str) -> String {
        format!("kafka://{}/{topic}", self.addresses())
    }

    /// Holds this back from now on.
    pub fn hold(&self, what: Traffic) {
        self.shared.state().held.insert(what);
    }

    /// Lets it go, in its order.
    pub fn release(&self, what: Traffic) {
        self.shared.state().held.remove(&what);
        self.shared.changed.notify_all();
    }

    /// Waits until something of it is held back; false if nothing was within `timeout`.
    pub fn holds(&self, what: Traffic, timeout: Duration) -> bool {
        let none = |state: &mut State| state.waiting.get(&what).is_none_or(|frames| *frames == 0);
        let waited = self.shared.changed.wait_timeout_while(self.shared.state(), timeout, none);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Breaks all connections, and those that are made from now on.
    pub fn cut(&self) {
        let mut state = self.shared.state();
        state.cut = true;
        state.cuts += 1;
        for side in state.open.values().flatten() {
            // It may have broken by itself.
            let _ = side.shutdown(Shutdown::Both);
        }
        self.shared.changed.notify_all();
    }

    /// Lets connections be made again.
    pub fn mend(&self) {
        self.shared.state().cut = false;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.cut();
        for address in &self.addresses {
            // It waits for a client; this one tells it to look.
            let _ = TcpStream::connect(address);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while this is held back; whether the connection still stands.
    fn pass(&self, what: Traffic) -> bool {
        let mut state = self.state();
        let cuts = state.cuts;
        if !state.held.contains(&what) {
            return true;
        }
        *state.waiting.entry(what).or_default() += 1;
        self.changed.notify_all();
        let held = |state: &mut State| state.held.contains(&what) && state.cuts == cuts;
        state = self.changed.wait_while(state, held).unwrap_or_else(PoisonError::into_inner);
        if let Some(frames) = state.waiting.get_mut(&what) {
            *frames -= 1;
        }
        state.cuts == cuts
    }
}

/// Relays one connection, on two threads, until either side ends it.
fn relay(shared: &Arc<Shared>, client: TcpStream, target: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(target)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let number = {
        let mut state = shared.state();
        if state.cut {
            return Ok(());
        }
        state.last += 1;
        let number = state.last;
        state.open.insert(number, [client.try_clone()?, server.try_clone()?]);
        number
    };
    // Requests that were not answered, by their numbers, of the kinds that matter.
    let asked = Arc::new(Mutex::new(HashMap::new()));
    let (to_server, to_client) = ((client.try_clone()?, server.try_clone()?), (server, client));
    for (is_request, (from, to)) in [(true, to_server), (false, to_client)] {
        let (shared, asked) = (shared.clone(), asked.clone());
        std::thread::spawn(move || {
            let kind = |frame: &[u8]| {
                let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
                if is_request { request(frame, &mut asked) } else { answer(frame, &mut asked) }
            };
            // However it ended, both sides shall know.
            let _ = pump(&shared, from, to, kind);
            if let Some(sides) = shared.state().open.remove(&number) {
                for side in sides {
                    let _ = side.shutdown(Shutdown::Both);
                }
            }
        });
    }
    Ok(())
}

fn pump(
    shared: &Shared,
    mut from: TcpStream,
    mut to: TcpStream,
    kind: impl Fn(&[u8]) -> Option<Traffic>,
) -> io::Result<()> {
    loop {
        let mut size = [0; 4];
        from.read_exact(&mut size)?;
        let size = u32::from_be_bytes(size);
        let mut frame = size.to_be_bytes().to_vec();
        (&mut from).take(u64::from(size)).read_to_end(&mut frame)?;
        let content = frame.get(4..).unwrap_or_default();
        if content.len() as u64 != u64::from(size) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if kind(content).is_some_and(|what| !shared.pass(what)) {
            return Ok(());
        }
        to.write_all(&frame)?;
    }
}

/// The numbers of Kafka's requests.
const PRODUCE: u16 = 0;
const FETCH: u16 = 1;

/// What a request carries, if it is to be known; its number is kept for the answer.
fn request(frame: &[u8], asked: &mut HashMap<u32, Traffic>) -> Option<Traffic> {
    let [a, b, _, _, number @ ..] = frame.first_chunk::<8>()?;
    let number = u32::from_be_bytes(*number);
    match u16::from_be_bytes([*a, *b]) {
        PRODUCE => {
            asked.insert(number, Traffic::Acks);
            Some(Traffic::Produced)
        }
        FETCH => {
            asked.insert(number, Traffic::Fetched);
            None
        }
        _ => None,
    }
}

/// What an answer carries.
fn answer(frame: &[u8], asked: &mut HashMap<u32, Traffic>) -> Option<Traffic> {
    asked.remove(&u32::from_be_bytes(*frame.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// A server that answers each request with its number alone.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                std::thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    let mut request = [0; 12];
                    while stream.read_exact(&mut request).is_ok() {
                        let answer = [&4u32.to_be_bytes()[..], &request[8..12]].concat();
                        stream.write_all(&answer).unwrap();
                    }
                });
            }
        });
        address
    }

    struct Asker(TcpStream);

    impl Asker {
        fn to(proxy: &Proxy) -> Asker {
            let stream = TcpStream::connect(proxy.addresses()).unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            Asker(stream)
        }

        fn ask(&mut self, kind: u16, number: u32) {
            let content = [&kind.to_be_bytes()[..], &[0, 9], &number.to_be_bytes()].concat();
            self.0.write_all(&[&8u32.to_be_bytes()[..], &content].concat()).unwrap();
        }

        fn answer(&mut self) -> Option<u32> {
            let mut answer = [0; 8];
            self.0.read_exact(&mut answer).ok()?;
            Some(u32::from_be_bytes(answer[4..].try_into().unwrap()))
        }
    }

    fn proxy() -> Proxy {
        Proxy::start(&[("127.0.0.1:0".parse().unwrap(), server())]).unwrap()
    }

    #[test]
    fn it_holds_back_one_kind_alone_and_what_comes_behind_it() {
        for (what, kind) in
            [(Traffic::Fetched, FETCH), (Traffic::Produced, PRODUCE), (Traffic::Acks, PRODUCE)]
        {
            let proxy = proxy();
            let (mut one, mut two) = (Asker::to(&proxy), Asker::to(&proxy));
            proxy.hold(what);
            assert!(!proxy.holds(what, Duration::ZERO));
            one.ask(kind, 1);
            assert!(proxy.holds(what, LONG));
            one.ask(3, 2);
            // Another connection, and kinds that are not held.
            for other in [PRODUCE, FETCH, 3].into_iter().filter(|other| *other != kind) {
                two.ask(other, 7);
                assert_eq!(two.answer(), Some(7));
            }
            one.0.set_nonblocking(true).unwrap();
            assert_eq!(one.answer(), None, "{what:?} was let through");
            one.0.set_nonblocking(false).unwrap();
            proxy.release(what);
            assert_eq!((one.answer(), one.answer()), (Some(1), Some(2)));
            assert!(!proxy.holds(what, Duration::ZERO));
        }
    }

    #[test]
    fn a_cut_ends_what_is_held_and_lets_nobody_in_until_it_is_mended() {
        let proxy = proxy();
        let mut one = Asker::to(&proxy);
        proxy.hold(Traffic::Fetched);
        one.ask(FETCH, 1);
        assert!(proxy.holds(Traffic::Fetched, LONG));
        proxy.cut();
        assert_eq!(one.answer(), None);
        assert_eq!(Asker::to(&proxy).answer(), None);
        proxy.mend();
        proxy.release(Traffic::Fetched);
        let mut two = Asker::to(&proxy);
        two.ask(FETCH, 2);
        assert_eq!(two.answer(), Some(2));
    }
}
