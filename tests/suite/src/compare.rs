//! What slow and dead peers cost the others: one run with them, or one without, of the same load on a server of its own.

use crate::crowd::{Crowd, Plan};
use crate::helper::Helper;
use crate::history::get;
use crate::net::{Cable, HERE};
use crate::server::{Launch, stop};
use crate::storm::{Kind, Report, Storm};
use crate::vitals::Vitals;
use klatch_harness::process::Server;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

const ROOM: &str = "room";
/// How long the peers may take to come to an end, and the server to let go of them.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long the load goes on before anything is measured.
const WARM_UP: f64 = 2.0;
/// History that joiners ask for: so many publications of 1 KiB.
const HISTORY: u64 = 8_000;
/// Those who join for it and are slow.
const JOINERS: usize = 200;
/// How often one of them reads some of what has come, at most 64 publications.
const SIP: Duration = Duration::from_millis(50);

/// What some peers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Nothing: what two runs of the same kind differ by.
    Nothing,
    /// 50 of 500 members stop reading.
    Deaf,
    /// One of 5,000 members is stopped (SIGSTOP).
    Stopped,
    /// The link to 50 of 500 is cut without a word.
    Cut,
    /// 200 join from the beginning of a long history, and each reads 64 publications of it every ten seconds.
    Joiners,
    /// 500 connections each that are silent, send a byte at a time, or ask for an upgrade and no more; each is replaced after a second.
    HalfOpen,
    /// All files that the server may open are open, and 1,000 connections come each second.
    Files,
    /// One address opens 5,000 connections a second and says nothing.
    StormSilent,
    /// One address asks for 5,000 upgrades a second.
    StormUpgrade,
}

/// All cases, in the order of the table.
pub const CASES: [Case; 9] = [
    Case::Nothing,
    Case::Deaf,
    Case::Stopped,
    Case::Cut,
    Case::Joiners,
    Case::HalfOpen,
    Case::Files,
    Case::StormSilent,
    Case::StormUpgrade,
];

/// What the members do all the time.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Members whose deliveries are measured; one of them publishes.
    pub members: usize,
    /// Members in a process of their own, which are the peers in question.
    pub others: usize,
    /// Publishes a second.
    pub rate: f64,
    /// Bytes of text in each.
    pub bytes: usize,
}

impl Case {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Case::Nothing => "nothing",
            Case::Deaf => "deaf",
            Case::Stopped => "stopped",
            Case::Cut => "cut",
            Case::Joiners => "joiners",
            Case::HalfOpen => "half-open",
            Case::Files => "files",
            Case::StormSilent => "storm-silent",
            Case::StormUpgrade => "storm-upgrade",
        }
    }

    /// What happens, for the table.
    pub fn title(self) -> &'static str {
        match self {
            Case::Nothing => "nothing (the noise)",
            Case::Deaf => "50 of 500 stop reading",
            Case::Stopped => "one of 5,000 is stopped",
            Case::Cut => "the link to 50 of 500 is cut",
            Case::Joiners => "200 join with a long history and read it slowly",
            Case::HalfOpen => "1,500 half-open handshakes, each replaced after a second",
            Case::Files => "no file left, 1,000 connections a second",
            Case::StormSilent => "one address: 5,000 silent connections a second",
            Case::StormUpgrade => "one address: 5,000 upgrades a second",
        }
    }

    /// Its load.
    pub fn load(self) -> Load {
        let load = Load { members: 450, others: 0, rate: 50.0, bytes: 1000 };
        match self {
            // Large enough for the peers' backlogs to reach their bound.
            Case::Deaf => Load { others: 50, bytes: 4000, ..load },
            Case::Stopped => Load { members: 4_999, others: 1, rate: 10.0, bytes: 128 },
            Case::Cut => Load { others: 50, ..load },
            _ => load,
        }
    }

    fn launch(self, launch: Launch) -> Launch {
        match self {
            // Given up before a run of ten seconds is over; those who are measured have time to answer.
            Case::Cut => launch
                .listen(format!("{HERE}:0"))
                .set("limits.heartbeat_ms", 2_000)
                .set("limits.heartbeat_timeout_ms", 7_000),
            // The log has files to open all the time.
            Case::Files => launch.set("storage.segment_bytes", 64 << 10),
            // The default: what holds against one address.
            Case::HalfOpen | Case::StormSilent | Case::StormUpgrade => {
                launch.set("limits.connections_per_address", 200)
            }
            _ => launch,
        }
    }
}

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long is measured.
    pub seconds: f64,
    /// The server's processors, as `taskset` takes them.
    pub cores: String,
    /// The folder of the program `crowd`.
    pub programs: PathBuf,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How long each delivery took, in order.
    pub took: Vec<Duration>,
    /// The server's resident bytes before, at most, and afterwards.
    pub resident: [u64; 3],
    /// The part of a processor that the server took.
    pub server: f64,
    /// The part of a processor that the measured members took.
    pub members: f64,
    /// What the peers report, if they do.
    pub storms: Vec<Report>,
}

impl Outcome {
    /// The time within which so many of a hundred deliveries came.
    pub fn percentile(&self, percent: f64) -> Duration {
        let rank = (self.took.len() as f64 * percent / 100.0).ceil() as usize;
        self.took.get(rank.saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// The peers of a run.
struct Peers {
    case: Case,
    helpers: Vec<Helper>,
    sipped: Instant,
    sips: usize,
}

/// Runs a case, with what it does if it is `disturbed`.
///
/// # Panics
/// If anything goes wrong but time: an error, an end of a measured connection, a message that does not come.
pub fn run(case: Case, disturbed: bool, options: &Options) -> Outcome {
    let data = tempfile::tempdir().unwrap_or_else(|e| panic!("no folder: {e}"));
    let cable = (case == Case::Cut).then(Cable::lay);
    let launch = Launch::new(data.path())
        .under(&["taskset", "--cpu-list", &options.cores])
        .arg("--log-level")
        .arg("error");
    let server = case.launch(launch).start();
    let load = case.load();
    if case == Case::Joiners {
        let mut before = Crowd::new(&server.url(), &Plan::new(ROOM, "before", 1));
        before.join();
        before.pour(0, HISTORY, 1024, 64, |_| {});
    }
    let plan = Plan { spread: true, ..Plan::new(ROOM, "member", load.members) };
    let mut members = Crowd::new(&server.url(), &plan);
    members.join();
    let mut peers = Peers::new(case, &server, cable.as_ref(), options);
    publish(&mut members, load, WARM_UP, |_| {});

    members.took();
    Vitals::forget_peak(server.id());
    let before = (Vitals::of(server.id()), Vitals::of(std::process::id()), Instant::now());
    if disturbed {
        peers.begin(&server, cable.as_ref(), options);
    }
    publish(&mut members, load, options.seconds, |_| peers.go_on());
    let after = (Vitals::of(server.id()), Vitals::of(std::process::id()), before.2.elapsed().as_secs_f64());
    let mut took = members.took();
    took.sort_unstable();
    assert!(
        members.closes().is_empty() && members.errors().is_empty(),
        "{:?} {:?}",
        members.closes(),
        members.errors()
    );

    let storms = peers.end(&mut members, cable.as_ref());
    let held = (load.members + load.others) as u64;
    let let_go = || {
        metric(&server, "klatch_connections") == held
            && metric(&server, "klatch_backlog_bytes") == 0
            // Those that never became one; the log's own come and go.
            && Vitals::of(server.id()).files <= before.0.files + 32
    };
    let began = Instant::now();
    while !let_go() {
        assert!(began.elapsed() < PATIENCE, "the server does not let go of what is gone");
        members.turn(Duration::from_millis(50));
    }
    let resident = [before.0.resident, after.0.peak, Vitals::of(server.id()).resident];
    drop(peers);
    stop(server);
    let share = |from: Vitals, to: Vitals| (to.ticks - from.ticks) as f64 / 100.0 / after.2;
    Outcome { took, resident, server: share(before.0, after.0), members: share(before.1, after.1), storms }
}

/// Publishes at the rate for so long, whatever becomes of it, and waits until everybody has everything.
fn publish(members: &mut Crowd, load: Load, seconds: f64, mut each: impl FnMut(&Crowd)) {
    let (began, before) = (Instant::now(), members.answered());
    let count = (load.rate * seconds) as u32;
    for n in 0..count {
        members.publish_stamped(0, load.bytes);
        let next = began + Duration::from_secs_f64(f64::from(n + 1) / load.rate);
        loop {
            members.turn(next.saturating_duration_since(Instant::now()));
            each(members);
            if Instant::now() >= next {
                break;
            }
        }
    }
    members.until("everything to be stored", |c| c.answered() == before + u64::from(count));
    members.reach(members.last());
}

/// A number of `/metrics`.
fn metric(server: &Server, name: &str) -> u64 {
    let (_, text) = get(&server.url(), "/metrics");
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
}

impl Peers {
    /// Those who are members from the beginning, and do as all do for now.
    fn new(case: Case, server: &Server, cable: Option<&Cable>, options: &Options) -> Peers {
        let mut peers = Peers { case, helpers: Vec::new(), sipped: Instant::now(), sips: 0 };
        let others = case.load().others;
        if others > 0 {
            let receive_buffer = (case == Case::Deaf).then_some(4096);
            let silence_ms = if case == Case::Cut { 3_000 } else { 0 };
            let plan = Plan { receive_buffer, silence_ms, ..Plan::new(ROOM, "peer", others) };
            let mut command = crowd(cable, options);
            peers.helpers.push(Helper::crowd(&mut command, &server.url(), &plan));
        }
        peers
    }

    /// They do what the case is about.
    fn begin(&mut self, server: &Server, cable: Option<&Cable>, options: &Options) {
        let mut storm = |kind, from: [u8; 4], per_second: u64, hold, addresses| {
            let total = (per_second as f64 * options.seconds) as u64;
            let storm = Storm { kind, from: from.into(), addresses, per_second, total, hold, stay: false };
            self.helpers.push(Helper::storm(&mut crowd(cable, options), server.address(), &storm));
        };
        match self.case {
            Case::Nothing => {}
            Case::Deaf => self.helpers.iter_mut().for_each(|h| h.order("pause")),
            Case::Stopped => self.helpers.iter().for_each(Helper::freeze),
            Case::Cut => cable.into_iter().for_each(Cable::cut),
            Case::Joiners => {
                let plan = Plan {
                    receive_buffer: Some(4096),
                    since: Some(0),
                    deaf: true,
                    spread: true,
                    ..Plan::new(ROOM, "joiner", JOINERS)
                };
                self.helpers.push(Helper::begin_crowd(&mut crowd(cable, options), &server.url(), &plan));
            }
            Case::HalfOpen => {
                storm(Kind::Silent, [127, 1, 0, 1], 500, 500, 5);
                storm(Kind::Trickle, [127, 1, 1, 1], 500, 500, 5);
                storm(Kind::Upgrade, [127, 1, 2, 1], 500, 500, 5);
            }
            Case::Files => {
                // Of which 128 are reserved, and connections may have 50.
                let files = Vitals::of(server.id()).files as u64 + 128 + 50;
                let limit = Rlimit { current: Some(files), maximum: Some(files) };
                prlimit(Pid::from_raw(server.id() as i32), Resource::Nofile, limit)
                    .unwrap_or_else(|e| panic!("no limit of files: {e}"));
                storm(Kind::Named, [127, 1, 0, 1], 1_000, 200, 1);
            }
            Case::StormSilent => storm(Kind::Silent, [127, 1, 0, 1], 5_000, 5_000, 1),
            Case::StormUpgrade => storm(Kind::Named, [127, 1, 0, 1], 5_000, 5_000, 1),
        }
    }

    /// What they do from time to time.
    fn go_on(&mut self) {
        if self.case == Case::Joiners && self.sipped.elapsed() >= SIP {
            self.sipped = Instant::now();
            for helper in &mut self.helpers {
                helper.order(&format!("sip {}", self.sips % JOINERS));
            }
            self.sips += 1;
        }
    }

    /// They end, or do as all do again and catch up.
    fn end(&mut self, members: &mut Crowd, cable: Option<&Cable>) -> Vec<Report> {
        match self.case {
            Case::Deaf => self.helpers.iter_mut().for_each(|h| h.order("read")),
            Case::Stopped => self.helpers.iter().for_each(Helper::thaw),
            Case::Cut => cable.into_iter().for_each(Cable::mend),
            Case::Joiners => self.helpers.clear(),
            _ => {}
        }
        let word = match self.case {
            Case::Deaf | Case::Stopped | Case::Cut => {
                self.helpers.iter_mut().for_each(|h| h.order(&format!("reach {}", members.last())));
                "reached"
            }
            _ => "over",
        };
        let said = |h: &Helper| {
            let began = Instant::now();
            loop {
                if let Some(said) = h.said(word) {
                    return said;
                }
                assert!(began.elapsed() < PATIENCE, "the peers do not come to an end");
                // Those who were measured answer to heartbeats.
                members.turn(Duration::from_millis(20));
            }
        };
        let all: Vec<String> = self.helpers.iter().map(said).collect();
        all.iter().filter_map(|text| serde_json::from_str(text).ok()).collect()
    }
}

/// The program `crowd`, on the other host if there is one. What it takes of the processor is what those who are measured leave.
fn crowd(cable: Option<&Cable>, options: &Options) -> Command {
    let mut command = cable.map_or_else(|| Command::new("nice"), |c| c.there("nice"));
    command.args(["-n", "10"]).arg(options.programs.join("crowd"));
    command
}
