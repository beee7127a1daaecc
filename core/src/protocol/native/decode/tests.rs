use super::*;
use crate::codes::Code::{BadRequest, InvalidData, InvalidId, InvalidName, TooDeep, UnknownCommand};
use proptest::prelude::*;

fn ok(text: &str) -> Command<'_> {
    decode(text, &Limits::default()).unwrap_or_else(|refused| panic!("{text}: {refused:?}"))
}

fn refused(text: &str) -> Refused {
    match decode(text, &Limits::default()) {
        Ok(command) => panic!("{text}: {command:?}"),
        Err(refused) => refused,
    }
}

fn code(text: &str) -> Code {
    refused(text).error.code()
}

fn published(text: &str) -> Publish<'_> {
    match ok(text) {
        Command::Publish(publish) => publish,
        other => panic!("{text}: {other:?}"),
    }
}

fn join_start(fields: &str) -> Start {
    match ok(&format!(r#"{{"type":"join"{fields}}}"#)) {
        Command::Join(join) => join.options.start,
        other => panic!("{other:?}"),
    }
}

/// A publish with this data.
fn with_data(data: &str) -> String {
    format!(r#"{{"type":"publish","ref":4,"room":"lobby","id":"m1","data":{data}}}"#)
}

fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

#[test]
fn every_documented_frame() {
    let room = || Some(Cow::Borrowed("lobby"));
    assert_eq!(
        ok(
            r#"{"type":"connect","ref":1,"user":"ann","token":"t","room":"lobby","history":50,"presence":true}"#
        ),
        Command::Connect(Connect {
            reference: Some(1),
            user: Some("ann".into()),
            token: Some("t".into()),
            room: room(),
            options: JoinOptions { start: Start::History(50), echo: true, presence: true },
        })
    );
    assert_eq!(
        ok(
            r#"{"type":"join","ref":2,"room":"lobby","since":9,"epoch":"0123456789abcdef","history":5,"echo":false}"#
        ),
        Command::Join(Join {
            reference: Some(2),
            room: room(),
            options: JoinOptions {
                start: Start::Since { epoch: Some(Epoch(0x0123_4567_89ab_cdef)), offset: 9, history: 5 },
                echo: false,
                presence: false,
            },
        })
    );
    assert_eq!(
        ok(r#"{"type":"leave","ref":3,"room":"lobby"}"#),
        Command::Leave { reference: Some(3), room: room() }
    );
    assert_eq!(
        ok(r#"{"type":"publish","ref":4,"room":"lobby","id":"m1","data":{"text":"hello"}}"#),
        Command::Publish(Publish {
            reference: Some(4),
            room: room(),
            id: Some("m1".into()),
            kind: Kind::Json,
            data: br#"{"text":"hello"}"#.into(),
        })
    );
    assert_eq!(
        ok(r#"{"type":"publish","bytes":"/wBi"}"#),
        Command::Publish(Publish {
            reference: None,
            room: None,
            id: None,
            kind: Kind::Binary,
            data: vec![255, 0, b'b'].into(),
        })
    );
    assert_eq!(
        ok(r#"{"type":"signal","ref":5,"room":"lobby","name":"typing","data":[1]}"#),
        Command::Signal(Signal { reference: Some(5), room: room(), name: "typing".into(), data: "[1]" })
    );
    assert_eq!(
        ok(
            r#"{"type":"history","ref":6,"room":"lobby","after":1,"before":9,"limit":3,"backward":true,"at_least":7}"#
        ),
        Command::History(History {
            reference: Some(6),
            room: room(),
            query: HistoryQuery { after: 1, before: 9, limit: 3, backward: true, at_least: 7 },
        })
    );
    assert_eq!(
        ok(r#"{"type":"presence","ref":7,"room":"lobby"}"#),
        Command::Presence { reference: Some(7), room: room() }
    );
    assert_eq!(ok(r#"{"type":"ping","ref":8}"#), Command::Ping { reference: Some(8) });
}

#[test]
fn defaults() {
    assert_eq!(
        ok(r#"{"type":"join"}"#),
        Command::Join(Join { reference: None, room: None, options: JoinOptions::default() })
    );
    assert_eq!(
        ok(r#"{"type":"history"}"#),
        Command::History(History { reference: None, room: None, query: HistoryQuery::default() })
    );
    assert_eq!(ok(r#"{"type":"connect"}"#), Command::Connect(Connect::default()));
    assert_eq!(
        ok(r#"{"type":"signal","name":"n"}"#),
        Command::Signal(Signal { reference: None, room: None, name: "n".into(), data: "null" })
    );
    // An empty user is an anonymous one.
    assert_eq!(ok(r#"{"type":"connect","user":""}"#), Command::Connect(Connect::default()));
    assert_eq!(join_start(r#","history":0"#), Start::Live);
    assert_eq!(join_start(r#","history":99999999999"#), Start::History(u32::MAX));
    assert_eq!(
        join_start(&format!(r#","since":{}"#, u64::MAX)),
        Start::Since { epoch: None, offset: u64::MAX, history: 0 }
    );
}

#[test]
fn order_white_space_and_unknown_fields_do_not_matter() {
    let text = " \r\n\t{ \"data\" : {\"a\": 1} , \"x\":{\"room\":\"other\"}, \"room\" :\"lobby\",\n\"type\":\"publish\" } \n";
    let publish = published(text);
    assert_eq!((publish.room.as_deref(), &*publish.data), (Some("lobby"), &br#"{"a": 1}"#[..]));
    // A field of another request is an unknown field.
    assert_eq!(ok(r#"{"type":"ping","limit":"many","data":1}"#), Command::Ping { reference: None });
    // Escapes in a name or a key mean the same as the characters.
    assert_eq!(
        ok(r#"{"type":"\u006aoin","\u0072oom":"a\u0062\ud83c\udf89"}"#),
        Command::Join(Join { reference: None, room: Some("ab🎉".into()), options: JoinOptions::default() })
    );
}

#[test]
fn null_is_absent_except_as_data() {
    assert_eq!(
        &*published(r#"{"type":"publish","room":null,"id":null,"bytes":null,"data":null}"#).data,
        b"null"
    );
    assert_eq!(
        ok(r#"{"type":"join","since":null,"epoch":null,"history":null,"echo":null,"ref":null}"#),
        ok(r#"{"type":"join"}"#)
    );
    assert_eq!(ok(r#"{"type":"signal","name":"n","bytes":null}"#), ok(r#"{"type":"signal","name":"n"}"#));
    assert_eq!(code(r#"{"type":null}"#), BadRequest);
}

#[test]
fn strings_and_data_are_borrowed() {
    let publish = published(r#"{"type":"publish","room":"lobby","id":"m1","data":"\u0041"}"#);
    assert!(matches!(publish.room, Some(Cow::Borrowed("lobby"))));
    assert!(matches!(publish.id, Some(Cow::Borrowed("m1"))));
    assert!(matches!(publish.data, Cow::Borrowed(br#""\u0041""#)));
    let Command::Connect(connect) = ok(r#"{"type":"connect","user":"ann","token":"t"}"#) else { panic!() };
    assert!(matches!((connect.user, connect.token), (Some(Cow::Borrowed(_)), Some(Cow::Borrowed(_)))));
}

#[test]
fn data_is_kept_byte_for_byte() {
    for data in [
        "1e999",
        "-0",
        "-0.0",
        "123456789012345678901234567890.50",
        "1E+2",
        "\"\u{2028}\u{2029}\"",
        r#""a\u0000b""#,
        r#""\/\ud83c\udf89""#,
        "{ \"b\" : 1,\n\t\"a\" : 2, \"a\" : 3 }",
        "\"\u{7f}\u{feff}\"",
        "true",
        "null",
        "\"\"",
    ] {
        assert_eq!(&*published(&with_data(data)).data, data.as_bytes(), "{data}");
    }
}

#[test]
fn malformed_frames() {
    for text in [
        "",
        " ",
        "null",
        "1",
        "\"publish\"",
        "[]",
        r#"["publish",4,"lobby"]"#,
        "{}",
        "{",
        r#"{"type":"ping""#,
        r#"{"type":"ping",}"#,
        r#"{"type":"ping"} {"type":"ping"}"#,
        r#"{"type":"ping"}x"#,
        r#"{type:"ping"}"#,
        r#"{'type':'ping'}"#,
        "\u{feff}{\"type\":\"ping\"}",
        r#"{"type":1}"#,
        r#"{"type":["ping"]}"#,
        r#"{"type":"join","room":1}"#,
        r#"{"type":"join","room":["lobby"]}"#,
        r#"{"type":"join","history":"5"}"#,
        r#"{"type":"join","history":-1}"#,
        r#"{"type":"join","since":1.0}"#,
        r#"{"type":"join","since":1e3}"#,
        r#"{"type":"join","since":18446744073709551616}"#,
        r#"{"type":"join","since":1,"epoch":"xyz"}"#,
        r#"{"type":"join","since":1,"epoch":"+123456789abcdef"}"#,
        r#"{"type":"join","since":1,"epoch":5}"#,
        r#"{"type":"join","epoch":"0123456789abcdef"}"#,
        r#"{"type":"join","echo":1}"#,
        r#"{"type":"join","presence":"true"}"#,
        r#"{"type":"ping","ref":-1}"#,
        r#"{"type":"ping","ref":"a"}"#,
        r#"{"type":"ping","ref":1.5}"#,
        r#"{"type":"history","backward":0}"#,
        r#"{"type":"history","limit":true}"#,
        r#"{"type":"publish"}"#,
        r#"{"type":"publish","data":1,"bytes":"AA=="}"#,
        r#"{"type":"publish","data":null,"bytes":"AA=="}"#,
        r#"{"type":"publish","bytes":1}"#,
        r#"{"type":"publish","id":1,"data":1}"#,
        r#"{"type":"publish","data":01}"#,
        r#"{"type":"publish","data":NaN}"#,
        r#"{"type":"publish","data":+1}"#,
        r#"{"type":"publish","data":.5}"#,
        r#"{"type":"publish","data":"\x41"}"#,
        r#"{"type":"publish","data":"\u12"}"#,
        "{\"type\":\"publish\",\"data\":\"a\nb\"}",
        r#"{"type":"publish","data":{"a" 1}}"#,
        r#"{"type":"publish","data":[1,]}"#,
        r#"{"type":"signal"}"#,
        r#"{"type":"signal","name":5}"#,
        r#"{"type":"signal","name":"n","bytes":"AA=="}"#,
    ] {
        assert_eq!(code(text), BadRequest, "{text}");
    }
}

#[test]
fn unknown_types() {
    for text in
        [r#"{"type":"dance"}"#, r#"{"type":""}"#, r#"{"type":"Publish","data":1}"#, r#"{"type":"ack"}"#]
    {
        assert_eq!(code(text), UnknownCommand, "{text}");
    }
}

#[test]
fn names_and_ids() {
    for kind in ["join", "leave", "publish", "signal", "history", "presence", "connect"] {
        for room in [String::new(), "a".repeat(129), r"a\u0000b".into(), r"a\nb".into(), "\u{85}".into()] {
            let text = format!(r#"{{"type":"{kind}","name":"n","data":1,"room":"{room}"}}"#);
            assert_eq!(code(&text), InvalidName, "{text}");
        }
        ok(&format!(r#"{{"type":"{kind}","name":"n","data":1,"room":"{}"}}"#, "a".repeat(128)));
    }
    assert_eq!(code(r#"{"type":"connect","user":"\u0000"}"#), InvalidName);
    assert_eq!(code(r#"{"type":"signal","name":""}"#), InvalidName);
    assert_eq!(code(&format!(r#"{{"type":"signal","name":"{}"}}"#, "é".repeat(65))), InvalidName);
    for id in ["", "~1", r"a\u0007", &"a".repeat(65)] {
        assert_eq!(code(&format!(r#"{{"type":"publish","id":"{id}","data":1}}"#)), InvalidId, "{id}");
    }
    assert_eq!(
        published(&format!(r#"{{"type":"publish","id":"{}","data":1}}"#, "a".repeat(64))).data.len(),
        1
    );
}

#[test]
fn base64() {
    let bytes =
        |text: &str| published(&format!(r#"{{"type":"publish","bytes":"{text}"}}"#)).data.into_owned();
    assert_eq!(bytes(""), b"");
    assert_eq!(bytes("AA=="), [0]);
    // Some encoders escape the slash.
    assert_eq!(bytes(r"\/\/\/\/"), [255, 255, 255]);
    for text in ["AA", "AA=", "A", "_-__", "AB==", "AA==AA==", " AA==", "AA==\\n", "é"] {
        let text = format!(r#"{{"type":"publish","bytes":"{text}"}}"#);
        assert_eq!(code(&text), InvalidData, "{text}");
    }
}

/// CASES R06: a lone surrogate in one message disconnected every client, and replay did it again.
#[test]
fn r06_lone_surrogates_are_refused() {
    for data in [
        r#"{"text":"\ud83d"}"#,
        r#""\uDF38""#,
        r#""a\uDF38b""#,
        r#""\ud83d\ud83d\udf38""#,
        r#""\ud83d\\udf38""#,
        r#""\ud83dx""#,
        r#""\ud83d\u0041""#,
        r#"{"\udfff":1}"#,
        r#"["ok",{"a":["\\","\uD800"]}]"#,
    ] {
        assert_eq!(code(&with_data(data)), InvalidData, "{data}");
        let signal = format!(r#"{{"type":"signal","name":"n","data":{data}}}"#);
        assert_eq!(code(&signal), InvalidData, "{signal}");
    }
    for text in [
        r#"{"type":"join","room":"\ud83d"}"#,
        r#"{"type":"publish","id":"\udf38","data":1}"#,
        r#"{"type":"signal","name":"\udf38"}"#,
    ] {
        assert_eq!(code(text), InvalidData, "{text}");
    }
    for data in [r#""\ud83c\udf89""#, r#""\\ud83d""#, r#""\ud7ff\ue000""#, r#""\uD83C\uDF89\uD83C\uDF89""#] {
        assert_eq!(&*published(&with_data(data)).data, data.as_bytes());
    }
}

/// CASES R07: recursion on nested JSON killed the server.
#[test]
fn r07_nesting_is_limited_by_count_and_not_by_the_stack() {
    let limit = Limits::default().json_depth;
    assert_eq!(limit, 64);
    assert_eq!(published(&with_data(&nested(64))).data.len(), 128);
    published(&with_data(&format!(r#"{{"a":{}}}"#, nested(63))));
    for depth in [65, 127, 128, 129, 100_000] {
        let refused = refused(&with_data(&nested(depth)));
        assert_eq!(refused.error.code(), TooDeep, "{depth}");
        assert!(refused.error.message().contains("64"));
        assert_eq!((refused.reference, refused.id.as_deref()), (Some(4), Some("m1")));
    }
    // Brackets in strings are text.
    published(&with_data(&format!(r#""\"{}""#, "[".repeat(1000))));
    // Anywhere else in the frame, complete or not.
    let deep = nested(100_000);
    let open = r#"{"a":"#.repeat(100_000);
    for text in [
        deep.clone(),
        open.clone(),
        "[".repeat(100_000),
        format!(r#"{{"type":"publish","data":{open}"#),
        format!(r#"{{"type":"ping","x":{deep}}}"#),
        format!(r#"{{"x":{deep},"type":"ping"}}"#),
        format!(r#"{{"type":"signal","name":"n","data":{deep}}}"#),
    ] {
        assert_eq!(code(&text), TooDeep, "{}", &text[..40]);
    }
    for field in ["room", "type", "ref", "since"] {
        assert_eq!(code(&format!(r#"{{"type":"join","{field}":{deep}}}"#)), BadRequest);
    }
    ok(&format!(r#"{{"type":"ping","x":{}}}"#, nested(64)));
    let limits = Limits { json_depth: 0, ..Limits::default() };
    assert!(decode(&with_data("1"), &limits).is_ok());
    assert!(decode(&with_data("[]"), &limits).is_err());
}

/// CASES R08: an interior NUL was cut off or panicked.
#[test]
fn r08_a_nul_in_a_name_is_refused_and_never_cut() {
    for text in [
        r#"{"type":"join","room":"a\u0000b"}"#,
        r#"{"type":"connect","user":"\u0000"}"#,
        r#"{"type":"signal","name":"a\u0000"}"#,
    ] {
        assert_eq!(code(text), InvalidName, "{text}");
    }
    assert_eq!(refused(r#"{"type":"join","room":"a\u0000b"}"#).room.as_deref(), Some("a\0b"));
    assert_eq!(code(r#"{"type":"publish","id":"a\u0000","data":1}"#), InvalidId);
    // A raw NUL is not JSON.
    assert_eq!(code("{\"type\":\"join\",\"room\":\"a\0b\"}"), BadRequest);
}

/// CASES X07: names that look alike were taken for one in some places and not in others.
#[test]
fn x07_names_are_compared_byte_for_byte() {
    let rooms = [
        "caf\u{e9}",
        "cafe\u{301}",
        "\u{435}",
        "e",
        "a\u{200b}",
        "a",
        "\u{202e}a",
        "👩\u{200d}👩\u{200d}👧",
        "👩👩👧",
    ];
    for room in rooms {
        let text = format!(r#"{{"type":"publish","room":"{room}","data":1}}"#);
        assert_eq!(published(&text).room.as_deref(), Some(room));
    }
}

/// CASES X08: two parsers resolved a duplicate key differently.
#[test]
fn x08_a_field_given_twice_is_refused() {
    for text in [
        r#"{"type":"publish","room":"public","room":"secret","data":"x"}"#,
        r#"{"type":"publish","room":"public","\u0072oom":"secret","data":"x"}"#,
        r#"{"type":"publish","room":null,"room":"secret","data":"x"}"#,
        r#"{"type":"publish","type":"publish","data":"x"}"#,
        r#"{"type":"publish","data":1,"data":1}"#,
        r#"{"type":"ping","ref":1,"ref":1}"#,
        r#"{"type":"ping","x":1,"x":2}"#,
        r#"{"type":"ping","x":1,"y":1,"\u0078":2}"#,
    ] {
        assert_eq!(code(text), BadRequest, "{text}");
    }
    // Within the data it is the application's business.
    published(&with_data(r#"{"a":1,"a":2}"#));
}

#[test]
fn a_refusal_carries_what_could_be_read() {
    let given = |text: &str| {
        let refused = refused(text);
        (refused.reference, refused.id, refused.room, refused.publish)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(given(&with_data("}")), (Some(4), some("m1"), some("lobby"), true));
    assert_eq!(
        given(r#"{"bytes":5,"type":"publish","ref":7,"id":"~x","room":"r\n"}"#),
        (Some(7), some("~x"), some("r\n"), true)
    );
    assert_eq!(given(r#"{"type":"join","room":5,"ref":3}"#), (Some(3), None, None, false));
    assert_eq!(given(r#"{"type":"join","ref":"3","room":"lobby"}"#), (None, None, some("lobby"), false));
    assert_eq!(given("["), (None, None, None, false));
    // A giant id is not sent back.
    let text =
        format!(r#"{{"type":"publish","ref":1,"id":"{0}","room":"{0}","data":1}}"#, "a".repeat(10_000));
    assert_eq!(given(&text), (Some(1), None, None, true));
}

/// Only what is plainly another request is not taken for a connect that failed.
#[test]
fn a_refusal_tells_a_connect_from_other_requests() {
    for text in [
        "{",
        "[]",
        "",
        r#"{"ref":1}"#,
        r#"{"type":5}"#,
        r#"{"type":"conect"}"#,
        r#"{"type":"connect","user":5}"#,
        r#"{"type":"connect","room":"a\u0000b"}"#,
        r#"{"type":"connect","user":"\ud800"}"#,
        r#"{"user":"ann","type":"connect","user":"bob"}"#,
        &format!(r#"{{"x":{},"type":"connect"}}"#, nested(65)),
    ] {
        assert!(refused(text).connect, "{text}");
    }
    for kind in ["join", "leave", "publish", "signal", "history", "presence", "ping"] {
        assert!(!refused(&format!(r#"{{"type":"{kind}","ref":"x"}}"#)).connect, "{kind}");
    }
}

#[test]
fn error_texts_quote_nothing() {
    let secret = "s3cr3t";
    for text in [
        format!(r#"{{"type":"{secret}"}}"#),
        format!(r#"{{"type":"join","room":"{}"}}"#, secret.repeat(50)),
        format!(r#"{{"type":"join","room":{{"{secret}":1}}}}"#),
        format!(r#"{{"type":"join","since":"{secret}"}}"#),
        format!(r#"{{"type":"publish","id":"~{secret}","data":1}}"#),
        format!(r#"{{"type":"publish","bytes":"{secret}"}}"#),
        format!(r#"{{"type":"publish","data":"{secret}\ud800"}}"#),
        format!(r#"{{"{secret}":1,"{secret}":2}}"#),
        format!(r#"{{"{secret}" 1}}"#),
        secret.to_owned(),
    ] {
        let error = refused(&text).error;
        assert!(!error.message().contains(secret), "{error}");
        assert!(!error.message().is_empty());
    }
}

#[test]
fn query() {
    let limits = Limits::default();
    assert_eq!(decode_query("", &limits), Ok(Connect::default()));
    assert_eq!(
        decode_query(
            "room=caf%C3%A9+a&user=ann&token=a%2Bb%3D%26&history=50&x=%ff&echo=false&presence=true",
            &limits
        ),
        Ok(Connect {
            reference: None,
            user: Some("ann".into()),
            token: Some("a+b=&".into()),
            room: Some("café a".into()),
            options: JoinOptions { start: Start::History(50), echo: false, presence: true },
        })
    );
    let since = decode_query("&&since=123&epoch=00000000000000ff&ref=x&", &limits).unwrap();
    assert_eq!(since.options.start, Start::Since { epoch: Some(Epoch(255)), offset: 123, history: 0 });
    assert_eq!(decode_query("user=&token=a=b", &limits).unwrap().token.as_deref(), Some("a=b"));
    assert_eq!(decode_query("ro%6Fm=%6c", &limits).unwrap().room.as_deref(), Some("l"));
    for (query, code) in [
        ("room=", InvalidName),
        ("room", InvalidName),
        ("room=a%00b", InvalidName),
        ("user=%00", InvalidName),
        ("user=a%0Ab", InvalidName),
        (&*format!("room={}", "a".repeat(129)), InvalidName),
        ("token=%00", BadRequest),
        ("room=a&room=b", BadRequest),
        ("room=a&ro%6fm=a", BadRequest),
        ("user=&user=ann", BadRequest),
        ("room=%ff", BadRequest),
        ("room=%C3", BadRequest),
        ("room=%ED%A0%80", BadRequest),
        ("room=%4", BadRequest),
        ("room=%", BadRequest),
        ("room=%zz", BadRequest),
        ("room=%+1", BadRequest),
        ("%ff=a", BadRequest),
        ("history=-1", BadRequest),
        ("history=%2B1", BadRequest),
        ("history=", BadRequest),
        ("since=1.5", BadRequest),
        ("since=18446744073709551616", BadRequest),
        ("epoch=00000000000000ff", BadRequest),
        ("since=1&epoch=ff", BadRequest),
        ("echo=1", BadRequest),
        ("presence=", BadRequest),
    ] {
        assert_eq!(decode_query(query, &limits).map_err(|e| e.code()), Err(code), "{query}");
    }
}

/// JSON-like text, and a valid frame with one place overwritten. No exponents: the oracle below has a largest number.
fn nearly_valid() -> impl Strategy<Value = String> {
    let piece = || {
        prop::sample::select(vec![
            "{", "}", "[", "]", ":", ",", " ", "\"", "\\", "\\u", "d83d", "\"a\"", "1", "-", "0", "null",
            "true", "é", "\u{2028}", "\0", "\n", "",
        ])
    };
    let frame = with_data(r#"{"a":[1,-20,{"b":"\ud83c\udf89 é\n"}],"c":null}"#);
    let overwritten = (0..frame.len(), 0..3usize, piece()).prop_map(move |(at, length, piece)| {
        let (from, to) = (frame.floor_char_boundary(at), frame.ceil_char_boundary(at + length));
        format!("{}{piece}{}", &frame[..from], &frame[to..])
    });
    let data = prop::collection::vec(piece(), 0..8).prop_map(|pieces| with_data(&pieces.concat()));
    prop_oneof![2 => overwritten, 1 => data]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_is_let_through_is_json_to_every_parser(text in nearly_valid()) {
        let limits = Limits { json_depth: 3, ..Limits::default() };
        match decode(&text, &limits) {
            Ok(Command::Publish(publish)) => {
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&publish.data).is_ok(), "{}", text);
            }
            Ok(_) => {}
            Err(refused) if refused.error.message().contains("valid JSON") => {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_err(), "{}", text);
            }
            Err(_) => {}
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in any::<String>(), query in "[a-z=&%+0-9\\PC]{0,40}") {
        let limits = Limits::default();
        prop_assert!(decode(&text, &limits).is_err());
        let _ = decode_query(&query, &limits);
    }

    #[test]
    fn any_strings_come_through(
        room in "\\PC{1,30}",
        id in "[^~\\p{Cc}]\\PC{0,15}",
        reference in proptest::option::of(any::<u64>()),
        data in any::<String>(),
    ) {
        let text = serde_json::json!({"data": data, "ref": reference, "room": room, "id": id, "type": "publish"}).to_string();
        let publish = published(&text);
        prop_assert_eq!(publish.room.as_deref(), Some(&*room));
        prop_assert_eq!(publish.id.as_deref(), Some(&*id));
        prop_assert_eq!(publish.reference, reference);
        prop_assert_eq!(serde_json::from_slice::<String>(&publish.data).unwrap(), data);
    }

    #[test]
    fn any_query_comes_through(room in "\\PC{1,30}", token in "[^\\x00]{0,30}") {
        let escape = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
        let query = format!("token={}&room={}", escape(&token), escape(&room));
        let connect = decode_query(&query, &Limits::default()).unwrap();
        prop_assert_eq!(connect.room.as_deref(), Some(&*room));
        prop_assert_eq!(connect.token.as_deref(), Some(&*token));
    }
}
