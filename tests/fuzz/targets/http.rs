//! What is read of an HTTP request: its target, its query, its origin, its subprotocols, who it is from.
//!
//! The input is a text like the head of a request: a line with method and target, lines with headers, a blank line, then
//! the origins that the settings allow. What is accepted keeps the limits and means the same written another way; an origin
//! is allowed only if a plain comparison says so.

#![no_main]

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Request, Uri, Version};
use klatch::config::{Limits, Settings};
use klatch::fuzzing::{self, Reading};
use klatch::protocol::native::decode::decode_query;
use libfuzzer_sys::fuzz_target;
use tungstenite::handshake::server::create_response;

fuzz_target!(|data: &[u8]| {
    let Some((request, origins)) = parsed(data) else { return };
    let mut settings = Settings::default();
    settings.origins = origins;
    if fuzzing::check(&settings).is_err() {
        return;
    }
    let limits = Limits::default();
    let reading = fuzzing::request(&request, &settings.origins, &limits);
    let headers = request.headers();
    if reading.origin_allowed {
        check_origin(headers, &settings.origins);
    }
    check_clear(&request, &reading);
    check_identity(headers, request.uri().query().unwrap_or_default(), &reading, &limits);
    check_history(&request, &reading, &limits, &settings.origins);
    let names =
        || headers.get_all("sec-websocket-protocol").iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    if reading.offered == Ok(true) {
        assert!(names().any(|name| name.trim_ascii() == b"klatch.v1"));
    }
    // Not ours, but what it answers is sent by us.
    let _ = create_response(&request);
});

/// A request and the allowed origins, of bytes that hyper would have taken.
fn parsed(data: &[u8]) -> Option<(Request<()>, Vec<String>)> {
    let mut lines = data.split(|b| *b == b'\n');
    let first = lines.next()?;
    let (method, target) = first.split_at(first.iter().position(|b| *b == b' ')?);
    let (old, method) = method.strip_prefix(b"!").map_or((false, method), |method| (true, method));
    let uri = Uri::try_from(target.get(1..)?).ok()?;
    let mut request = Request::builder().method(method).uri(uri);
    request = request.version(if old { Version::HTTP_10 } else { Version::HTTP_11 });
    for line in lines.by_ref().take_while(|line| !line.is_empty()).take(100) {
        let colon = line.iter().position(|b| *b == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        request = request.header(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    let origins = lines.map(|line| String::from_utf8(line.to_vec()).ok());
    Some((request.body(()).ok()?, origins.collect::<Option<_>>()?))
}

/// A page's origin that was let in is the host that is asked for, or one that is allowed.
fn check_origin(headers: &HeaderMap, allowed: &[String]) {
    let origins: Vec<_> = headers.get_all("origin").iter().collect();
    let [origin] = origins[..] else {
        assert!(origins.is_empty(), "two origins were let in");
        return;
    };
    let origin =
        std::str::from_utf8(origin.as_bytes()).expect("an origin that was let in").to_ascii_lowercase();
    let matches = |pattern: &String| {
        let pattern = pattern.to_ascii_lowercase();
        match pattern.split_once("://*.") {
            _ if pattern == "*" => true,
            // One label at least, and of a host: what looks like another host's beginning or end is none.
            Some((scheme, domain)) => origin
                .strip_prefix(&format!("{scheme}://"))
                .and_then(|host| host.strip_suffix(&format!(".{domain}")))
                .is_some_and(|labels| {
                    !labels.is_empty() && !labels.contains(['/', '@', '#', '?', '\\', ' '])
                }),
            None => pattern == origin,
        }
    };
    if allowed.is_empty() {
        let host = headers.get("host").expect("a host, or no origin is the same").to_str().expect("text");
        assert!(origin.split_once("://").is_some_and(|(_, named)| named.eq_ignore_ascii_case(host)));
    } else {
        assert!(allowed.iter().any(matches), "{origin} is none of {allowed:?}");
    }
}

/// Nothing that has a body, or not one host, is answered.
fn check_clear(request: &Request<()>, reading: &Reading) {
    let headers = request.headers();
    let body = headers.contains_key("transfer-encoding")
        || headers.get_all("content-length").iter().any(|length| length != "0");
    let hosts = headers.get_all("host").iter().count();
    let unclear = body || request.version() == Version::HTTP_11 && hosts != 1;
    assert_eq!(reading.unclear.is_some(), unclear);
}

fn check_identity(headers: &HeaderMap, query: &str, reading: &Reading, limits: &Limits) {
    let Ok(Some(connect)) = &reading.identity else { return };
    for (header, name) in [("x-klatch-room", &connect.room), ("x-klatch-user", &connect.user)] {
        let Some(name) = name.as_deref() else { continue };
        assert!(name.len() <= limits.name_bytes && !name.chars().any(char::is_control), "{name:?}");
        assert!(!name.is_empty() || header == "x-klatch-user", "a room without a name");
        // From the query, or from the one header that there is.
        let mut given = headers.get_all(header).iter();
        let from_header = given.next().is_some_and(|value| value.as_bytes() == name.as_bytes());
        let query = decode_query(query, limits).expect("it was read");
        let from_query = [query.room, query.user].iter().flatten().any(|named| named == name);
        assert!(from_query || from_header && given.next().is_none(), "{name:?} is from nowhere");
    }
    assert!(connect.token.as_ref().is_none_or(|token| !token.contains('\0')));
}

/// A room's history is that of the room that the path names, however that is written.
fn check_history(request: &Request<()>, reading: &Reading, limits: &Limits, origins: &[String]) {
    let Some(Ok((room, query))) = &reading.history else { return };
    assert!((1..=limits.name_bytes).contains(&room.len()) && !room.chars().any(char::is_control), "{room:?}");
    let escaped: String = room.bytes().map(|b| format!("%{b:02X}")).collect();
    let path = format!(
        "/rooms/{escaped}/history?after={}&before={}&limit={}&backward={}&at_least={}",
        query.after, query.before, query.limit, query.backward, query.at_least
    );
    let mut again = Request::builder().uri(path).body(()).expect("a path");
    *again.headers_mut() = request.headers().clone();
    let again = fuzzing::request(&again, origins, limits).history;
    assert_eq!(again, Some(Ok((room.clone(), *query))));
}
