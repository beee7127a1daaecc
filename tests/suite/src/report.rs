//! What runs of [`crate::compare`] say, as a line each and as a table.

use crate::compare::{Case, Outcome};
use std::time::Duration;

/// A run without disturbance and the one with it that followed.
pub type Pair = [Outcome; 2];

/// The head of the table.
pub const HEAD: &str = "\
| while | p50 | p99 | max | ratio of p99 | resident, undisturbed | resident, disturbed |
| --- | --- | --- | --- | --- | --- | --- |";

/// A run in a line.
pub fn line(outcome: &Outcome) -> String {
    let [before, peak, after] = outcome.resident.map(mib);
    let ends: Vec<String> = outcome
        .storms
        .iter()
        .map(|s| {
            format!(
                "; {} connections in {:.1} s, {} failed, {:?}",
                s.opened,
                s.took.as_secs_f64(),
                s.failed,
                s.ends
            )
        })
        .collect();
    format!(
        "{} deliveries; p50 {} p99 {} max {} ms; resident {before} before, {peak} at most, {after} after, MiB; \
         server {:.0} %, members {:.0} % of a processor{}",
        outcome.took.len(),
        ms(outcome.percentile(50.0)),
        ms(outcome.percentile(99.0)),
        ms(outcome.percentile(100.0)),
        outcome.server * 100.0,
        outcome.members * 100.0,
        ends.concat(),
    )
}

/// A case as a row of the table: medians of its runs, undisturbed and disturbed; the largest for `max` and the peak.
pub fn row(case: Case, pairs: &[Pair]) -> String {
    let both = |f: &dyn Fn(&Outcome) -> Duration, pick: fn(Vec<f64>) -> f64| {
        let side = |i: usize| pick(pairs.iter().map(|p| f(&p[i]).as_secs_f64()).collect());
        [side(0), side(1)].map(|s| ms(Duration::from_secs_f64(s))).join(" → ")
    };
    let p99 = |o: &Outcome| o.percentile(99.0);
    let ratios: Vec<f64> = pairs.iter().map(|[u, d]| p99(d).as_secs_f64() / p99(u).as_secs_f64()).collect();
    let resident = |i: usize| {
        let at = |k: usize, pick: fn(Vec<f64>) -> f64| {
            format!("{:.1}", pick(pairs.iter().map(|p| p[i].resident[k] as f64 / MIB).collect()))
        };
        [at(0, median), at(1, largest), at(2, median)].join(", ")
    };
    format!(
        "| {} | {} | {} | {} | {:.2} ({:.2}-{:.2}) | {} | {} |",
        case.title(),
        both(&|o| o.percentile(50.0), median),
        both(&p99, median),
        both(&|o| o.percentile(100.0), largest),
        median(ratios.clone()),
        -largest(ratios.iter().map(|r| -r).collect()),
        largest(ratios),
        resident(0),
        resident(1),
    )
}

const MIB: f64 = 1_048_576.0;

fn mib(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / MIB)
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    match (all.get((all.len().max(1) - 1) / 2), all.get(all.len() / 2)) {
        (Some(a), Some(b)) => (a + b) / 2.0,
        _ => f64::NAN,
    }
}

fn largest(all: Vec<f64>) -> f64 {
    all.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(ms: std::ops::RangeInclusive<u64>, resident: u64) -> Outcome {
        Outcome {
            took: ms.map(Duration::from_millis).collect(),
            resident: [resident, 3 * resident, 2 * resident],
            server: 0.25,
            members: 0.5,
            storms: Vec::new(),
        }
    }

    #[test]
    fn a_row_is_of_medians_and_of_ratios_pair_by_pair() {
        let runs = [(1..=100, 1..=200), (101..=200, 1..=100), (1..=100, 201..=300)];
        let pairs = runs.map(|(u, d)| [outcome(u, 1 << 20), outcome(d, 2 << 20)]);
        // 99, 199 and 99 without; 198, 99 and 299 with.
        let row = row(Case::Deaf, &pairs);
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let expected = [
            "50 of 500 stop reading",
            "50.0 → 100.0",
            "99.0 → 198.0",
            "200.0 → 300.0",
            "2.00 (0.50-3.02)",
            "1.0, 3.0, 2.0",
            "2.0, 6.0, 4.0",
        ];
        assert_eq!(cells, expected);
        assert_eq!(HEAD.lines().next().map(|l| l.matches('|').count()), Some(row.matches('|').count()));
    }

    #[test]
    fn percentiles_are_values_that_were_seen() {
        let o = outcome(1..=10, 0);
        let at = |p| o.percentile(p).as_millis();
        assert_eq!([at(1.0), at(50.0), at(99.0), at(100.0)], [1, 5, 10, 10]);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 9.0]), 3.0);
        assert!(line(&o).starts_with("10 deliveries; p50 5.0 p99 10.0 max 10.0 ms"));
    }
}
