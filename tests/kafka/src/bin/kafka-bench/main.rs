//! klatch on Kafka beside librdkafka alone and beside what klatch replaces, in one run on one broker.
//!
//! `tests/load/kafka-compare` builds what it needs and runs it. See [`HELP`].

// A measuring program: it talks by its output and ends with a panic.
#![allow(clippy::print_stdout)]

mod bare;
mod bounce;
mod chat;
mod check;
mod inside;
mod load;
mod meter;
mod report;
mod servers;

use bare::Bare;
use inside::Inside;
use klatch_kafka_tests::{Cluster, Oracle};
use load::Crowd;
use meter::{Figures, Group, Meter, Shape, Times};
use report::{ACK_P99, CPU, FIGURES, RATE, REDIS};
use servers::Chat;
use std::path::Path;
use std::time::Duration;

const HELP: &str = "
  kafka-bench [--rounds 5] [--seconds 2.2] [--warm 0.6] [--rooms 32] [--members 2] [--rate 2000] [--in-flight 512]
              [--load one|paced|bulk] [--without-recipe]
  kafka-bench --bounce [--rounds 1] [--rooms 16] [--members 4] [--rate 500] [--seconds 30] [--down 3] [--nodes 2]";

/// Partitions of each topic.
const PARTITIONS: u32 = 16;
/// The contenders, the first of which the others are compared with. *inside* is klatch without sockets, in the process of its host.
const NAMES: [&str; 4] = ["librdkafka", "inside", "klatch", "recipe"];
const BARE: usize = 0;
const INSIDE: usize = 1;
const KLATCH: usize = 2;
const RECIPE: usize = 3;

/// How long a run's last messages are waited for: whoever cannot keep up has many of them.
const PATIENCE: Duration = Duration::from_secs(15);

/// What was asked for.
pub struct Options {
    args: Vec<String>,
}

impl Options {
    /// The value behind `--name`, or this one.
    pub fn number(&self, name: &str, default: f64) -> f64 {
        let at = self.args.iter().position(|a| *a == format!("--{name}"));
        let value = at.map(|at| self.args.get(at + 1).map_or("", String::as_str));
        value.map_or(default, |v| v.parse().unwrap_or_else(|e| panic!("--{name} {v}: {e}{HELP}")))
    }

    /// The same in seconds.
    pub fn seconds(&self, name: &str, default: f64) -> Duration {
        Duration::from_secs_f64(self.number(name, default))
    }

    fn has(&self, name: &str) -> bool {
        self.args.iter().any(|a| *a == format!("--{name}"))
    }
}

/// Everybody's settings of a topic.
pub fn create(oracle: &Oracle, topic: &str) {
    oracle.create(topic, PARTITIONS, &["message.timestamp.type=LogAppendTime", "cleanup.policy=delete"]);
}

fn main() {
    let options = Options { args: std::env::args().skip(1).collect() };
    if options.has("help") {
        return println!("{HELP}");
    }
    let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("no folder: {e}"));
    println!("{}", report::machine());
    if options.has("bounce") {
        bounce::run(&options, folder.path())
    } else {
        compare(&options, folder.path())
    }
}

/// The contenders in turn, round by round.
fn compare(options: &Options, folder: &Path) {
    let rounds = options.number("rounds", 5.0) as usize;
    let (rooms, members) = (options.number("rooms", 32.0) as usize, options.number("members", 2.0) as usize);
    let times = Times { warm: options.seconds("warm", 0.6), measured: options.seconds("seconds", 2.2) };
    let shapes = [
        ("one", Shape::One),
        ("paced", Shape::Paced(options.number("rate", 2000.0))),
        ("bulk", Shape::Bulk(options.number("in-flight", 512.0) as usize)),
    ];
    let wanted = |name: &str| !options.has("load") || options.args.iter().any(|a| a == name);
    let shapes: Vec<Shape> =
        shapes.into_iter().filter(|(name, _)| wanted(name)).map(|(_, shape)| shape).collect();
    let cluster = Cluster::one().start();
    let oracle = Oracle::new(cluster.addresses());
    NAMES.iter().for_each(|name| create(&oracle, name));
    let recipe = !options.has("without-recipe");
    let mut contenders = vec![
        Bare::new(&cluster.addresses(), NAMES[BARE], PARTITIONS, rooms)
            .map(Contender::Bare)
            .unwrap_or_else(|e| panic!("{e}")),
        Inside::new(&cluster.url(NAMES[INSIDE]), folder, rooms)
            .map(Contender::Inside)
            .unwrap_or_else(|e| panic!("{e}")),
        Contender::Chat(Chat::klatch(&cluster, NAMES[KLATCH], 1, folder)),
    ];
    contenders.extend(recipe.then(|| Contender::Chat(Chat::recipe(&cluster, NAMES[RECIPE], 1, folder))));
    let own = std::process::id();
    let around = [Group { name: "kafka", ids: cluster.ids() }, Group { name: "load", ids: vec![own] }];
    println!(
        "{rooms} rooms of {members}, {} bytes a message, {PARTITIONS} partitions, {rounds} rounds; of each run {:?} are measured after {:?}",
        chat::SIZE,
        times.measured,
        times.warm,
    );

    // By shape and contender: the figures of each round.
    let mut all: Vec<[Vec<Vec<f64>>; 4]> = shapes.iter().map(|_| Default::default()).collect();
    let mut number_of_messages = 0;
    for round in 1..=rounds {
        for (shape, all) in shapes.iter().zip(&mut all) {
            for (number, name) in NAMES.iter().enumerate().take(contenders.len()) {
                // What one could not do in time is not to be done in another's.
                contenders.iter().for_each(Contender::rest);
                let (Some(contender), Some(rows)) = (contenders.get_mut(number), all.get_mut(number)) else {
                    continue;
                };
                // Those in this process serve nobody else: what is the load's is the server's.
                let mine =
                    || Meter::new(times, &[Group { name: "server", ids: vec![own] }, around[0].clone()]);
                let figures = match contender {
                    Contender::Bare(bare) => bare.run(*shape, mine()),
                    Contender::Inside(inside) => inside.run(*shape, mine()),
                    Contender::Chat(chat) => {
                        let groups = [&chat.groups[..], &around].concat();
                        let meter = || Meter::new(times, &groups);
                        chatting(chat, *shape, meter, rooms, members, &mut number_of_messages)
                    }
                };
                let row = report::row(&figures);
                println!(
                    "round {round}, {}, {}: {}; load average {}",
                    shape.name(),
                    name,
                    FIGURES
                        .iter()
                        .zip(&row)
                        .map(|(n, v)| format!("{n} {}", report::number(*v)))
                        .collect::<Vec<_>>()
                        .join(", "),
                    report::load(),
                );
                figures.wrong.iter().for_each(|wrong| println!("  WRONG: {wrong}"));
                rows.push(row);
            }
        }
    }
    println!("\n{}\nMedians of the rounds; times in ms.\n", report::machine());
    for (shape, all) in shapes.iter().zip(&all) {
        println!("{}", report::line(&shape.name(), FIGURES.iter().map(ToString::to_string)));
        println!("{}", report::line("---", FIGURES.iter().map(|_| "---".to_owned())));
        for (name, rows) in NAMES.iter().zip(all).filter(|(_, rows)| !rows.is_empty()) {
            let medians = report::medians(&rows.iter().collect::<Vec<_>>());
            println!("{}", report::line(name, medians.into_iter().map(report::number)));
        }
        goals(all);
        println!();
    }
}

/// Whoever is measured.
enum Contender {
    Bare(Bare),
    Inside(Inside),
    Chat(Chat),
}

impl Contender {
    /// Waits until its processes do next to nothing.
    fn rest(&self) {
        if let Contender::Chat(chat) = self {
            meter::rest(&chat.groups);
        }
    }
}

/// The ratios of each round that goals are set for.
fn goals(all: &[Vec<Vec<f64>>; 4]) {
    let of = |row: &Vec<f64>, figure: usize| row.get(figure).copied().unwrap_or(f64::NAN);
    let [bare, _, klatch, recipe] = all;
    for who in [INSIDE, KLATCH] {
        let (name, rows) = (NAMES[who], &all[who]);
        let beside =
            |figure| report::ratio(rows.iter().zip(bare).map(|(k, b)| of(k, figure) / of(b, figure)));
        println!("ack p99, {name} / librdkafka: {} (goal: at most 1.3)", beside(ACK_P99));
        println!("messages a second, {name} / librdkafka: {} (goal in bulk: at least 0.8)", beside(RATE));
    }
    if !recipe.is_empty() {
        let cpu =
            report::ratio(klatch.iter().zip(recipe).map(|(k, r)| (of(r, CPU) + of(r, REDIS)) / of(k, CPU)));
        println!("messages per processor second, klatch / recipe with its Redis: {cpu} (goal: at least 5)");
    }
}

/// One run of a server, and a look at what its members got.
fn chatting(
    chat: &Chat,
    shape: Shape,
    meter: impl FnOnce() -> Meter,
    rooms: usize,
    members: usize,
    next: &mut u64,
) -> Figures {
    let crowd = Crowd::join(chat.dialect, &chat.addresses(), rooms, members, *next);
    let crowd = crowd.unwrap_or_else(|e| panic!("cannot join: {e}; {:?}", chat.last_words()));
    let (mut figures, outcome) =
        crowd.run(shape, meter(), PATIENCE).unwrap_or_else(|e| panic!("the load: {e}"));
    *next += outcome.sent.len() as u64;
    figures.wrong = check::members(&outcome).wrong();
    figures
}
