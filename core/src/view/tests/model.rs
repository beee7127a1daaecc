//! Random histories on the view and on a model that is nothing but ordered maps.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    /// Rows as (room, gap before the offset, length of place), and ids as (key, time passed).
    Add(Vec<(u8, u8, u8)>, Vec<(u8, u32)>),
    Flush,
    Reopen,
    /// Drop without a flush: what was not flushed is lost and added again.
    Crash,
    Trim(u8),
    Forget(u32),
    Query {
        room: u8,
        after: u16,
        before: u16,
        limit: u8,
        backward: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let rows = prop::collection::vec((0..4u8, 1..4u8, 0..40u8), 0..60);
    let ids = prop::collection::vec((0..20u8, 0..2_000_000u32), 0..6);
    let query = (0..5u8, 0..1500u16, 0..1500u16, 0..90u8, any::<bool>()).prop_map(
        |(room, after, before, limit, backward)| Step::Query {
            room,
            // Often without a bound.
            after: after.saturating_sub(500),
            before: before.saturating_sub(700),
            limit,
            backward,
        },
    );
    prop_oneof![
        6 => (rows, ids).prop_map(|(rows, ids)| Step::Add(rows, ids)),
        3 => Just(Step::Flush),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
        1 => any::<u8>().prop_map(Step::Trim),
        1 => (0..8_000_000u32).prop_map(Step::Forget),
        9 => query,
    ]
}

type Added = (Vec<(Arc<str>, u64, u64, Vec<u8>)>, Vec<(MessageKey, IdEntry)>, Checkpoint);

#[derive(Default)]
struct Model {
    rows: BTreeMap<String, BTreeMap<u64, (u64, Vec<u8>)>>,
    ids: BTreeMap<MessageKey, IdEntry>,
    sequence: u64,
    now: u64,
    trim: u64,
    forgotten: u64,
    /// Batches since the last flush.
    unflushed: Vec<Added>,
    flushed: Option<Checkpoint>,
}

impl Model {
    fn last(&self, room: &str) -> u64 {
        self.rows.get(room).and_then(|r| r.keys().next_back().copied()).unwrap_or(0)
    }

    fn add(&mut self, rows: &[(u8, u8, u8)], ids: &[(u8, u32)]) -> Added {
        let mut batch = Vec::new();
        for (room, gap, len) in rows {
            let room: Arc<str> = format!("room {room}").into();
            self.sequence += u64::from(*gap);
            let prev = self.last(&room);
            let place = vec![self.sequence as u8; usize::from(*len)];
            self.rows.entry(room.to_string()).or_default().insert(self.sequence, (prev, place.clone()));
            batch.push((room, self.sequence, prev, place));
        }
        let mut entries = Vec::new();
        for (key, passed) in ids {
            self.now += u64::from(*passed);
            let entry = (MessageKey(u128::from(*key) * 7), entry(self.now));
            self.ids.insert(entry.0, entry.1);
            entries.push(entry);
        }
        let added = (batch, entries, at(self.sequence));
        self.unflushed.push(added.clone());
        added
    }

    fn rows(&self, room: &str, q: RowQuery) -> Rows {
        let all = self.rows.get(room).cloned().unwrap_or_default();
        let kept: Vec<_> = all
            .iter()
            .filter(|(o, _)| **o >= self.trim)
            .map(|(&offset, (prev, place))| OwnedRow { offset, prev: *prev, place: place.clone().into() })
            .collect();
        let floor = kept.first().map_or(self.last(room), |r| r.prev);
        let mut rows: Vec<_> = kept
            .into_iter()
            .filter(|r| r.offset > q.after && (q.before == 0 || r.offset < q.before))
            .collect();
        let more = rows.len() > q.limit;
        if q.backward {
            rows.drain(..rows.len().saturating_sub(q.limit));
        }
        rows.truncate(q.limit);
        Rows { rows, more, floor }
    }
}

fn give(view: &View, (rows, ids, checkpoint): &Added) {
    let rows: Vec<_> = rows
        .iter()
        .map(|(room, offset, prev, place)| Row { room, offset: *offset, prev: *prev, place })
        .collect();
    view.add(0, &rows, ids, *checkpoint);
}

fn compare(view: &View, model: &Model) {
    for room in 0..5 {
        let room = format!("room {room}");
        assert_eq!(view.last(&room).unwrap(), model.last(&room));
        let all = RowQuery { limit: 10_000, ..RowQuery::default() };
        for q in [all, RowQuery { backward: true, ..all }] {
            assert_eq!(view.rows(&room, q).unwrap(), model.rows(&room, q));
        }
    }
    assert_eq!(view.rooms().unwrap(), model.rows.len() as u64);
    assert_eq!(view.checkpoint(0), model.flushed);
    for key in 0..20u128 {
        let key = MessageKey(key * 7);
        let expected = model.ids.get(&key).filter(|e| e.time >= model.forgotten).copied();
        assert_eq!(view.id(key, model.forgotten).unwrap(), expected);
    }
}

fn run(steps: Vec<Step>) {
    let dir = TempDir::new().unwrap();
    let mut model = Model::default();
    let mut views = vec![open(&dir), View::memory(ME, &settings(0))];
    for step in steps {
        match step {
            Step::Add(rows, ids) => {
                let added = model.add(&rows, &ids);
                views.iter().for_each(|v| give(v, &added));
            }
            Step::Flush => {
                views.iter().for_each(|v| assert!(!v.flush().unwrap().deferred));
                model.flushed = model.unflushed.pop().map(|last| last.2).or(model.flushed);
                model.unflushed.clear();
            }
            Step::Reopen | Step::Crash => {
                if matches!(step, Step::Reopen) {
                    views[0].close().unwrap();
                    views[1].flush().unwrap();
                    model.flushed = model.unflushed.pop().map(|last| last.2).or(model.flushed);
                    model.unflushed.clear();
                }
                drop(views.remove(0));
                let view = open(&dir);
                assert!(!view.was_rebuilt());
                assert_eq!(view.checkpoint(0), model.flushed);
                model.unflushed.iter().for_each(|added| give(&view, added));
                view.trim_below(0, model.trim).unwrap();
                view.forget_ids(model.forgotten, 0);
                views.insert(0, view);
            }
            Step::Trim(part) => {
                model.trim = model.trim.max(model.sequence * u64::from(part) / 230);
                views.iter().for_each(|v| v.trim_below(0, model.trim).unwrap());
            }
            Step::Forget(window) => {
                model.forgotten = model.forgotten.max(model.now.saturating_sub(u64::from(window)));
                views.iter().for_each(|v| v.forget_ids(model.now, u64::from(window)));
            }
            Step::Query { room, after, before, limit, backward } => {
                let room = format!("room {room}");
                let (after, before) = (u64::from(after), u64::from(before));
                let query = RowQuery { after, before, limit: usize::from(limit), backward };
                for view in &views {
                    assert_eq!(view.rows(&room, query).unwrap(), model.rows(&room, query), "{query:?}");
                }
            }
        }
    }
    views.iter().for_each(|v| compare(v, &model));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_view_answers_like_the_model(steps in prop::collection::vec(step(), 1..60)) {
        run(steps);
    }
}
