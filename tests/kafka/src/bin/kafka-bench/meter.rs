//! What is measured: times, and the processor time of others, over the middle of a run.

use std::fs;
use std::time::{Duration, Instant};

/// How messages come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Shape {
    /// The next one once the last is acknowledged and delivered.
    One,
    /// So many a second.
    Paced(f64),
    /// So many that are not acknowledged, all the time.
    Bulk(usize),
}

impl Shape {
    /// What it is called.
    pub fn name(self) -> String {
        match self {
            Shape::One => "1 in flight".into(),
            Shape::Paced(rate) => format!("{rate:.0}/s"),
            Shape::Bulk(count) => format!("{count} in flight"),
        }
    }
}

/// How long a run is.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// What comes first and is not counted.
    pub warm: Duration,
    /// What is.
    pub measured: Duration,
}

/// Processes whose time is counted together.
#[derive(Clone, Debug)]
pub struct Group {
    /// What they are.
    pub name: &'static str,
    /// Which.
    pub ids: Vec<u32>,
}

/// What one run showed.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Nanoseconds from before the sending until the sender knew, in order.
    pub ack: Vec<u64>,
    /// Until another member of the room had it.
    pub delivery: Vec<u64>,
    /// Acknowledged in the measured time.
    pub acked: u64,
    /// That time.
    pub seconds: f64,
    /// Processor seconds in it, by group.
    pub cpu: Vec<(&'static str, f64)>,
    /// What was wrong, if anything.
    pub wrong: Vec<String>,
}

impl Figures {
    /// Acknowledged messages a second.
    pub fn rate(&self) -> f64 {
        self.acked as f64 / self.seconds
    }

    /// Microseconds of processor time a message of the group of this name.
    pub fn cpu(&self, name: &str) -> f64 {
        let spent = self.cpu.iter().find(|(group, _)| *group == name).map_or(f64::NAN, |(_, spent)| *spent);
        spent * 1e6 / self.acked as f64
    }
}

/// A quantile in milliseconds of what is in order.
pub fn quantile(sorted: &[u64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share).ceil().max(1.0) as usize - 1;
    sorted.get(place.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |ns| *ns as f64 / 1e6)
}

/// Follows a run.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    times: Times,
    groups: Vec<Group>,
    /// The processor times at the beginning of what is measured, and when they were read.
    before: Option<(u64, Vec<f64>)>,
    over: bool,
    figures: Figures,
}

impl Meter {
    /// Begins now.
    pub fn new(times: Times, groups: &[Group]) -> Meter {
        let figures = Figures::default();
        Meter { start: Instant::now(), times, groups: groups.to_vec(), before: None, over: false, figures }
    }

    /// The beginning.
    pub fn clock(&self) -> Instant {
        self.start
    }

    /// Nanoseconds since the beginning.
    pub fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// To be called often; whether there may be more sending.
    pub fn tick(&mut self) -> bool {
        let now = self.start.elapsed();
        if self.before.is_none() && now >= self.times.warm {
            self.before = Some((self.now(), self.read()));
        }
        if !self.over && now >= self.times.warm + self.times.measured {
            self.over = true;
            let (since, before) = self.before.take().unwrap_or_default();
            self.figures.seconds = (self.now() - since) as f64 / 1e9;
            let spent = self.read().into_iter().zip(before).map(|(after, before)| after - before);
            self.figures.cpu = self.groups.iter().map(|g| g.name).zip(spent).collect();
            // Those sent before stay in.
            self.before = Some((since, Vec::new()));
        }
        !self.over
    }

    /// A message that was sent then is acknowledged.
    pub fn acked(&mut self, sent: u64, now: u64) {
        if let Some((since, _)) = self.before
            && sent >= since
        {
            self.figures.ack.push(now - sent);
        }
        self.figures.acked += u64::from(self.before.is_some() && !self.over);
    }

    /// A message that was sent then has reached another member.
    pub fn delivered(&mut self, sent: u64, now: u64) {
        if let Some((since, _)) = self.before
            && sent >= since
        {
            self.figures.delivery.push(now - sent);
        }
    }

    /// The figures.
    pub fn end(mut self) -> Figures {
        self.figures.ack.sort_unstable();
        self.figures.delivery.sort_unstable();
        self.figures
    }

    fn read(&self) -> Vec<f64> {
        self.groups.iter().map(|group| group.ids.iter().map(|id| cpu_seconds(*id)).sum()).collect()
    }
}

/// Waits until these processes do next to nothing, some time at most.
pub fn rest(groups: &[Group]) {
    let spent = || groups.iter().flat_map(|group| &group.ids).map(|id| cpu_seconds(*id)).sum::<f64>();
    let begin = Instant::now();
    loop {
        let before = spent();
        std::thread::sleep(Duration::from_millis(200));
        if spent() - before < 0.03 || begin.elapsed() > Duration::from_secs(20) {
            return;
        }
    }
}

/// Seconds of processor time that a process has used, its threads and the kernel's work for them included.
fn cpu_seconds(id: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_else(|e| panic!("process {id}: {e}"));
    // The name may hold anything: what follows its parenthesis is counted.
    let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let field = |n: usize| rest.split(' ').nth(n).and_then(|f| f.parse().ok()).unwrap_or(0.0);
    // Ticks are hundredths of a second on every Linux of today.
    (field(11) + field(12)) / 100.0
}
