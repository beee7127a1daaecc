//! What is printed.

use crate::meter::{Figures, quantile};
use std::fs;

/// What is said of one run: names of figures, and the figures.
pub const FIGURES: &[&str] = &[
    "ack p50",
    "ack p99",
    "ack p99.9",
    "delivery p50",
    "delivery p99",
    "delivery p99.9",
    "messages/s",
    "µs/message",
    "µs redis",
    "µs Kafka",
    "µs load",
];
/// Places in them.
pub const ACK_P99: usize = 1;
pub const RATE: usize = 6;
pub const CPU: usize = 7;
pub const REDIS: usize = 8;

/// The figures of a run, in the order of [`FIGURES`]. Without a Redis its time is none.
pub fn row(figures: &Figures) -> Vec<f64> {
    let shares = [0.5, 0.99, 0.999];
    let mut row: Vec<f64> = shares.map(|s| quantile(&figures.ack, s)).into();
    row.extend(shares.map(|s| quantile(&figures.delivery, s)));
    row.push(figures.rate());
    row.extend(["server", "redis", "kafka", "load"].map(|group| figures.cpu(group)));
    row
}

/// A figure with three digits that count.
pub fn number(value: f64) -> String {
    match value {
        v if v.is_nan() => "-".into(),
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// The middle one, or the mean of the two in the middle.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().filter(|v| !v.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let lower = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN);
    (upper + lower) / 2.0
}

/// The median of each figure.
pub fn medians(rows: &[&Vec<f64>]) -> Vec<f64> {
    (0..FIGURES.len()).map(|f| median(rows.iter().filter_map(|row| row.get(f).copied()))).collect()
}

/// A line of a table in Markdown.
pub fn line(head: &str, values: impl IntoIterator<Item = String>) -> String {
    let values: Vec<String> = values.into_iter().collect();
    format!("| {head} | {} |", values.join(" | "))
}

/// A ratio's median and range, from those of each round.
pub fn ratio(rounds: impl IntoIterator<Item = f64>) -> String {
    let rounds: Vec<f64> = rounds.into_iter().collect();
    let (low, high) = rounds.iter().fold((f64::MAX, f64::MIN), |(l, h), r| (l.min(*r), h.max(*r)));
    format!("{} ({}-{})", number(median(rounds)), number(low), number(high))
}

/// What it ran on.
pub fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let field = |name| info.lines().filter_map(move |l| l.strip_prefix(name)?.split_once(": "));
    format!(
        "{} x {}, Linux {}, load {}",
        field("model name").count(),
        field("model name").next().map_or("?", |(_, value)| value),
        read("/proc/sys/kernel/osrelease").trim(),
        load(),
    )
}

/// The load average of the last minute.
pub fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
