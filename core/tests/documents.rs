//! The documents agree with the code. `KLATCH_BLESS=1` rewrites the generated parts.
#![allow(clippy::unwrap_used)]

use klatch::codes::{Code, Disconnect};
use klatch::command::Command;
use klatch::config::{Limit, Limits, Settings};
use klatch::error::Error;
use klatch::message::{Epoch, Kind, Publication, Record};
use klatch::metrics::Metrics;
use klatch::protocol::native::{decode, encode};
use std::fmt::Write;
use std::path::PathBuf;

fn path(document: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs").join(document)
}

fn read(document: &str) -> String {
    std::fs::read_to_string(path(document)).unwrap()
}

/// Compares generated parts of a document with what the code generates, or rewrites them.
fn generated(document: &str, parts: &[(&str, String)]) {
    let old = read(document);
    let mut new = old.clone();
    for (name, text) in parts {
        let (begin, end) = (format!("<!-- begin: {name} -->\n"), format!("<!-- end: {name} -->"));
        let from = new.find(&begin).expect("the part's first mark") + begin.len();
        let to = from + new[from..].find(&end).expect("the part's last mark");
        new.replace_range(from..to, text);
    }
    if std::env::var_os("KLATCH_BLESS").is_some() {
        std::fs::write(path(document), new).unwrap();
    } else {
        assert!(
            old == new,
            "docs/{document} is not what the code generates: run this test with KLATCH_BLESS=1"
        );
    }
}

#[test]
fn codes() {
    let mut errors = "| code | name | retry | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for code in Code::ALL {
        let retry = code.retry().as_str();
        writeln!(errors, "| {} | `{code}` | `{retry}` | {} |", code.number(), code.doc()).unwrap();
    }
    let mut disconnects = "| code | name | connect again | meaning |\n| --- | --- | --- | --- |\n".to_owned();
    for code in Disconnect::ALL {
        let again = if code.reconnects() { "yes" } else { "no" };
        writeln!(disconnects, "| {} | `{code}` | {again} | {} |", code.number(), code.doc()).unwrap();
    }
    generated("codes.md", &[("errors", errors), ("disconnects", disconnects)]);
}

#[test]
fn configuration() {
    let mut limits =
        "| name | default | unit | | counted | in use |\n| --- | --- | --- | --- | --- | --- |\n".to_owned();
    for limit in Limit::ALL {
        let (name, default, unit) = (limit.name(), limit.default_value(), limit.unit());
        let (text, counts) = (limit.doc(), limit.counts());
        let gauge = limit.gauge().map_or(String::new(), |gauge| format!("`klatch_{gauge}`"));
        let round = match default {
            0 => String::new(),
            d if unit == "bytes" && d % (1 << 20) == 0 => format!(" ({} MiB)", d >> 20),
            d if unit == "bytes" && d % (1 << 10) == 0 => format!(" ({} KiB)", d >> 10),
            _ => String::new(),
        };
        writeln!(limits, "| `{name}` | `{default}`{round} | {unit} | {text} | {counts} | {gauge} |").unwrap();
    }
    let example = format!("```toml\n{}```\n", toml::to_string(&Settings::default()).unwrap());
    generated("configuration.md", &[("limits", limits), ("example", example)]);
}

/// Each limit has a counter in `/metrics`, and the gauge that it names is one.
#[test]
fn every_limit_is_counted() {
    let metrics = Metrics::default();
    for (i, limit) in Limit::ALL.iter().enumerate() {
        metrics.limit_hits[*limit].add(i as u64 + 1);
    }
    let text = metrics.prometheus();
    for (i, limit) in Limit::ALL.iter().enumerate() {
        let line = format!("\nklatch_limit_hits_total{{limit=\"{}\"}} {}\n", limit.name(), i + 1);
        assert!(text.contains(&line), "{line}");
        if let Some(gauge) = limit.gauge() {
            assert!(text.contains(&format!("# TYPE klatch_{gauge} gauge\n")), "{gauge}");
        }
        assert!(limit.counts().ends_with('.') && limit.doc().ends_with('.'), "{}", limit.name());
    }
}

/// Each limit has a test at it and past it, over real sockets where sockets have to do with it.
#[test]
fn every_limit_has_a_test() {
    let mut tests = String::new();
    // Some are reached on Kafka only.
    for dir in ["../tests/suite/tests/limits", "../tests/kafka/tests/nodes"] {
        let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(dir);
        for entry in std::fs::read_dir(dir).unwrap() {
            tests += &std::fs::read_to_string(entry.unwrap().path()).unwrap();
        }
    }
    let has = |name: &str| tests.contains(&format!("#[test]\nfn limit_{name}()"));
    let missing: Vec<_> = Limit::ALL.iter().map(|l| l.name()).filter(|name| !has(name)).collect();
    assert!(
        missing.is_empty(),
        "no test named limit_<name> in tests/suite/tests/limits or tests/kafka/tests/nodes for {missing:?}"
    );
}

/// The file in the document is the default, whole; and each of its keys has a row with that default.
#[test]
fn every_setting_is_documented_with_its_default() {
    let document = read("configuration.md");
    let (_, file) = document.split_once("```toml\n").unwrap();
    let (file, _) = file.split_once("```").unwrap();
    assert_eq!(toml::from_str::<Settings>(file).unwrap(), Settings::default());
    assert_eq!(toml::from_str::<Settings>("").unwrap(), Settings::default());
    assert!(toml::from_str::<Settings>("lisen = []").is_err());

    let all: toml::Table = toml::from_str(&toml::to_string(&Settings::default()).unwrap()).unwrap();
    let mut keys = 0;
    for (key, value) in &all {
        let values = match value {
            toml::Value::Table(table) => {
                let prefix = if key == "limits" { String::new() } else { format!("{key}.") };
                table.iter().map(|(k, v)| (format!("{prefix}{k}"), v)).collect()
            }
            value => vec![(key.clone(), value)],
        };
        for (key, value) in values {
            keys += 1;
            let row = format!("| `{key}` | `{value}`");
            assert!(document.contains(&row), "docs/configuration.md has no row that begins with {row}");
        }
    }
    assert_eq!(keys, document.matches("\n| `").count(), "a row for a key that is no setting");
}

fn made(offset: u64, prev: u64, time: u64, kind: Kind, user: &str, id: &str, data: &[u8]) -> Publication {
    let mut body = Vec::new();
    Record::encode(&mut body, kind, "lobby", user, id, data);
    Publication { record: Record::trusted(offset, time, body.into()), prev }
}

type Frame<'a> = &'a dyn Fn(&mut Vec<u8>);

/// The frames that the engine sends, as the document shows them.
fn sent() -> Vec<String> {
    let epoch = Epoch(0x0123_4567_89ab_cdef);
    let hello = made(131, 130, 1_764_076_361_000, Kind::Json, "ann", "m1", br#"{"text":"hello"}"#);
    let binary = made(132, 131, 1_764_076_361_020, Kind::Binary, "", "", &[0xff, 0xd8, 0xff, 0xe0, 0, 0x10]);
    let page = [made(130, 127, 1_764_076_360_000, Kind::Json, "bob", "k7", br#""hi""#)];
    let ack =
        encode::Ack { reference: Some(4), room: "lobby", epoch, offset: 131, id: "m1", duplicate: false };
    let joined = encode::Joined {
        reference: Some(2),
        room: "lobby",
        epoch,
        offset: 120,
        last: 130,
        recovered: Some(true),
    };
    let conflict = Error::new(Code::Conflict, "this id was used for another message");
    let busy = Error::new(Code::Busy, "the queue is full");
    let failed = |out: &mut Vec<u8>, error: &Error| {
        encode::error(out, error, Some(4), Some("m1"), Some("lobby"), Some(encode::Outcome::NotStored));
    };
    let slow = "the connection did not take what was sent to it";
    let frames: [Frame<'_>; 16] = [
        &|out| encode::welcome(out, "c1a2f03b9d", "ann", None),
        &|out| encode::joined(out, &joined),
        &|out| encode::left(out, "lobby", Some(3)),
        &|out| encode::publication(out, &hello),
        &|out| encode::publication(out, &binary),
        &|out| encode::ack(out, &ack),
        &|out| encode::ack(out, &encode::Ack { duplicate: true, ..ack }),
        &|out| encode::signal(out, "lobby", "ann", "typing", r#"{"on":true}"#),
        &|out| encode::done(out, Some(5)),
        &|out| encode::history(out, Some(6), "lobby", epoch, &page, true, 131),
        &|out| encode::presence(out, Some(7), "lobby", 12, &[("ann", 1), ("bob", 2)], false),
        &|out| encode::presence_event(out, "lobby", Some((&["ann"][..], &["bob"][..])), 12),
        &|out| encode::pong(out, Some(8)),
        &|out| failed(out, &conflict),
        &|out| failed(out, &busy),
        &|out| encode::disconnect(out, Disconnect::Slow, slow),
    ];
    let text = |frame: Frame<'_>| {
        let mut out = Vec::new();
        frame(&mut out);
        String::from_utf8(out).unwrap()
    };
    frames.into_iter().map(text).collect()
}

/// Each frame in the protocol's document is one that the code sends or takes, and none is missing.
#[test]
fn protocol_examples() {
    let document = read("protocol.md");
    let (requests, rest) = document
        .split_once("\n## What a client sends")
        .unwrap()
        .1
        .split_once("\n## What the engine sends")
        .unwrap();
    let frames = |text: &str| -> Vec<String> {
        text.lines().filter(|line| line.starts_with(r#"{"type":"#)).map(str::to_owned).collect()
    };
    let mut seen = [false; 8];
    for frame in frames(requests) {
        match decode(&frame, &Limits::default()) {
            Ok(Command::Connect(_)) => seen[0] = true,
            Ok(Command::Join(_)) => seen[1] = true,
            Ok(Command::Leave { .. }) => seen[2] = true,
            Ok(Command::Publish(_)) => seen[3] = true,
            Ok(Command::Signal(_)) => seen[4] = true,
            Ok(Command::History(_)) => seen[5] = true,
            Ok(Command::Presence { .. }) => seen[6] = true,
            Ok(Command::Ping { .. }) => seen[7] = true,
            Err(refused) => panic!("{frame}: {refused:?}"),
        }
    }
    assert_eq!(seen, [true; 8], "a request has no example");
    let (shown, sent) = (frames(rest), sent());
    for frame in &sent {
        assert!(shown.contains(frame), "docs/protocol.md does not show {frame}");
    }
    for frame in &shown {
        assert!(sent.contains(frame), "docs/protocol.md shows what the code does not send: {frame}");
    }
}

/// The limits that the protocol's document quotes are the real ones.
#[test]
fn protocol_limits() {
    let document = read("protocol.md").split_whitespace().collect::<Vec<_>>().join(" ");
    for (name, quoted) in [
        ("message_bytes", "64 KiB"),
        ("handshake_timeout_ms", "10 s"),
        ("heartbeat_ms", "25 s"),
        ("heartbeat_timeout_ms", "20 s"),
        ("outbound_bytes", "1 MiB"),
        ("slow_ms", "30 s"),
        ("json_depth", "64"),
        ("request_rate", "100"),
        ("publish_rate", "50"),
        ("rooms_per_connection", "100"),
        ("history_page", "500"),
        ("history_page_bytes", "256 KiB"),
        ("presence_names", "100"),
        ("presence_gather_ms", "200 ms"),
        ("bad_requests", "10"),
        ("name_bytes", "128"),
    ] {
        let limit = Limit::ALL.iter().find(|limit| limit.name() == name).unwrap();
        let (number, scale) = quoted.split_once(' ').unwrap_or((quoted, ""));
        let scale = match scale {
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "s" => 1000,
            _ => 1,
        };
        let unit = limit.unit();
        assert_eq!(number.parse::<u64>().unwrap() * scale, limit.default_value(), "{name} in {unit}");
        let said = [format!("`{name}` ({quoted}"), format!("`{name}`, {quoted}")];
        assert!(said.iter().any(|text| document.contains(text)), "docs/protocol.md must say {}", said[0]);
    }
}
