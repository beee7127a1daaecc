//! A cluster that lets in only who shows who it is, over TLS, and to what its access rules allow.

use crate::*;
use klatch::{Consume, Engine, Settings};
use klatch_harness::client::JoinOptions;
use klatch_kafka_tests::oracle::Draft;
use klatch_kafka_tests::secure::{MECHANISM, PASSWORD, USER};
use klatch_suite::members::listen;
use std::sync::mpsc::channel;

const ROOM: &str = "lobby";

/// What docs/kafka.md says that such a cluster needs.
fn properties(certificate: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("security.protocol", "SASL_SSL".into()),
        ("sasl.mechanisms", MECHANISM.into()),
        ("sasl.username", USER.into()),
        ("sasl.password", PASSWORD.into()),
        ("ssl.ca.location", certificate.display().to_string()),
    ]
}

/// A node with these properties.
fn with(launch: Launch, properties: &[(&str, String)]) -> Launch {
    properties
        .iter()
        .fold(launch, |launch, (name, value)| launch.set(&format!("kafka.properties.{name}"), value))
}

/// The start fails, and says this; and nothing that is secret.
#[track_caller]
fn fails(launch: &Launch, says: &[&str]) {
    let said = match launch.try_start() {
        Ok(node) => panic!("it started; not told: {says:?}: {:?}", node.output()),
        Err(e) => e.to_string(),
    };
    for text in says {
        assert!(said.contains(text), "not told: {text}: {said}");
    }
    assert!(!said.contains(PASSWORD) && !said.contains("guess"), "{said}");
}

/// What becomes of what is published while it is not allowed: no message is lost, none is called stored that is not.
fn refused(client: &mut Client, id: &str) -> usize {
    let message = client.begin(ROOM, id, "1").unwrap();
    match client.outcome(message).unwrap() {
        Outcome::NotStored { error, later: true, .. } => assert_eq!(error, "unavailable"),
        other => panic!("{id}: {other:?}"),
    }
    message
}

#[test]
fn a_cluster_with_passwords_and_rules_is_used_and_one_that_refuses_is_named() {
    let world = World::new(Cluster::one().secure().start());
    let (url, certificate) = world.cluster.secure(TOPIC);
    let properties = properties(&certificate);
    let launch = with(world.node_at("a", &url), &properties);

    // Who is not known, or does not know whom it meets.
    let wrong = [("sasl.password", "a guess".to_owned())];
    fails(&with(launch.clone(), &wrong), &["does not let this node in", "sasl.password", MECHANISM]);
    let strangers: Vec<_> =
        properties.iter().filter(|(name, _)| *name != "ssl.ca.location").cloned().collect();
    fails(
        &with(world.node_at("a", &url), &strangers),
        &["no secure connection", "ssl.ca.location", "certificate"],
    );

    // Each right that is missing is named, one after the other.
    let (oracle, needs) = (&world.oracle, |right| format!("it needs the right {right} on the topic {TOPIC}"));
    for (right, given) in [
        ("Describe", "DESCRIBE"),
        ("Create", "CREATE"),
        ("Read", "READ"),
        ("Write", "WRITE"),
        ("DescribeConfigs", "DESCRIBE_CONFIGS"),
    ] {
        fails(&launch, &[&needs(right), "invalid_config"]);
        oracle.allow(TOPIC, USER, &[given]);
    }
    let a = launch.start();
    let live = listen(&a.url(), &[ROOM.to_owned()], None);
    let mut ann = client(&a.url(), "ann");
    ann.join(ROOM, JoinOptions::default()).unwrap();
    stored(&mut ann, ROOM, "first", "1");

    // What is taken away is missed, and told; and is picked up again when it is given.
    let mut told = Vec::new();
    for (right, left) in [("Describe", &[][..]), ("Read", &["WRITE"]), ("Write", &["READ"])] {
        oracle.forbid(TOPIC, USER);
        if !left.is_empty() {
            oracle.allow(TOPIC, USER, left);
        }
        becomes(&a.url(), 503, "down");
        assert!(a.says(&needs(right), PATIENCE), "{right}: {:?}", a.output());
        told.push(refused(&mut ann, right));
        // Of another program, and for later.
        oracle.produce(TOPIC, &[Draft::new(ROOM, "\"meanwhile\"")]);
        oracle.allow(TOPIC, USER, &["READ", "WRITE", "DESCRIBE_CONFIGS"]);
        becomes(&a.url(), 200, "ready");
        stored(&mut ann, ROOM, &format!("after {right}"), "1");
    }
    for message in told {
        assert!(matches!(ann.retry(message).unwrap(), Outcome::Stored { duplicate: false, .. }));
    }

    // A group has rights of its own.
    let mut settings = Settings::default();
    settings.log = url.clone();
    settings.kafka.view_dir = "memory".into();
    settings
        .kafka
        .properties
        .0
        .extend(properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let engine = Engine::builder().settings(settings).start().unwrap();
    let (handled, handles) = channel();
    let handler = move |p: &klatch::Publication| {
        handled.send(p.id().into_owned())?;
        Ok(())
    };
    let consumer = engine.consume(Consume::group("archive"), handler).unwrap();
    until(|| consumer.status().last_error.is_some_and(|e| e.contains("the right Read on the group archive")));
    oracle.allow_group("archive", USER);
    let last = end(&a.url(), &[ROOM.to_owned()]);
    let expected = world.expected();
    let count = expected.rooms[ROOM].len();
    assert_eq!(count, 1 + 3 * 3 + 1);
    (0..count).for_each(|_| drop(handles.recv_timeout(PATIENCE).unwrap()));
    until(|| consumer.status().last_error.is_none());
    assert!(consumer.stop(PATIENCE).unwrap());
    engine.stop(PATIENCE).unwrap();

    same("a member", &live.join().unwrap(), &expected.rooms);
    tells("a", &a.url(), &expected.rooms);
    assert!(!a.output().concat().contains(PASSWORD));
    // There is nothing else in its partition.
    let at_end = |seen: &Seen| {
        matches!(seen, Seen::Publication { offset, .. } if *offset == count as u64).then_some(())
    };
    ann.until(at_end).unwrap();
    let logs = [ann.into_log(), last.into_log()];
    assert_eq!(logs[0].drops, 0);
    checked(&logs, &expected, Expect { resets_at_most: RESETS, ..Expect::default() });
}
