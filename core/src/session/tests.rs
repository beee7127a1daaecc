//! Any sequence of commands, answers and closes, against a small model of what a session may do.

use super::*;
use crate::command::{History, Start};
use proptest::prelude::*;
use std::borrow::Cow;
use std::collections::BTreeSet;

const ROOMS: [&str; 4] = ["a", "b", "c", "default"];

#[derive(Clone, Debug)]
enum Step {
    Connect {
        room: bool,
        user: bool,
    },
    Join(Option<usize>),
    Leave(Option<usize>),
    Publish(Option<usize>, bool),
    Signal(Option<usize>),
    History(Option<usize>),
    Presence(Option<usize>),
    Ping,
    /// A malformed frame, or one with a name that cannot be one.
    Refused {
        malformed: bool,
        /// It was a connect.
        connect: bool,
    },
    /// What is waited for comes: yes or no.
    Answer(bool),
    /// A publish under way has got its outcome.
    Settled,
    /// The host takes the session out of a room.
    Evict(usize),
    Close,
    /// Milliseconds pass.
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let room = || prop::option::weighted(0.7, 0..ROOMS.len());
    prop_oneof![
        1 => (any::<bool>(), any::<bool>()).prop_map(|(room, user)| Step::Connect { room, user }),
        4 => room().prop_map(Step::Join),
        3 => room().prop_map(Step::Leave),
        6 => (room(), any::<bool>()).prop_map(|(r, id)| Step::Publish(r, id)),
        2 => room().prop_map(Step::Signal),
        2 => room().prop_map(Step::History),
        1 => room().prop_map(Step::Presence),
        1 => Just(Step::Ping),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(malformed, connect)| Step::Refused { malformed, connect: malformed || connect }),
        8 => prop::bool::weighted(0.8).prop_map(Step::Answer),
        5 => Just(Step::Settled),
        1 => (0..ROOMS.len()).prop_map(Step::Evict),
        1 => prop::bool::weighted(0.05).prop_map(|close| if close { Step::Close } else { Step::Ping }),
        2 => (0u16..2000).prop_map(Step::Wait),
    ]
}

fn policy() -> impl Strategy<Value = Policy> {
    (any::<bool>(), any::<bool>(), any::<bool>(), 1usize..4, 1usize..4, 0u32..4, 0u32..6, 1u32..6).prop_map(
        |(authorizer, publish_hook, open_users, rooms, pending, bad, rate, burst)| {
            let limits = Limits {
                rooms_per_connection: rooms,
                pending_publishes: pending,
                bad_requests: bad,
                publish_rate: rate,
                publish_burst: burst,
                request_rate: rate * 2,
                ..Limits::default()
            };
            Policy { limits, authorizer, publish_hook, open_users }
        },
    )
}

/// What is waited for.
#[derive(Clone, Debug, PartialEq)]
enum Waits {
    Connect(Ref),
    Join(Arc<str>, JoinOptions, Ref),
    Publish(Message),
    Read(Ref),
    /// A join that the shard could not start from memory.
    Start(Arc<str>, Ref),
}

/// The model: what a reader of protocol.md knows.
#[derive(Default)]
struct Model {
    connected: bool,
    /// The first frame was to say who it is, and did not.
    first_refused: bool,
    welcomed: bool,
    closed: bool,
    default_room: bool,
    user: &'static str,
    members: BTreeSet<Arc<str>>,
    pending: usize,
    bad: u32,
    waits: Option<Waits>,
    /// Refs that were asked with and not answered.
    open: BTreeSet<u64>,
    /// Refs of publishes under way, in order.
    appended: Vec<Ref>,
    refs: u64,
}

impl Model {
    fn reference(&mut self) -> Ref {
        self.refs += 1;
        self.open.insert(self.refs);
        Some(self.refs)
    }

    fn answered(&mut self, reference: Ref) {
        if let Some(r) = reference {
            assert!(self.open.remove(&r), "ref {r} was answered twice, or never asked with");
        }
    }

    fn busy(&self, policy: &Policy) -> bool {
        self.waits.is_some() || self.pending >= policy.limits.pending_publishes
    }

    /// What the shard does where it cannot start a member's stream at once.
    fn start(&self, session: &mut Session) {
        if matches!(self.waits, Some(Waits::Start(..))) {
            session.wait();
        }
    }

    /// Looks at what came out; nothing of it may contradict what is known.
    fn see(&mut self, effects: Vec<Effect>, policy: &Policy) {
        for effect in effects {
            assert!(!self.closed, "{effect:?} after the close");
            if !matches!(
                effect,
                Effect::AskConnect { .. } | Effect::Close(..) | Effect::Fail(_) | Effect::Hit(_)
            ) {
                assert!(self.connected, "{effect:?} before the connect");
                assert!(
                    self.welcomed || matches!(effect, Effect::Welcome { .. }),
                    "{effect:?} before the welcome"
                );
            }
            match effect {
                Effect::Welcome { reference } => {
                    assert!(!std::mem::replace(&mut self.welcomed, true), "welcomed twice");
                    self.answered(reference);
                }
                Effect::Pong { reference }
                | Effect::Presence { reference, .. }
                | Effect::Signal { reference, .. } => {
                    self.answered(reference);
                }
                Effect::Fail(f) => {
                    // Before the welcome only the refusal of the connection itself.
                    let refusal = f.error.code() == Code::Denied || self.first_refused;
                    assert!(self.welcomed || refusal, "{f:?} before the welcome");
                    assert!(f.publish || f.id.is_none());
                    self.answered(f.reference);
                }
                Effect::AskConnect { .. } => {
                    assert!(policy.authorizer && !self.welcomed);
                    assert_eq!(self.waits.replace(Waits::Connect(None)), None);
                }
                Effect::AskJoin { room, options, reference } => {
                    assert!(policy.authorizer && !self.members.contains(&room));
                    assert_eq!(self.waits.replace(Waits::Join(room, options, reference)), None);
                }
                Effect::Join { room, reference, options } => {
                    assert!(self.members.insert(room.clone()), "joined twice");
                    assert!(self.members.len() <= policy.limits.rooms_per_connection);
                    if options.start == Start::Live {
                        self.answered(reference);
                    } else {
                        assert_eq!(self.waits.replace(Waits::Start(room, reference)), None);
                    }
                }
                Effect::Leave { membership, reference } => {
                    assert!(self.members.remove(&membership.room), "left without being in it");
                    self.answered(reference);
                }
                Effect::AskPublish(m) => {
                    assert!(policy.publish_hook);
                    assert_eq!(self.waits.replace(Waits::Publish(m)), None);
                }
                Effect::Append(m) => {
                    self.pending += 1;
                    assert!(
                        self.pending <= policy.limits.pending_publishes,
                        "past the limit of pending publishes"
                    );
                    self.appended.push(m.reference);
                }
                Effect::History { reference, .. } => {
                    assert_eq!(self.waits.replace(Waits::Read(reference)), None);
                }
                Effect::Hit(_) => {}
                Effect::Close(..) => self.closed = true,
            }
        }
    }
}

fn room(r: &Option<usize>) -> Option<Cow<'static, str>> {
    r.map(|r| Cow::Borrowed(ROOMS[r]))
}

fn request(step: &Step, model: &mut Model, deep: bool) -> Option<Command<'static>> {
    let start = if deep { Start::History(5) } else { Start::Live };
    let options = JoinOptions { start, ..JoinOptions::default() };
    Some(match step {
        Step::Connect { room, user } => Command::Connect(Connect {
            reference: model.reference(),
            room: room.then_some(Cow::Borrowed("default")),
            user: user.then_some(Cow::Borrowed("ann")),
            token: None,
            options,
        }),
        Step::Join(r) => Command::Join(Join { reference: model.reference(), room: room(r), options }),
        Step::Leave(r) => Command::Leave { reference: model.reference(), room: room(r) },
        Step::Publish(r, id) => Command::Publish(Publish {
            reference: model.reference(),
            room: room(r),
            id: id.then_some(Cow::Borrowed("id")),
            kind: Kind::Json,
            data: Cow::Borrowed(b"1"),
        }),
        Step::Signal(r) => Command::Signal(Signal {
            reference: model.reference(),
            room: room(r),
            name: "n".into(),
            data: "1",
        }),
        Step::History(r) => Command::History(History {
            reference: model.reference(),
            room: room(r),
            query: HistoryQuery::default(),
        }),
        Step::Presence(r) => Command::Presence { reference: model.reference(), room: room(r) },
        Step::Ping => Command::Ping { reference: model.reference() },
        _ => return None,
    })
}

/// What must come of a request, where the model knows it exactly: the code of its refusal, or none.
fn expected(step: &Step, model: &Model, policy: &Policy) -> Option<Code> {
    let named = |r: &Option<usize>| match r {
        Some(r) => Some(ROOMS[*r]),
        None => model.default_room.then_some("default"),
    };
    match step {
        Step::Connect { .. } if model.connected => Some(Code::BadRequest),
        Step::Join(r)
        | Step::Leave(r)
        | Step::Signal(r)
        | Step::History(r)
        | Step::Presence(r)
        | Step::Publish(r, _)
            if named(r).is_none() =>
        {
            Some(Code::NoRoom)
        }
        Step::Join(r) if named(r).is_some_and(|n| model.members.contains(n)) => Some(Code::AlreadyJoined),
        Step::Join(_) if model.members.len() >= policy.limits.rooms_per_connection => {
            Some(Code::TooManyRooms)
        }
        Step::Leave(r) | Step::Signal(r) if named(r).is_some_and(|n| !model.members.contains(n)) => {
            Some(Code::NotJoined)
        }
        _ => None,
    }
}

fn answer(yes: bool, session: &mut Session, model: &mut Model, policy: &Policy, out: &mut Vec<Effect>) {
    let denied = || Error::new(Code::Denied, "no");
    match model.waits.take() {
        None => {}
        Some(Waits::Connect(_)) => {
            let answer = if yes { Ok("host's name".into()) } else { Err(denied()) };
            session.connect_answered(answer, policy, out);
        }
        Some(Waits::Join(room, options, reference)) => {
            let answer = if yes { Ok(()) } else { Err(denied()) };
            session.join_answered(room, options, reference, answer, out);
        }
        Some(Waits::Publish(message)) => {
            let answer = if yes { Ok(None) } else { Err(denied()) };
            session.publish_answered(message, answer, policy, out);
        }
        Some(Waits::Read(reference) | Waits::Start(_, reference)) => {
            session.done_waiting();
            model.answered(reference);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// - the first effect for the client is the welcome, and it comes once; connect is taken once, as the first command;
    /// - no effect after the close;
    /// - each ref is answered at most once, and once everything that was waited for has come, exactly once;
    /// - memberships are what was joined and not left, within the limit;
    /// - one hook or read at a time, pending publishes within the limit, and busy exactly then;
    /// - what must be refused is refused with its code, and what need not be is refused only by a rate.
    #[test]
    fn any_sequence_agrees_with_the_model(
        policy in policy(),
        steps in prop::collection::vec((step(), any::<bool>()), 1..120),
    ) {
        let mut session = Session::new();
        let mut model = Model::default();
        let mut held: Option<(Step, bool)> = None;
        let mut now = 1_000_000u64;
        // In the end everything that is waited for comes.
        let ending = std::iter::repeat_n([(Step::Answer(true), false), (Step::Settled, false)], 130).flatten();
        for (step, deep) in steps.into_iter().chain(ending) {
            let mut out = Vec::new();
            match step {
                Step::Answer(yes) => {
                    let opened = matches!(model.waits, Some(Waits::Connect(_))) && yes;
                    answer(yes, &mut session, &mut model, &policy, &mut out);
                    if opened {
                        model.user = "host's name";
                    }
                }
                Step::Settled => {
                    if !model.appended.is_empty() {
                        let reference = model.appended.remove(0);
                        session.settled();
                        model.pending -= 1;
                        model.answered(reference);
                    }
                }
                Step::Evict(r) => {
                    let gone = session.forget(ROOMS[r]).is_some();
                    prop_assert_eq!(gone, model.members.remove(ROOMS[r]));
                    // A join that was not answered never will be: nothing waits for it any more.
                    if matches!(&model.waits, Some(Waits::Start(room, _)) if &**room == ROOMS[r]) {
                        answer(true, &mut session, &mut model, &policy, &mut out);
                    }
                }
                Step::Close => session.close(Disconnect::Kicked, "", &mut out),
                Step::Wait(ms) => now += u64::from(ms),
                step => {
                    if !session.is_busy(&policy) {
                        act(&step, deep, &mut session, &mut model, &policy, now, &mut out, &mut held);
                    }
                }
            }
            model.see(out, &policy);
            model.start(&mut session);
            // A first frame that had to wait is given again.
            if held.is_some() && (model.closed || !session.is_busy(&policy)) {
                let mut out = Vec::new();
                if let Some((step, deep)) = held.take() {
                    act(&step, deep, &mut session, &mut model, &policy, now, &mut out, &mut held);
                }
                prop_assert!(held.is_none(), "it waits once");
                model.see(out, &policy);
                model.start(&mut session);
            }
            let members: BTreeSet<Arc<str>> = session.memberships().iter().map(|m| m.room.clone()).collect();
            prop_assert_eq!(&members, &model.members);
            prop_assert_eq!(session.memberships().len(), members.len());
            prop_assert_eq!(session.is_new(), !model.connected && !model.closed);
            if !model.closed {
                prop_assert_eq!(session.is_busy(&policy), model.busy(&policy));
                if model.welcomed {
                    prop_assert_eq!(&**session.user(), model.user);
                }
            }
        }
        if !model.closed {
            prop_assert!(model.open.is_empty(), "never answered: {:?}", model.open);
        }
    }
}

#[allow(clippy::too_many_arguments)]
fn act(
    step: &Step,
    deep: bool,
    session: &mut Session,
    model: &mut Model,
    policy: &Policy,
    now: u64,
    out: &mut Vec<Effect>,
    held: &mut Option<(Step, bool)>,
) {
    let refs = model.refs;
    let known = expected(step, model, policy);
    let taken = match step {
        Step::Refused { malformed, connect } => {
            model.first_refused = *connect && session.is_new();
            let code = if *malformed { Code::BadRequest } else { Code::InvalidName };
            let reference = model.reference();
            let failure = Failure::new(Error::new(code, ""), reference);
            session.refused(failure, *connect, policy, out)
        }
        step => match request(step, model, deep) {
            Some(command) => session.command(command, policy, now, out),
            None => return,
        },
    };
    if model.closed {
        assert!(taken && out.is_empty());
        return;
    }
    let first = !std::mem::replace(&mut model.connected, true);
    if first && let Step::Connect { room, user } = step {
        model.default_room = *room;
        if *user && policy.open_users && !policy.authorizer {
            model.user = "ann";
        }
    }
    if !taken {
        assert!(first && policy.authorizer && !matches!(step, Step::Connect { .. }));
        // Given again, it gets its ref again.
        model.open.retain(|r| *r <= refs);
        *held = Some((step.clone(), deep));
        return;
    }
    let refused = out.iter().rev().find_map(|e| match e {
        Effect::Fail(f) => Some(f.error.code()),
        _ => None,
    });
    match (known, refused) {
        (Some(known), Some(code)) => {
            assert!(code == known || code == Code::RateLimited, "{code} instead of {known}")
        }
        (Some(known), None) => panic!("{step:?} was not refused with {known}"),
        (None, Some(code)) => assert!(
            code == Code::RateLimited || matches!(step, Step::Refused { .. }),
            "{step:?} was refused with {code}"
        ),
        (None, None) => {}
    }
    let closes = out.iter().any(|e| matches!(e, Effect::Close(..)));
    if model.first_refused {
        assert!(first && closes && out.len() == 2, "an error, the close, and nothing else: {out:?}");
        return;
    }
    let bad = matches!(step, Step::Refused { malformed: true, .. }) || known == Some(Code::BadRequest);
    model.bad += u32::from(bad);
    assert_eq!(closes, bad && model.bad > policy.limits.bad_requests, "after {} malformed", model.bad);
}
