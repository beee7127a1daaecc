//! Retries, resumes and leaves, in the moments that went wrong elsewhere. R10 is `tests/joins.rs`.

use crate::{Guest, Victim};
use klatch::{Engine, HistoryQuery, Message, Start};
use klatch_harness::process::Server;
use klatch_suite::history::history;
use klatch_suite::strace::Tracer;
use klatch_suite::ws::get;
use klatch_suite::{Launch, server};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ROOM: &str = "lobby";

fn connect(server: &Server, user: &str) -> Guest {
    Guest::connect(server.address(), &format!("user={user}"))
}

fn join(guest: &mut Guest, since: Option<u64>, epoch: Option<&str>) -> Value {
    let mut frame = json!({"type": "join", "room": ROOM});
    frame["since"] = since.into();
    frame["epoch"] = epoch.into();
    guest.send(&frame);
    guest.next_of("joined")
}

fn m1(data: &str) -> String {
    format!(r#"{{"type":"publish","ref":1,"room":"{ROOM}","id":"m1","data":{data}}}"#)
}

/// The offset in the answer to a publish, be it an ack or a publication.
fn offset(guest: &mut Guest) -> u64 {
    let answer = guest.next();
    assert!(answer["type"] == "ack" || answer["type"] == "publication", "{answer}");
    answer["offset"].as_u64().unwrap()
}

fn stored(server: &Server) -> usize {
    history(&server.url(), ROOM, 500).publications.len()
}

/// A retry after a reconnect was a message of its own: one event was handled four times (socket.io#5334).
#[test]
fn r09_a_retry_is_the_same_message() {
    let dir = tempfile::tempdir().unwrap();
    let launch = Launch::new(dir.path()).set("shards", 2);
    let first = launch.start();
    let mut member = connect(&first, "bob");
    join(&mut member, None, None);
    // Sent and gone: nobody has read an answer.
    let mut gone = connect(&first, "ann");
    gone.text(&m1("\"hello\""));
    drop(gone);
    // On three new connections, two of them at once; one a member, which gets its own publication or an ack.
    let (mut a, mut b, mut c) = (connect(&first, "ann"), connect(&first, "ann"), connect(&first, "ann"));
    join(&mut c, None, None);
    c.until_pong();
    std::thread::scope(|threads| {
        for guest in [&mut a, &mut b] {
            threads.spawn(|| guest.text(&m1("\"hello\"")));
        }
    });
    let at = offset(&mut a);
    assert_eq!(offset(&mut b), at);
    c.text(&m1("\"hello\""));
    let ack = c.next_of("ack");
    assert_eq!((&ack["offset"], &ack["duplicate"]), (&json!(at), &json!(true)));
    // Ten at once, and ten on one connection.
    let mut crowd: Vec<Guest> = (0..10).map(|_| connect(&first, "ann")).collect();
    crowd.iter_mut().for_each(|guest| guest.text(&m1("\"hello\"")));
    (0..10).for_each(|_| crowd[0].text(&m1("\"hello\"")));
    (0..10).for_each(|_| assert_eq!(offset(&mut crowd[0]), at));
    crowd.iter_mut().for_each(|guest| assert_eq!(offset(guest), at));
    // Another body: refused, to whoever sends it, and delivered to nobody.
    for guest in [&mut a, &mut c] {
        for data in ["\"Hello\"", "\"hello \"", "1", " \"hel\\u006co\""] {
            guest.text(&m1(data));
            let refused = guest.next();
            assert_eq!(
                (&refused["name"], &refused["outcome"]),
                (&json!("conflict"), &json!("not_stored")),
                "{data}"
            );
        }
        guest.text(&m1("\"hello\"").replace("data", "bytes").replace("hello", "aGVsbG8="));
        assert_eq!(guest.next()["name"], "conflict");
    }
    // Two at once with different bodies: one is stored, whichever it is.
    for n in 0..20 {
        let with = |data: &str| m1(data).replace("m1", &format!("race{n}"));
        std::thread::scope(|threads| {
            threads.spawn(|| a.text(&with("1")));
            threads.spawn(|| b.text(&with("2")));
        });
        let answers = [a.next(), b.next()];
        let kinds: Vec<_> = answers.iter().map(|f| f["name"].as_str().unwrap_or("stored")).collect();
        assert!(kinds == ["stored", "conflict"] || kinds == ["conflict", "stored"], "{answers:?}");
    }
    // Another user's or room's is another message.
    let mut eve = connect(&first, "eve");
    eve.text(&m1("1"));
    assert!(offset(&mut eve) > at);
    let seen: Vec<Value> = member.until_pong();
    assert_eq!(seen.iter().filter(|f| f["id"] == "m1" && f["user"] == "ann").count(), 1, "{seen:?}");
    assert_eq!(stored(&first), 22);
    let before = history(&first.url(), ROOM, 500);
    // Again after a stop, and after a kill, two at once each time.
    server::stop(first);
    let mut second = launch.start();
    for _ in 0..2 {
        let (mut a, mut b) = (connect(&second, "ann"), connect(&second, "ann"));
        a.text(&m1("\"hello\""));
        b.text(&m1("\"hello\""));
        for guest in [&mut a, &mut b] {
            let ack = guest.next();
            assert_eq!((&ack["offset"], &ack["duplicate"]), (&json!(at), &json!(true)));
            guest.text(&m1("\"other\""));
            assert_eq!(guest.next()["name"], "conflict");
        }
        assert_eq!(history(&second.url(), ROOM, 500), before);
        second.kill().unwrap();
        second = launch.start();
    }
    assert_eq!(history(&second.url(), ROOM, 500), before);
}

/// The first answer is lost with the whole server, at any moment.
#[test]
fn r09_a_retry_finds_what_a_killed_server_stored() {
    let dir = tempfile::tempdir().unwrap();
    let launch = Launch::new(dir.path());
    let mut server = launch.start();
    for n in 0..20 {
        let mut ann = connect(&server, "ann");
        let text = format!(r#"{{"type":"publish","room":"{ROOM}","id":"{n}","data":{n}}}"#);
        ann.text(&text);
        if n % 2 == 0 {
            // Not read, but stored: so is what came before it.
            let mut bob = connect(&server, "bob");
            while stored(&server) <= n {
                bob.until_pong();
            }
        }
        server.kill().unwrap();
        server = launch.start();
        let (mut a, mut b) = (connect(&server, "ann"), connect(&server, "ann"));
        a.text(&text);
        b.text(&text);
        assert_eq!(offset(&mut a), offset(&mut b));
        assert_eq!(stored(&server), n + 1);
    }
}

/// A send that was given up was reported as failed, and delivered all the same (tokio-tungstenite#344, otel-arrow#4129,
/// rust-rdkafka#676).
#[test]
fn x10_an_outcome_that_is_late_is_unknown_and_a_retry_is_one_message() {
    let dir = tempfile::tempdir().unwrap();
    let server = Launch::new(dir.path()).set("limits.publish_timeout_ms", 100).start();
    let mut member = connect(&server, "bob");
    join(&mut member, None, None);
    let mut ann = connect(&server, "ann");
    let stall = || {
        Tracer::attach(server.id(), &["-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=2000000"])
    };
    let tracer = stall();
    ann.text(&m1("\"hello\""));
    // The same again while it stalls, here and on another connection, until there is an answer: it is one. Before that the log
    // may be held up by what it notes beside, and then it is certain that the message was not written.
    let mut other = connect(&server, "ann");
    let mut unknown = 0;
    let mut settle = |guest: &mut Guest| {
        loop {
            let answer = guest.next();
            assert_eq!((&answer["ref"], &answer["id"]), (&json!(1), &json!("m1")));
            match (answer["type"].as_str(), answer["outcome"].as_str(), answer["retry"].as_str()) {
                (Some("ack"), ..) => return answer["offset"].as_u64().unwrap(),
                (Some("error"), Some("unknown"), Some("same_id")) => unknown += 1,
                (Some("error"), Some("not_stored"), Some("later")) => {}
                _ => panic!("{answer}"),
            }
            guest.text(&m1("\"hello\""));
        }
    };
    let at = settle(&mut ann);
    other.text(&m1("\"hello\""));
    assert_eq!(settle(&mut other), at);
    assert!(unknown >= 1, "the log did not stall");
    tracer.detach();
    ann.text(&m1("\"other\""));
    assert_eq!(ann.next()["name"], "conflict");
    assert_eq!(stored(&server), 1);
    let seen = member.until_pong();
    assert_eq!(seen.len(), 1, "{seen:?}");
    // A client that goes while its message waits: it is stored or not, and the retry is the same message.
    let tracer = stall();
    let text = m1("\"bye\"").replace("m1", "m2");
    other.text(&text);
    drop(other);
    tracer.detach();
    let mut again = connect(&server, "ann");
    again.text(&text);
    offset(&mut again);
    assert_eq!(stored(&server), 2);
    // What waited in the queue and was taken out of it is not stored, and said to be so; or unknown, but nothing else.
    let tracer = stall();
    let mut many = connect(&server, "ann");
    for n in 0..50 {
        many.text(&format!(r#"{{"type":"publish","room":"{ROOM}","id":"q{n}","data":{n}}}"#));
        // One by one, so that the first is being written before the others come.
        many.until_pong();
    }
    let mut refused = Vec::new();
    let began = Instant::now();
    let mut answered = many_answers(&mut many, 50, &mut refused);
    assert!(began.elapsed() < Duration::from_secs(60));
    answered.sort_unstable();
    tracer.detach();
    // One that comes last is behind all of them.
    let mut last = connect(&server, "last");
    last.text(&m1("0"));
    offset(&mut last);
    let ids: Vec<String> = history(&server.url(), ROOM, 500)
        .publications
        .iter()
        .filter_map(|p| serde_json::from_str::<Value>(p).unwrap()["id"].as_str().map(str::to_owned))
        .collect();
    for id in &refused {
        assert!(!ids.contains(id), "{id} was said not to be stored");
    }
}

/// Reads the answers of so many publishes: the ids of those whose outcome is unknown or stored; `refused` gets the others.
fn many_answers(guest: &mut Guest, count: usize, refused: &mut Vec<String>) -> Vec<String> {
    let mut open = Vec::new();
    while open.len() + refused.len() < count {
        let answer = guest.next();
        let id = answer["id"].as_str().unwrap().to_owned();
        match answer["outcome"].as_str() {
            Some("not_stored") => refused.push(id),
            Some("unknown") | None => open.push(id),
            other => panic!("{other:?}"),
        }
    }
    open
}

/// The host's own publish, whose future is dropped.
#[test]
fn x10_a_publish_whose_answer_nobody_awaits_is_one_message() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::builder().log(dir.path().to_str().unwrap()).start().unwrap();
    for n in 0..200 {
        let message = || Message::json(ROOM, &n.to_string()).user("host").id(&n.to_string());
        drop(engine.publish(message()));
        let ack = engine.publish(message()).wait().unwrap();
        assert_eq!(engine.publish(message()).wait().unwrap().position, ack.position);
        let page =
            engine.history(ROOM, HistoryQuery { after: 0, limit: 500, ..HistoryQuery::default() }).unwrap();
        assert_eq!(page.publications.len(), n + 1);
    }
}

/// A resume from another life of the server's log went on for ever (mattermost#30388).
#[test]
fn x11_positions_of_another_life_are_reset_once() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let epoch = |server: &Server| history(&server.url(), ROOM, 1).epoch;
    let publish = |server: &Server, room: &str, n: u64| {
        let mut host = connect(server, "host");
        host.send(&json!({"type": "publish", "ref": n, "room": room, "data": n}));
        host.next_of("ack")["offset"].as_u64().unwrap()
    };
    let first = Launch::new(old.path()).start();
    for n in 0..20 {
        publish(&first, ROOM, n);
    }
    let (earlier, other) = (epoch(&first), history(&first.url(), "other", 1).epoch);
    assert_ne!(earlier, other);
    server::stop(first);
    let second = Launch::new(new.path()).start();
    let now = epoch(&second);
    assert_ne!(now, earlier, "another log is another epoch");
    let offsets: Vec<u64> = (0..5).map(|n| publish(&second, ROOM, n)).collect();
    let last = *offsets.last().unwrap();
    let elsewhere = history(&second.url(), "other", 1).epoch;
    for (since, epoch) in [
        (10, Some(&*earlier)),
        (1, Some(&*earlier)),
        (0, Some(&*earlier)),
        (last, Some(&*earlier)),
        (10, Some(&*other)),
        (last, Some(&*elsewhere)),
        (1, Some("0000000000000000")),
        (1, Some("ffffffffffffffff")),
        (last + 1000, Some(&*now)),
        (last + 1000, None),
        ((1 << 53) + 1, Some(&*now)),
        (i64::MAX as u64, Some(&*now)),
        (i64::MAX as u64, None),
        (i64::MAX as u64 + 1, None),
        (u64::MAX - 1, Some(&*now)),
        (u64::MAX, Some(&*now)),
        (u64::MAX, None),
        (u64::MAX, Some(&*earlier)),
    ] {
        let what = format!("since {since} of {epoch:?}");
        let mut ann = connect(&second, "ann");
        let joined = join(&mut ann, Some(since), epoch);
        assert_eq!((&joined["recovered"], &joined["epoch"]), (&json!(false), &json!(now)), "{what}");
        // One reset, and then live: what is published next comes next.
        let next = publish(&second, ROOM, 7);
        let got = ann.next();
        assert_eq!((&got["type"], &got["offset"]), (&json!("publication"), &json!(next)), "{what}: {got}");
        // And what the reset told is a position to come back with.
        drop(ann);
        let mut ann = connect(&second, "ann");
        let joined = join(&mut ann, Some(next), joined["epoch"].as_str());
        assert_eq!(joined["recovered"], true, "{what}, the second time");
        assert!(ann.until_pong().is_empty());
    }
    // By the query too, with history in its place.
    let mut ann = Guest(
        klatch_suite::ws::Ws::open(
            second.address(),
            &format!("/ws?user=ann&room={ROOM}&since=10&epoch={earlier}&history=3"),
            &[],
            &[],
        )
        .unwrap()
        .unwrap()
        .0,
    );
    assert_eq!(ann.next_of("joined")["recovered"], false);
    assert_eq!(ann.until_pong().len(), 3);
    // What is no number of 64 bits is refused, not taken for another.
    for since in ["18446744073709551616", "-1", "1e3", "1.0", "\"10\"", "[]"] {
        let mut ann = connect(&second, "ann");
        ann.text(&format!(r#"{{"type":"join","ref":1,"room":"{ROOM}","since":{since}}}"#));
        assert_eq!(ann.next()["name"], "bad_request", "{since}");
    }
}

/// The same for a host's subscription.
#[test]
fn x11_a_subscription_from_another_life_is_reset_once() {
    let (old, new) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let start =
        |dir: &tempfile::TempDir| Engine::builder().log(dir.path().to_str().unwrap()).start().unwrap();
    let first = start(&old);
    let earlier = first.publish(Message::json(ROOM, "1")).wait().unwrap().position;
    drop(first);
    let second = start(&new);
    let mut now = earlier.clone();
    for n in 0..5 {
        now = second.publish(Message::json(ROOM, &n.to_string())).wait().unwrap().position;
    }
    let elsewhere = second.publish(Message::json("other", "1")).wait().unwrap().position;
    for (epoch, offset) in [
        (Some(earlier.epoch), earlier.offset),
        (Some(earlier.epoch), 10),
        (Some(elsewhere.epoch), now.offset),
        (Some(now.epoch), now.offset + 1000),
        (None, now.offset + 1000),
        (Some(now.epoch), i64::MAX as u64),
        (None, i64::MAX as u64 + 1),
        (Some(now.epoch), u64::MAX),
        (None, u64::MAX),
    ] {
        let what = format!("{offset} of {epoch:?}");
        let mut subscription = second.subscribe(ROOM, Start::Since { epoch, offset, history: 2 }).unwrap();
        assert!(!subscription.recovered(), "{what}");
        let batch = subscription.next_batch(10, Duration::from_secs(10)).unwrap();
        assert_eq!(batch.len(), 2, "{what}: the newest two in its place");
        let next = second.publish(Message::json(ROOM, "9")).wait().unwrap().position;
        let batch = subscription.next_batch(10, Duration::from_secs(10)).unwrap();
        assert_eq!(
            batch.iter().map(|p| p.offset()).collect::<Vec<_>>(),
            [next.offset],
            "{what}: and then live"
        );
        let mut again = second
            .subscribe(ROOM, Start::Since { epoch: Some(next.epoch), offset: next.offset, history: 2 })
            .unwrap();
        assert!(again.recovered(), "{what}, the second time");
        assert!(again.next_batch(10, Duration::ZERO).unwrap().is_empty());
    }
}

/// Pages of history at the ends of what a number can be, by every door.
#[test]
fn x11_history_from_any_offset_is_a_page() {
    let dir = tempfile::tempdir().unwrap();
    for log in ["memory", dir.path().to_str().unwrap()] {
        let settings = serde_json::from_value(json!({"limits": {"request_rate": 0}})).unwrap();
        let builder = Engine::builder().settings(settings).log(log).listen("127.0.0.1:0");
        let engine = builder.start().unwrap();
        let offsets: Vec<u64> = (0..5)
            .map(|n| engine.publish(Message::json(ROOM, &n.to_string())).wait().unwrap().position.offset)
            .collect();
        let mut ann = Guest::connect(engine.addresses()[0], "user=ann");
        let last = *offsets.last().unwrap();
        let ends = [
            0,
            1,
            last - 1,
            last,
            last + 1,
            u32::MAX.into(),
            1 << 53,
            i64::MAX as u64,
            i64::MAX as u64 + 1,
            u64::MAX - 1,
            u64::MAX,
        ];
        for after in ends {
            for before in ends {
                for backward in [false, true] {
                    let mut expected: Vec<u64> = offsets
                        .iter()
                        .copied()
                        .filter(|o| *o > after && (before == 0 || *o < before))
                        .collect();
                    if backward {
                        expected.reverse();
                    }
                    let what = format!("after={after}&before={before}&backward={backward}");
                    let query = HistoryQuery { after, before, backward, ..HistoryQuery::default() };
                    let page = engine.history(ROOM, query).unwrap();
                    let got: Vec<u64> = page.publications.iter().map(|p| p.offset()).collect();
                    assert_eq!((got, page.more, page.last), (expected.clone(), false, last), "{what}");
                    let offsets = |page: &Value| -> Vec<u64> {
                        assert_eq!((&page["more"], &page["last"]), (&json!(false), &json!(last)), "{what}");
                        page["publications"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .map(|p| p["offset"].as_u64().unwrap())
                            .collect()
                    };
                    ann.send(&json!({"type": "history", "room": ROOM, "after": after, "before": before, "backward": backward}));
                    assert_eq!(offsets(&ann.next()), expected, "{what}");
                    let answer =
                        get(engine.addresses()[0], &format!("/rooms/{ROOM}/history?{what}")).unwrap();
                    assert_eq!(offsets(&serde_json::from_str(&answer.body).unwrap()), expected, "{what}");
                }
            }
        }
        for at_least in [last + 1, i64::MAX as u64, u64::MAX] {
            ann.send(&json!({"type": "history", "room": ROOM, "at_least": at_least}));
            let refused = ann.next();
            assert_eq!(
                (&refused["name"], &refused["retry"]),
                (&json!("unavailable"), &json!("later")),
                "{refused}"
            );
            let path = format!("/rooms/{ROOM}/history?at_least={at_least}");
            assert_eq!(get(engine.addresses()[0], &path).unwrap().status, 503);
        }
    }
}

/// Leaving the last room threw away what had been accepted for that member (oven-sh/bun#32852).
#[test]
fn x12_what_was_published_before_a_leave_is_settled() {
    let dir = tempfile::tempdir().unwrap();
    for (log, shards) in [
        ("memory".to_owned(), 1),
        ("memory".to_owned(), 2),
        (dir.path().join("log").display().to_string(), 2),
    ] {
        let server = Launch::new(log.as_ref()).set("shards", shards).start();
        let mut bob = connect(&server, "bob");
        join(&mut bob, None, None);
        let mut all: Vec<String> = Vec::new();
        for round in 0..20 {
            let mut ann = connect(&server, "ann");
            join(&mut ann, None, None);
            if round % 2 == 0 {
                // Not its last room.
                ann.send(&json!({"type": "join", "room": "second"}));
                ann.next_of("joined");
            }
            let ids: Vec<String> = (0..5).map(|n| format!("{round}.{n}")).collect();
            let frames: Vec<u8> = ids
                .iter()
                .map(|id| format!(r#"{{"type":"publish","room":"{ROOM}","id":"{id}","data":1}}"#))
                .chain([format!(r#"{{"type":"leave","ref":9,"room":"{ROOM}"}}"#)])
                .flat_map(|text| crate::frame(true, 1, text.as_bytes()))
                .collect();
            ann.0.write(&frames).unwrap();
            let (mut left, mut settled) = (false, Vec::new());
            while settled.len() < 5 || !left {
                let got = ann.next();
                match got["type"].as_str().unwrap() {
                    "left" => left = true,
                    "publication" => {
                        assert!(!left, "nothing of the room comes after the leave: {got}");
                        // Or it is one of those that the connection before it sent at its end.
                        let own = got["id"].as_str().filter(|id| ids.iter().any(|i| i == id));
                        settled.extend(own.map(str::to_owned));
                    }
                    // Of those that were accepted after it had left.
                    "ack" => settled.push(got["id"].as_str().unwrap().to_owned()),
                    _ => panic!("{got}"),
                }
            }
            settled.sort();
            assert_eq!(settled, ids, "each is settled once");
            // A leave does not take back what was published, nor does a close or a reset right behind it.
            all.extend(ids);
            let late: Vec<String> = (5..8).map(|n| format!("{round}.{n}")).collect();
            let mut frames: Vec<u8> = late
                .iter()
                .map(|id| format!(r#"{{"type":"publish","room":"{ROOM}","id":"{id}","data":1}}"#))
                .flat_map(|text| crate::frame(true, 1, text.as_bytes()))
                .collect();
            frames.extend(crate::frame(true, 8, &[3, 232]));
            ann.0.write(&frames).unwrap();
            assert_eq!(ann.closed(), Some(1000));
            all.extend(late);
        }
        // The others got all of it, each connection's in the order sent.
        let mut seen = Vec::new();
        while seen.len() < all.len() {
            seen.push(bob.next_of("publication")["id"].as_str().unwrap().to_owned());
        }
        let round = |id: &String| id.split('.').next().unwrap().parse::<u32>().unwrap();
        seen.sort_by_key(round);
        assert_eq!(seen, all);
        assert_eq!(stored(&server), all.len());
    }
}

/// The same where the host takes it out, or the others go on publishing.
#[test]
fn x12_nothing_comes_after_the_leave_while_others_publish() {
    let victim = Victim::start(|l| l.set("shards", 2));
    let mut publisher = victim.guest("user=publisher");
    let mut bob = victim.guest("user=bob");
    for round in 0..50 {
        join(&mut bob, None, None);
        for n in 0..20 {
            publisher
                .send(&json!({"type": "publish", "room": ROOM, "id": format!("{round}.{n}"), "data": n}));
            if n == 10 {
                bob.send(&json!({"type": "leave", "ref": round, "room": ROOM}));
            }
        }
        let mut before: Vec<u64> = Vec::new();
        loop {
            let got = bob.next();
            if got["type"] == "left" {
                break;
            }
            before.push(got["data"].as_u64().unwrap());
        }
        assert!(before.iter().copied().eq(0..before.len() as u64), "without a gap: {before:?}");
        for _ in 0..20 {
            publisher.next_of("ack");
        }
        assert!(bob.until_pong().is_empty(), "nothing of the room follows");
    }
}
