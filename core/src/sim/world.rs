//! The world of one seed: clients, links, the server through its lives, and the scheduler.

use super::Random;
use super::client::Client;
use super::disk::{Dropped, SimFiles, records};
use super::net::Ends;
use super::node::Node;
use super::plan::Plan;
use crate::broker::{Broker, Health};
use crate::clock::Clock;
use crate::codes::Code;
use crate::log::faulty::{Fault, Faulty, Operation};
use crate::points::Point;
use crate::points::in_tests::set_hook;
use crate::view::ViewAt;
use crate::view::kept::Kept;
use klatch_harness::checker::{Options, Verdict, check};
use klatch_harness::log::Log;
use std::cell::{Cell, RefCell};
use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

/// What came of a seed.
pub(super) struct Ran {
    pub(super) verdict: Verdict,
    /// Equal for equal runs.
    pub(super) trace: u64,
    pub(super) lives: u64,
}

/// A clock that moves when the scheduler says so.
#[derive(Debug)]
struct SimClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl Clock for SimClock {
    fn wall_ms(&self) -> u64 {
        self.wall.load(Ordering::SeqCst)
    }
    fn steady_ms(&self) -> u64 {
        self.steady.load(Ordering::SeqCst)
    }
}

/// Turns that a turn may contain, each overtaking the one around it.
const DEEPEST: u32 = 3;
/// Rounds in which everything must have come to rest.
const PATIENCE: u32 = 600;

pub(super) struct World {
    random: RefCell<Random>,
    plan: Plan,
    clock: Arc<SimClock>,
    node: RefCell<Option<Rc<Node>>>,
    clients: Vec<RefCell<Client>>,
    /// What the next life of the server finds.
    disk: RefCell<Arc<Faulty>>,
    view: RefCell<Kept>,
    dropped: Dropped,
    depth: Cell<u32>,
    flushing: Cell<u32>,
    healing: Cell<bool>,
    view_failing: Cell<bool>,
    turns: Cell<u64>,
    trace: Cell<u64>,
    lives: Cell<u64>,
    wrong: RefCell<Option<String>>,
}

impl World {
    /// Runs a seed to its end.
    pub(super) fn run(seed: u64) -> Result<Ran, String> {
        let mut random = Random(seed.wrapping_mul(0xD134_2543_DE82_EF95) ^ 0x6b6c);
        random.next();
        let plan = Plan::new(&mut random);
        let clients = plan.clients.iter().enumerate();
        let clients = clients.map(|(i, user)| RefCell::new(Client::new(i, user))).collect();
        let disk_seed = random.next();
        let world = Rc::new(World {
            clock: Arc::new(SimClock {
                wall: AtomicU64::new(1_700_000_000_000),
                steady: AtomicU64::new(3_600_000),
            }),
            random: RefCell::new(random),
            plan,
            node: RefCell::default(),
            clients,
            disk: RefCell::new(Arc::new(Faulty::new(disk_seed))),
            view: RefCell::default(),
            dropped: Dropped::default(),
            depth: Cell::new(0),
            flushing: Cell::new(0),
            healing: Cell::new(false),
            view_failing: Cell::new(false),
            turns: Cell::new(0),
            trace: Cell::new(0),
            lives: Cell::new(0),
            wrong: RefCell::default(),
        });
        let weak = Rc::downgrade(&world);
        set_hook(Some(Rc::new(move |point| {
            if let Some(world) = weak.upgrade() {
                world.at(point);
            }
        })));
        let rested = world.live();
        set_hook(None);
        rested?;
        let world = Rc::into_inner(world).ok_or("the world is held")?;
        world.judge()
    }

    fn below(&self, n: u64) -> u64 {
        self.random.borrow_mut().below(n)
    }

    fn one_in(&self, n: u64) -> bool {
        n > 0 && self.below(n) == 0
    }

    /// Notes what happens, so that two runs can be compared.
    fn note(&self, what: u64) {
        self.trace.set((self.trace.get() ^ what).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(23));
    }

    fn fault(&self, what: impl Into<String>) {
        self.wrong.borrow_mut().get_or_insert(what.into());
    }

    fn node(&self) -> Option<Rc<Node>> {
        self.node.borrow().clone()
    }

    fn live(self: &Rc<World>) -> Result<(), String> {
        while self.turns.get() < self.plan.turns {
            self.turn();
            self.bury();
            if let Some(wrong) = self.wrong.borrow_mut().take() {
                return Err(wrong);
            }
        }
        self.rest()
    }

    /// A point in the engine has been reached.
    fn at(&self, point: Point) {
        let flushing = u32::from(point == Point::Flushing);
        self.flushing.set(self.flushing.get() + flushing);
        self.overtaken(point);
        self.flushing.set(self.flushing.get() - flushing);
    }

    fn overtaken(&self, point: Point) {
        let Some(node) = self.node() else { return };
        if point == Point::Died {
            return self.kill(&node, None);
        }
        if node.dead.get() || self.depth.get() >= DEEPEST {
            return;
        }
        if self.healing.get() {
            // Nothing new, but whoever has something to do may be in time for it.
            self.depth.set(self.depth.get() + 1);
            if self.one_in(self.plan.overtaking) {
                node.turn(self.below(3) as usize, false);
                let _ = self.flushing.get() == 0 && self.one_in(2) && node.broker.has_work() && node.write();
            }
            self.depth.set(self.depth.get() - 1);
            return;
        }
        if self.turns.get() >= self.plan.turns {
            return;
        }
        let (rare, most) = match point {
            Point::Tail => (2, 6),
            _ => (self.plan.overtaking, 3),
        };
        if !self.one_in(rare) {
            return;
        }
        self.depth.set(self.depth.get() + 1);
        for _ in 0..1 + self.below(most) {
            if !node.dead.get() {
                self.turn();
            }
        }
        self.depth.set(self.depth.get() - 1);
    }

    /// Somebody's turn.
    fn turn(&self) {
        self.turns.set(self.turns.get() + 1);
        let what = self.below(100);
        self.note(what);
        match what {
            0..14 => self.client(|c, random| c.act(random)),
            14..28 => self.client(|c, random| {
                c.send(1 + random.below(400) as usize);
            }),
            28..44 => self.client(|c, random| self.receive(c, 1 + random.below(600) as usize)),
            44..66 => {
                let (shard, few) = (self.below(3) as usize, self.one_in(3));
                if let Some(node) = self.node() {
                    node.turn(shard, few);
                }
            }
            66..74 => drop(self.node().map(|n| n.read())),
            74..84 if self.flushing.get() == 0 => drop(self.node().map(|n| n.write())),
            84..87 if self.flushing.get() == 0 => drop(self.node().map(|n| n.flush())),
            87..90 => self.pass(),
            90..93 => self.connect(),
            93 => drop(self.node().map(|n| n.sweep())),
            94 if self.one_in(self.plan.drops) => self.drop_a_link(),
            95.. => self.trouble(),
            _ => {}
        }
    }

    fn client(&self, f: impl FnOnce(&mut Client, &mut Random)) {
        let i = self.below(self.clients.len() as u64) as usize;
        let seed = self.random.borrow_mut().next();
        if let Some(Ok(mut client)) = self.clients.get(i).map(RefCell::try_borrow_mut)
            && (client.link.is_some())
        {
            f(&mut client, &mut Random(seed));
        }
    }

    fn receive(&self, client: &mut Client, most: usize) {
        match client.receive(most) {
            Ok(_) => {}
            Err(wrong) => self.fault(wrong),
        }
    }

    /// Time passes.
    fn pass(&self) {
        let ms = [1, 20, 300, 1500, 1500][self.below(5) as usize];
        self.clock.steady.fetch_add(ms, Ordering::SeqCst);
        self.clock.wall.fetch_add(ms, Ordering::SeqCst);
        if self.plan.clock_jumps && self.one_in(8) {
            // Within a quarter of an hour, so that no window ends.
            let base = 1_700_000_000_000 + self.clock.steady_ms() - 3_600_000;
            self.clock.wall.store(base + self.below(900_000), Ordering::SeqCst);
        }
    }

    /// A client without a link gets one, if the server is there.
    fn connect(&self) {
        let i = self.below(self.clients.len() as u64) as usize;
        let shard = self.below(3) as usize;
        let Some(Ok(mut client)) = self.clients.get(i).map(RefCell::try_borrow_mut) else { return };
        let Some(node) = self.node().filter(|n| !n.dead.get() && client.link.is_none()) else { return };
        let ends = Ends::new(self.plan.socket);
        if node.enter(shard, &ends, client.user()) {
            client.opened(ends);
        }
    }

    fn drop_a_link(&self) {
        let lossy = self.one_in(2);
        self.client(|c, random| {
            let Some(link) = c.link.clone() else { return };
            if random.one_in(3) {
                link.end();
            } else {
                link.cut(lossy);
            }
            c.closed();
        });
        // It may be back before the server has noticed.
        for _ in 0..self.below(3) {
            self.connect();
        }
    }

    /// The server starts, stops, or meets a fault.
    fn trouble(&self) {
        let Some(node) = self.node() else {
            // Only between two lives.
            if self.depth.get() == 0 && !self.one_in(4) {
                self.start();
            }
            return;
        };
        let disk = node.files.disk.clone();
        let plan = &self.plan;
        match self.below(8) {
            0 if self.one_in(plan.kills) => self.kill(&node, Some(false)),
            1 if self.one_in(plan.cuts) => self.kill(&node, Some(true)),
            // In the middle of an operation.
            2 if self.one_in(plan.kills) => disk.plan(None, 1 + self.below(8), Fault::Kill),
            3 if self.one_in(plan.cuts) => disk.plan(None, 1 + self.below(8), Fault::PowerCut),
            4 if self.one_in(plan.disk_faults) => {
                let on = [Operation::Write, Operation::Sync, Operation::Rename, Operation::SyncDir];
                let on = on[self.below(4) as usize];
                disk.plan(Some(on), 1 + self.below(3), Fault::Error(ErrorKind::Other));
            }
            5 if plan.disk_faults > 0 => {
                // Full, or with room again.
                let room = (!self.one_in(3)).then(|| disk.used() + self.below(300));
                disk.set_space(room);
                self.view_failing.set(room.is_some() && self.one_in(2));
                node.fail_view(self.view_failing.get());
            }
            6 if self.one_in(plan.kills) && self.depth.get() == 0 && node.stop() => {
                self.kill(&node, Some(false));
            }
            7 if node.broker.health() == Health::StorageFailed => self.kill(&node, Some(false)),
            _ => {}
        }
    }

    /// The process ends here and now; `power`: whether the power is cut with it, if it is not the disk that says so.
    fn kill(&self, node: &Node, power: Option<bool>) {
        if node.dead.replace(true) {
            return;
        }
        self.note(1000);
        let disk = &node.files.disk;
        let next = match power {
            Some(true) => disk.cut_power(),
            Some(false) | None => disk.restart(),
        };
        disk.die();
        let lost_power = power.unwrap_or_else(|| disk.lost_power());
        next.set_space(None);
        let back = lost_power && self.one_in(2);
        let view = self.view.borrow().survive(back);
        *self.view.borrow_mut() = view;
        *self.disk.borrow_mut() = Arc::new(next);
        // Nothing that it still says is heard. A client that is at work sees it when it looks.
        let lossy = self.one_in(2);
        for client in &self.clients {
            if let Ok(client) = client.try_borrow()
                && let Some(link) = &client.link
            {
                link.cut(lossy);
                link.take(0);
            }
        }
    }

    /// Forgets a server that is dead, once nothing of it runs any more.
    fn bury(&self) {
        if self.node().is_some_and(|n| n.dead.get()) {
            *self.node.borrow_mut() = None;
        }
    }

    fn start(&self) {
        if self.plan.lost_views && self.one_in(3) {
            *self.view.borrow_mut() = Kept::default();
        }
        let disk = self.disk.borrow().clone();
        if !self.healing.get() && self.plan.kills > 0 && self.one_in(3) {
            let fault = if self.one_in(2) { Fault::Kill } else { Fault::PowerCut };
            match self.below(3) {
                // Between the cut of an incomplete batch and its sync.
                0 => disk.plan(Some(Operation::Truncate), 1, Fault::Kill),
                _ => disk.plan(None, 1 + self.below(6), fault),
            }
        }
        let files = Arc::new(SimFiles::new(disk.clone(), self.dropped.clone()));
        let at = ViewAt::Kept(self.view.borrow().clone());
        self.lives.set(self.lives.get() + 1);
        self.note(2000);
        match Node::start(files, &at, &self.plan.settings, self.clock.clone()) {
            Ok(node) if disk.is_dead() => drop(node),
            Ok(node) => {
                if node.broker.health() == Health::LogDamaged {
                    self.fault("the log is damaged, and nothing has damaged it");
                }
                self.view_failing.set(false);
                *self.node.borrow_mut() = Some(Rc::new(node));
                return;
            }
            Err(_) if disk.is_dead() => {}
            Err(e) if e.code() == Code::StorageFull => {
                disk.set_space(None);
                return;
            }
            Err(e) => return self.fault(format!("it does not start: {e}")),
        }
        // It was stopped while it started.
        let back = self.one_in(2) && disk.lost_power();
        let view = self.view.borrow().survive(back);
        *self.view.borrow_mut() = view;
        *self.disk.borrow_mut() = Arc::new(disk.restart());
    }

    /// Everything heals, and goes on until all have what they wait for.
    fn rest(&self) -> Result<(), String> {
        self.healing.set(true);
        let mut calm = 0;
        for round in 0..PATIENCE {
            self.bury();
            match self.node() {
                None => self.start(),
                Some(node) => {
                    node.files.disk.forget_plan();
                    node.files.disk.set_space(None);
                    node.fail_view(false);
                    if node.broker.health() == Health::StorageFailed {
                        self.kill(&node, Some(false));
                    }
                }
            }
            self.settle();
            if let Some(wrong) = self.wrong.borrow_mut().take() {
                return Err(wrong);
            }
            let Some(node) = self.node().filter(|n| !n.dead.get()) else { continue };
            // Nobody has anything to do: whoever waits for an answer waits for ever.
            if node.is_idle() && self.clients.iter().all(|c| c.borrow().is_idle()) {
                for client in &self.clients {
                    let client = client.borrow();
                    if client.link.is_some()
                        && let Some(what) = client.waits()
                    {
                        let name = client.state.log().name.clone();
                        return Err(format!("{name} waits for {what}, and nobody has anything to do"));
                    }
                }
            }
            let mut restless = !node.is_idle();
            for (i, client) in self.clients.iter().enumerate() {
                let mut client = client.borrow_mut();
                if client.link.is_none() {
                    // So much that nobody is too slow for all that it sends again at once.
                    let ends = Ends::new(1 << 20);
                    if node.enter(i, &ends, client.user()) {
                        client.opened(ends);
                    }
                    restless = true;
                } else {
                    restless |= client.retry() | client.rejoin();
                    restless |= !client.is_idle();
                }
            }
            if restless {
                calm = 0;
                if round % 4 == 3 {
                    self.pass();
                }
                continue;
            }
            calm += 1;
            if calm == 3 {
                return Ok(());
            }
        }
        let who = self.clients.iter().map(|c| c.borrow().state.unanswered()).collect::<Vec<_>>();
        Err(format!("it does not come to rest; without an answer: {who:?}"))
    }

    /// Lets everybody do what there is to do, until nothing is left or it is enough.
    fn settle(&self) {
        for _ in 0..400 {
            let Some(node) = self.node().filter(|n| !n.dead.get()) else { return };
            let mut busy = false;
            for shard in 0..node.shards() {
                busy |= node.turn(shard, false);
            }
            busy |= node.read();
            busy |= node.broker.has_work() && node.write();
            for client in &self.clients {
                let mut client = client.borrow_mut();
                busy |= client.send(usize::MAX);
                match client.receive(usize::MAX) {
                    Ok(received) => busy |= received,
                    Err(wrong) => self.fault(wrong),
                }
            }
            if !busy {
                return;
            }
        }
    }

    /// The checker's verdict.
    fn judge(self) -> Result<Ran, String> {
        let disk = self.node().map_or_else(|| self.disk.borrow().clone(), |n| n.files.disk.clone());
        let held = records(&disk).map_err(|e| format!("the log cannot be read: {e}"))?;
        let mut log = Log::new(self.plan.settings.dedupe_window_ms);
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(first) = held.first() {
            dropped.split_off(&first.offset);
        }
        for record in dropped.into_values().chain(held) {
            log.push(record);
        }
        let logs: Vec<_> = self.clients.into_iter().map(|c| c.into_inner().log()).collect();
        let mut verdict = check(&logs, &log, &Options::default());
        if verdict.counts.resets > 0 && !self.plan.forgets() {
            let resets = verdict.counts.resets;
            verdict.add(klatch_harness::checker::Wrong::Gap, || {
                format!("{resets} positions were given up, and nothing was ever dropped")
            });
        }
        Ok(Ran { verdict, trace: self.trace.get(), lives: self.lives.get() })
    }
}
