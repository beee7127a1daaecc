//! The ten that behave well.

use klatch_harness::client::{Event, Fleet, JoinOptions, Link, Opening, Seen, State};
use klatch_harness::observe::ClientLog;
use klatch_harness::target::Target;
use klatch_harness::wire::{Frame, Payload};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

/// A room that the sessions use too, and one that they do not know.
const ROOMS: [&str; 2] = ["shared", "quiet"];
pub const COUNT: usize = 10;
/// With nothing happening for this long, what is missing does not come any more.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Members {
    fleet: Fleet,
    links: HashMap<Link, usize>,
    members: Vec<(Link, State)>,
    published: u64,
    answered: u64,
    /// The last offset of a publication of theirs, by room.
    last: [u64; ROOMS.len()],
    events: Vec<(Link, Event)>,
}

impl Members {
    /// Connects them, and waits until they are in their rooms.
    pub fn join(url: &str) -> Members {
        let target = Target::parse(url).unwrap();
        let mut all = Members {
            fleet: Fleet::new().unwrap(),
            links: HashMap::new(),
            members: Vec::new(),
            published: 0,
            answered: 0,
            last: [0; ROOMS.len()],
            events: Vec::new(),
        };
        for n in 0..COUNT {
            let name = format!("member {n}");
            let target = target.with("user", &name);
            let opening = Opening { path: target.path.clone(), ..Opening::default() };
            let link = all.fleet.open(&target, &opening, None).unwrap();
            all.links.insert(link, n);
            all.members.push((link, State::new(name.clone(), name)));
        }
        all.until(|all| {
            all.members.iter().all(|(_, m)| m.memberships().filter(|m| m.1).count() == ROOMS.len())
        });
        all
    }

    /// One publish for each step, by one after the other, until there are no more steps.
    pub fn publish_for_each(&mut self, steps: &Receiver<()>) {
        loop {
            match steps.try_recv() {
                Ok(()) => self.publish(),
                Err(TryRecvError::Empty) => self.turn(),
                Err(TryRecvError::Disconnected) => break,
            }
            // They await their answers, as clients that behave well do.
            while self.published - self.answered > 200 {
                self.turn();
            }
        }
    }

    /// One publish more to each room, until all that was published has come.
    pub fn finish(&mut self) {
        for room in 0..ROOMS.len() {
            self.publish_to(room);
        }
        self.until(|all| {
            all.answered == all.published
                && all
                    .members
                    .iter()
                    .all(|(_, m)| m.memberships().zip(all.last).all(|((_, _, at), last)| at >= last))
        });
    }

    /// Ends their connections; what each has seen, and how much they have published.
    pub fn leave(self) -> (Vec<ClientLog>, u64) {
        (self.members.into_iter().map(|(_, state)| state.into_log()).collect(), self.published)
    }

    fn publish(&mut self) {
        self.publish_to(self.published as usize / COUNT % ROOMS.len());
    }

    fn publish_to(&mut self, room: usize) {
        let (link, state) = &mut self.members[self.published as usize % COUNT];
        let id = format!("m{}", self.published);
        let (_, frame) = state.publish(ROOMS[room], &id, Payload::Json(r#"{"text":"hello"}"#));
        assert!(self.fleet.send(*link, frame));
        self.published += 1;
    }

    fn until(&mut self, done: impl Fn(&Members) -> bool) {
        let mut happened = Instant::now();
        while !done(self) {
            let before = self.answered;
            self.turn();
            if self.answered > before {
                happened = Instant::now();
            }
            assert!(happened.elapsed() < PATIENCE, "{} of {} are answered", self.answered, self.published);
        }
    }

    fn turn(&mut self) {
        let mut events = std::mem::take(&mut self.events);
        self.fleet.turn(Duration::from_millis(1), &mut events).unwrap();
        for (link, event) in events.drain(..) {
            let n = self.links[&link];
            match event {
                Event::Open => {
                    for room in ROOMS {
                        let frame = self.members[n].1.join(room, JoinOptions::default());
                        assert!(self.fleet.send(link, frame));
                    }
                }
                Event::Text(text) => self.frame(n, &Frame::parse(&text).unwrap()),
                other => panic!("member {n}: {other:?}"),
            }
        }
        self.events = events;
    }

    fn frame(&mut self, n: usize, frame: &Frame<'_>) {
        match self.members[n].1.frame(frame) {
            // They get their own publications, which are the acks.
            Seen::Publication { room, offset, answers: Some(_), .. } => {
                self.last[room] = offset.max(self.last[room]);
                self.answered += 1;
            }
            Seen::Welcome | Seen::Joined { .. } | Seen::Publication { .. } | Seen::Other => {}
            other => panic!("member {n}: {other:?}: {frame:?}"),
        }
    }
}
