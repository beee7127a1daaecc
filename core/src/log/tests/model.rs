//! The log against a plain `Vec`, over random appends, restarts, segment sizes and retention.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Append { count: u64, time: u64 },
    Tick { now: u64 },
    Close,
    Kill,
    PowerCut,
    Settings { segment_bytes: u64, retain_bytes: u64, retain_age_ms: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let settings = (100u64..5000, prop_oneof![Just(0), 1000u64..20_000], prop_oneof![Just(0), 1u64..5000]);
    prop_oneof![
        8 => (1u64..40, 0u64..10_000).prop_map(|(count, time)| Step::Append { count, time }),
        3 => (0u64..12_000).prop_map(|now| Step::Tick { now }),
        1 => Just(Step::Close),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
        1 => settings.prop_map(|(segment_bytes, retain_bytes, retain_age_ms)| Step::Settings {
            segment_bytes,
            retain_bytes,
            retain_age_ms
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_a_vec(steps in prop::collection::vec(step(), 1..40), seed in any::<u64>(), from in 0u64..300) {
        let mut files = Arc::new(Faulty::new(seed));
        let mut options = small(1000);
        let mut log = open(&files, &options).unwrap();
        let mut model: Vec<Record> = Vec::new();
        for step in steps {
            match step {
                Step::Append { count, time } => {
                    let mut written = Vec::new();
                    log.append(&mut batch(model.len() as u64 + 1, count), time, &mut written).unwrap();
                    let times = model.last().map_or(0, |r| r.time()).max(time);
                    // A segment's making may hold the time up, but nothing else does.
                    prop_assert!(written.iter().all(|(r, _)| r.time() >= times));
                    model.extend(written.into_iter().map(|(r, _)| r));
                }
                Step::Tick { now } => {
                    let before = log.reader().first_sequence();
                    let dropped = log.tick(now).unwrap();
                    let first = log.reader().first_sequence();
                    prop_assert_eq!(dropped, (first > before).then_some(first));
                }
                Step::Close => {
                    log.close().unwrap();
                    log = open(&files, &options).unwrap();
                }
                Step::Kill | Step::PowerCut => {
                    drop(log);
                    if matches!(step, Step::PowerCut) {
                        files = Arc::new(files.cut_power());
                    }
                    log = open(&files, &options).unwrap();
                }
                Step::Settings { segment_bytes, retain_bytes, retain_age_ms } => {
                    drop(log);
                    options = Storage { segment_bytes, retain_bytes, retain_age_ms, ..options };
                    log = open(&files, &options).unwrap();
                }
            }
            prop_assert_eq!(log.state(), State::Good);
            prop_assert_eq!(log.next_sequence(), model.len() as u64 + 1);
        }
        let reader = log.reader();
        let first = reader.first_sequence().max(from);
        let want: Vec<Record> = model.into_iter().filter(|r| r.offset() >= first).collect();
        prop_assert_eq!(all(&reader, from), want);
    }
}
