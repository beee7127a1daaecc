//! WebSocket frames that break the rules, or use them up.

use crate::{Guest, Victim, frame, hex};
use klatch_suite::ws::{Got, Out, Ws};
use serde_json::json;
use std::io::ErrorKind;
use std::time::Duration;

/// Sends the same bytes so often, or until the server has ended it, and returns the code that it closed with.
fn flood(guest: &mut Guest, bytes: &[u8], times: usize) -> Option<u16> {
    for _ in 0..times {
        match guest.0.write(bytes) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => break,
            Err(e) => panic!("{e}"),
        }
    }
    guest.closed()
}

/// No cap on a message's size together, nor on its fragments: memory filled (c4punks/CWIST#161).
#[test]
fn r04_endless_fragments_are_stopped() {
    const CAP: u64 = 1 << 20;
    // One thread, so that what it keeps for later use is kept once.
    let victim =
        Victim::start(|l| l.set("limits.message_bytes", CAP).set("limits.fragments", 4096).set("shards", 1));
    let attack = |payload: &[u8], first: u8, between: &[u8]| {
        let mut guest = victim.guest("user=mallory");
        guest.0.write(&frame(false, first, payload)).unwrap();
        // 1,000,000 of them, 100 at a time.
        let many = [&frame(false, 0, payload)[..], between].concat().repeat(100);
        flood(&mut guest, &many, 10_000)
    };
    let kib = [b'a'; 1024];
    let ping = frame(true, 9, b"still here");
    // Once before, in a small way, so that what is only needed once is there.
    victim.while_served(|| assert_eq!(attack(&[], 1, &[]), Some(1008)));
    victim.while_served(|| {
        for (what, payload, opcode, between, code) in [
            ("empty text", &[][..], 1, &[][..], 1008),
            ("empty binary", &[], 2, &[], 1008),
            ("empty, with pings between", &[], 1, &ping[..], 1008),
            ("1 KiB text", &kib[..], 1, &[], 1009),
            ("1 KiB binary", &kib[..], 2, &[], 1009),
            ("1 KiB, with pings between", &kib[..], 1, &ping[..], 1009),
        ] {
            let before = victim.resident();
            victim.forget_peak();
            assert_eq!(attack(payload, opcode, between), Some(code), "{what}");
            let grown = victim.peak().saturating_sub(before);
            assert!(grown < 2 * CAP, "{what}: memory grew by {grown} bytes");
        }
    });
    // And exactly: the frame after the last that may be.
    for (fragments, payload, code) in [(4096, &[][..], 1008), (1024, &kib[..], 1009)] {
        let mut guest = victim.guest("user=mallory");
        guest.0.write(&frame(false, 1, payload)).unwrap();
        guest.0.write(&frame(false, 0, payload).repeat(fragments - 1)).unwrap();
        guest.0.write(&frame(true, 9, b"")).unwrap();
        assert_eq!(guest.0.read().unwrap(), Got::Pong(Vec::new()), "{fragments} fragments may be");
        guest.0.write(&frame(false, 0, if code == 1009 { b"a" } else { b"" })).unwrap();
        assert_eq!(guest.closed(), Some(code));
    }
    victim.unharmed();
}

/// With the limits as they are.
#[test]
fn r04_the_default_limits_stop_them_too() {
    let victim = Victim::start(|l| l);
    for (payload, last, code) in [(&[][..], 1023, 1008), (&[b'a'; 1024][..], 63, 1009)] {
        let mut guest = victim.guest("user=mallory");
        guest.0.write(&frame(false, 1, payload)).unwrap();
        guest.0.write(&frame(false, 0, payload).repeat(last)).unwrap();
        guest.0.write(&frame(true, 9, b"")).unwrap();
        assert_eq!(guest.0.read().unwrap(), Got::Pong(Vec::new()));
        guest.0.write(&frame(false, 0, if code == 1009 { b"a" } else { b"" })).unwrap();
        assert_eq!(guest.closed(), Some(code));
    }
}

/// What came of a frame was copied again with each further piece of it (the kind of tungstenite-rs#376): a few bytes a second
/// kept a thread busy. A piece must cost the same, however much came before it.
#[test]
fn r01_a_frame_that_comes_byte_by_byte_costs_its_bytes() {
    const PIECES: usize = 16_000;
    let victim = Victim::start(|l| l.set("limits.message_bytes", 1 << 20).set("shards", 1));
    // On the same thread: its answer shows that the byte before has been read.
    let mut beside = victim.guest("user=beside");
    let mut cost = |size: usize| {
        let mut slow = victim.guest("user=slow");
        let text = format!(r#"{{"type":"ping","ref":1,"x":"{}"}}"#, "a".repeat(size - 50));
        let bytes = frame(true, 1, text.as_bytes());
        let (most, rest) = bytes.split_at(bytes.len() - PIECES);
        slow.0.write(most).unwrap();
        beside.until_pong();
        let before = victim.processor();
        for byte in rest {
            slow.0.write(&[*byte]).unwrap();
            beside.until_pong();
        }
        let spent = victim.processor() - before;
        assert_eq!(slow.next(), json!({"type": "pong", "ref": 1}));
        spent
    };
    let (small, large) = (cost(2 * PIECES), cost(1 << 20));
    assert!(large < 2 * small + Duration::from_millis(100), "{large:?}, and {small:?} for a small frame");
}

/// Reserved bits crashed servers (ws#1191, CVE-2022-21676).
#[test]
fn x03_reserved_bits_end_only_their_connection() {
    let victim = Victim::start(|l| l);
    victim.while_served(|| {
        for bytes in [
            "C1 85 00 00 00 00 68 65 6C 6C 6F",
            "A1 85 00 00 00 00 68 65 6C 6C 6F",
            "91 85 00 00 00 00 68 65 6C 6C 6F",
        ] {
            let mut guest = victim.guest("user=mallory");
            guest.0.write(&hex(bytes)).unwrap();
            assert_eq!(guest.closed(), Some(1002), "{bytes}");
        }
        // Every reserved bit and opcode, first and within a message, masked or not.
        for rsv in 0..8 {
            for opcode in 0..16 {
                for fin in [true, false] {
                    for masked in [true, false] {
                        let known = [0, 1, 2, 8, 9, 10].contains(&opcode);
                        let whole = fin || opcode < 3;
                        if rsv == 0 && known && whole && masked && opcode != 0 {
                            continue;
                        }
                        let mut guest = victim.guest("user=mallory");
                        guest.0.write(&Out { opcode, fin, rsv, masked, payload: b"hello" }.bytes()).unwrap();
                        let what = format!("rsv {rsv}, opcode {opcode}, fin {fin}, masked {masked}");
                        assert_eq!(guest.closed(), Some(1002), "{what}");
                    }
                }
            }
        }
        for rsv in 1..8 {
            for opcode in [0, 8, 9, 10] {
                let mut guest = victim.guest("user=mallory");
                guest.0.write(&frame(false, 1, b"{")).unwrap();
                guest.0.write(&Out { opcode, fin: true, rsv, masked: true, payload: b"" }.bytes()).unwrap();
                assert_eq!(guest.closed(), Some(1002), "rsv {rsv}, opcode {opcode} within a message");
            }
        }
    });
    victim.unharmed();
}

/// The limit held for compressed bytes only (autobahn-python#1909, websocketpp#1191, centrifugo#1162, tornado#2391).
#[test]
fn x04_compression_is_not_taken_up() {
    let victim = Victim::start(|l| l.set("limits.message_bytes", 1024));
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits; server_no_context_takeover",
        "permessage-deflate; server_max_window_bits=8, permessage-deflate",
        "x-webkit-deflate-frame",
        "permessage-bzip2, permessage-deflate",
        "\"",
        ";;;,,,=",
    ] {
        let headers = [("Sec-WebSocket-Extensions".to_owned(), offer.to_owned())];
        let (mut ws, answer) =
            Ws::open(victim.address(), "/ws?user=mallory", &headers, &[]).unwrap().unwrap();
        assert!(!answer.head.contains("sec-websocket-extensions"), "{offer}: {}", answer.head);
        ws.next_text().unwrap();
        // 64 KiB of zero bytes, deflated, though nobody agreed to it.
        let bomb = hex("EC C1 01 01 00 00 00 80 90 FE AF EE 08 0A 00 00 00 00 00 00 00 00 00");
        ws.write(&Out { opcode: 1, fin: true, rsv: 4, masked: true, payload: &bomb }.bytes()).unwrap();
        assert_eq!(Guest(ws).closed(), Some(1002), "{offer}");
    }
    victim.unharmed();
}

/// UTF-8 was not looked at in text frames and close reasons (freeunit#378, undici#3206).
#[test]
fn x06_what_is_not_utf8_is_refused_wherever_it_is_cut() {
    let victim = Victim::start(|l| l);
    let refused = |frames: &[Vec<u8>], what: &str| {
        let mut guest = victim.guest("user=mallory");
        guest.0.write(&frames.concat()).unwrap();
        assert_eq!(guest.closed(), Some(1007), "{what}");
    };
    let wrong = [
        "C3 28",
        "FF",
        "C0 AF",
        "E0 80 80",
        "ED A0 80",
        "ED BF BF",
        "F0 80 80 80",
        "F4 90 80 80",
        "F5 80 80 80",
        "80",
        "E2 82",
        "F0 9F 98",
    ];
    victim.while_served(|| {
        let mut guest = victim.guest("user=mallory");
        guest.0.write(&hex("81 82 00 00 00 00 C3 28")).unwrap();
        assert_eq!(guest.closed(), Some(1007));
        for text in wrong {
            let bytes = hex(text);
            refused(&[frame(true, 1, &bytes)], text);
            // As a message in fragments, cut at every byte.
            for cut in 0..=bytes.len() {
                let (a, b) = bytes.split_at(cut);
                refused(&[frame(false, 1, a), frame(true, 0, b)], &format!("{text} cut at {cut}"));
            }
            // Within a request that is fine but for this.
            let quoted = [br#"{"type":"ping","x":""#, &bytes[..], br#""}"#].concat();
            refused(&[frame(true, 1, &quoted)], text);
            refused(&[frame(true, 8, &[&[0x03, 0xE8], &bytes[..]].concat())], &format!("reason {text}"));
        }
    });
    // And what is fine is taken, wherever it is cut.
    let mut guest = victim.guest("user=ann&room=lobby");
    guest.next_of("joined");
    let whole = |id: usize| format!(r#"{{"type":"publish","id":"{id:02}","data":"é€😀"}}"#);
    for cut in 0..=whole(0).len() {
        let whole = whole(cut);
        let (a, b) = whole.as_bytes().split_at(cut);
        guest.0.write(&[frame(false, 1, a), frame(true, 0, b)].concat()).unwrap();
        assert_eq!(guest.next_of("publication")["data"], "\u{e9}\u{20ac}\u{1F600}");
    }
    let emoji = "\u{1F600}".as_bytes();
    let mut frames = frame(false, 1, br#"{"type":"publish","id":"e","data":""#);
    emoji.iter().for_each(|byte| frames.extend(frame(false, 0, &[*byte])));
    frames.extend(frame(true, 0, br#""}"#));
    guest.0.write(&frames).unwrap();
    assert_eq!(guest.next_of("publication")["data"], "\u{1F600}");
    victim.unharmed();
}
