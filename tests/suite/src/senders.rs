//! Senders of what a careless server would get wrong.

use crate::members::ok;
use klatch_harness::client::{Client, Outcome, Seen};
use klatch_harness::wire::{Payload, base64};

/// The room that they send to.
pub const ODD: &str = "odd \"things\" / äöü";

/// Pairs of messages that [`twins`] send.
pub const PAIRS: usize = 200;

/// Two connections of one user, to the same node or to two, send the same ids at the same time, every second time with another body.
///
/// # Panics
/// If not one of each pair is stored, and the other is a duplicate at the same place, or a conflict where its body is another.
pub fn twins(urls: [&str; 2]) -> [Client; 2] {
    let mut both = urls.map(|url| ok(Client::connect(url, "twin")));
    for n in 0..PAIRS {
        for (who, client) in both.iter_mut().enumerate() {
            let body = if n % 2 == 0 || who == 0 { "1" } else { "2" };
            ok(client.begin(ODD, &format!("pair {n}"), body));
        }
    }
    let answer = |seen: &Seen| match seen {
        Seen::Published { message, outcome } => Some((*message, outcome.clone())),
        _ => None,
    };
    // Of each pair: its place, how many were stored first, as duplicates, or not.
    let mut pairs = vec![(None, [0; 3]); PAIRS];
    for client in &mut both {
        for _ in 0..PAIRS {
            let (n, outcome) = ok(client.until(answer));
            let Some((place, counts)) = pairs.get_mut(n) else { panic!("there is no message {n}") };
            match outcome {
                Outcome::Stored { offset, duplicate } => {
                    counts[usize::from(duplicate)] += 1;
                    assert_eq!(*place.get_or_insert(offset), offset, "pair {n}");
                }
                Outcome::NotStored { error, .. } => {
                    assert_eq!(error, "conflict", "pair {n}");
                    counts[2] += 1;
                }
                other => panic!("pair {n}: {other:?}"),
            }
        }
    }
    for (n, (_, counts)) in pairs.iter().enumerate() {
        // A node that has not seen the other's copy yet cannot tell it from its own.
        let two_firsts = n % 2 == 0 && urls[0] != urls[1] && *counts == [2, 0, 0];
        assert!(
            two_firsts || *counts == if n % 2 == 0 { [1, 1, 0] } else { [1, 0, 1] },
            "pair {n}: {counts:?}"
        );
    }
    both
}

/// Messages whose bytes a careless server would change.
///
/// # Panics
/// If one is not stored.
pub fn odd_ones(url: &str) -> Client {
    let mut client = ok(Client::connect(url, ""));
    for data in [
        "null",
        r#"{"b" : 1.0, "a":"\u0041\n", "a":2e5}"#,
        "[ ]",
        r#""\ud83d\ude00 😀 \u0000 / \/""#,
        "-0",
        "123456789012345678901234567890.50",
    ] {
        let outcome = ok(client.publish(ODD, "", data));
        assert!(matches!(outcome, Outcome::Stored { .. }), "{data}: {outcome:?}");
    }
    for bytes in [&b""[..], b"\0", b"\xff\xfe\xfd", b"{}", &[7; 1000]] {
        let payload = base64(bytes);
        let (message, frame) = client.state().publish(ODD, "", Payload::Binary(&payload));
        ok(client.send_text(frame));
        let outcome = ok(client.outcome(message));
        assert!(matches!(outcome, Outcome::Stored { .. }), "{payload}: {outcome:?}");
    }
    client
}
