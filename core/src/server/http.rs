//! HTTP: the upgrade to WebSocket, health, metrics, history as JSON, and the host's page.

use crate::broker::Health;
use crate::codes::Code;
use crate::command::{Connect, HistoryQuery};
use crate::config::{Limit, Limits};
use crate::error::Error;
use crate::ids::check_name;
use crate::metrics::Metrics;
use crate::protocol::native::{self, decode, encode};
use crate::server::admission::{Admission, Permit, Refusal};
use crate::server::given::Given;
use crate::server::inbox::{Arrival, Inbox, Item, Upgraded};
use crate::server::shared::Shared;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;

/// What the HTTP side knows.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) shared: Arc<Shared>,
    pub(crate) admission: Arc<Admission>,
    /// Places for the handshakes of connections that the host hands over.
    pub(crate) given: Arc<Semaphore>,
    pub(crate) shards: Vec<Arc<Inbox>>,
    pub(crate) next: AtomicUsize,
    pub(crate) origins: Vec<String>,
    /// The page at `/`.
    pub(crate) page: Option<Bytes>,
    pub(crate) stopping: AtomicBool,
}

type Answer = Response<Full<Bytes>>;

/// One HTTP connection.
#[derive(Debug)]
struct Visit {
    /// None once it is granted an upgrade.
    permit: Option<Permit>,
    granted: Option<Granted>,
}

/// An upgrade that was granted.
#[derive(Debug)]
struct Granted {
    connect: Option<Connect<'static>>,
    permit: Permit,
}

/// The kernel would take megabytes for a peer that reads nothing, of each member a copy of its own.
#[cfg(target_os = "linux")]
fn keep_unsent(io: &TcpStream, bytes: usize) {
    if bytes > 0 {
        let _ = socket2::SockRef::from(io).set_tcp_notsent_lowat(bytes as u32);
    }
}

#[cfg(not(target_os = "linux"))]
fn keep_unsent(_: &TcpStream, _: usize) {}

/// Serves one connection until it ends or is upgraded and handed to a shard. It was accepted at `since`.
pub(crate) async fn serve(
    given: Given,
    address: SocketAddr,
    since: Instant,
    permit: Permit,
    site: &Arc<Site>,
) {
    // A peer that resets at once.
    let _ = given.io.set_nodelay(true);
    let limits = &site.shared.policy.limits;
    keep_unsent(&given.io, limits.unsent_bytes);
    let visit = Arc::new(Mutex::new(Visit { permit: Some(permit), granted: None }));
    let service = service_fn(|request: Request<Incoming>| {
        let visit = visit.clone();
        Box::pin(async move { Ok::<_, Infallible>(answer(request, site, &visit).await) })
    });
    // What it has waited is taken from the time for its head, down to a little.
    let patience = Duration::from_millis(limits.handshake_timeout_ms);
    let head = patience.saturating_sub(since.elapsed()).max(patience / 16);
    let mut conn = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        // The least buffer that it takes; the head itself has its own bound.
        .max_buf_size(limits.header_bytes.max(8192))
        .max_header_size(limits.header_bytes)
        .max_headers(limits.headers)
        // Its vectored writes can raise SIGPIPE, which would end a C host; plain ones do not.
        .writev(false)
        .serve_connection(TokioIo::new(given), service);
    // A place among the handshakes is not kept for ever, also not by a client that reads no answers.
    let life = Duration::from_millis(limits.http_timeout_ms);
    let served = std::future::poll_fn(|cx| conn.poll_without_shutdown(cx));
    let served = tokio::time::timeout_at(since + life, served).await;
    if !matches!(served, Ok(Ok(()))) {
        let passed = match served {
            Err(_) => Some(Limit::HttpTimeoutMs),
            Ok(Err(e)) if e.is_timeout() => Some(Limit::HandshakeTimeoutMs),
            // It does not say which of the two.
            Ok(Err(e)) if e.is_parse_too_large() => {
                let long = conn.into_parts().read_buf.len() >= limits.header_bytes;
                Some(if long { Limit::HeaderBytes } else { Limit::Headers })
            }
            Ok(_) => None,
        };
        if let Some(limit) = passed {
            site.shared.metrics.limit_hits[limit].inc();
        }
        site.shared.metrics.handshakes_refused.inc();
        return;
    }
    let granted = visit.lock().unwrap_or_else(PoisonError::into_inner).granted.take();
    let Some(Granted { connect, permit }) = granted else { return };
    let parts = conn.into_parts();
    let Given { read: unread, io } = parts.io.into_inner();
    // Out of tokio's reactor, still non-blocking.
    let Ok(io) = io.into_std() else { return };
    let i = site.next.fetch_add(1, Ordering::Relaxed);
    let alive: Vec<_> = site.shards.iter().filter(|s| !s.is_gone()).collect();
    if let Some(shard) = alive.get(i % alive.len().max(1)) {
        // Mostly nothing; then its buffer need not wait for the shard.
        let read = match (parts.read_buf.is_empty(), unread.is_empty()) {
            (true, _) => unread,
            (false, true) => parts.read_buf,
            (false, false) => [parts.read_buf, unread].concat().into(),
        };
        let arrival = Arrival { read, address, connect, permit };
        shard.push(Item::Upgraded(Upgraded { io, arrival }));
    }
}

async fn answer(request: Request<Incoming>, site: &Arc<Site>, visit: &Mutex<Visit>) -> Answer {
    let shared = &site.shared;
    if let Some(message) = unclear(&request) {
        shared.metrics.handshakes_refused.inc();
        let mut refusal = text(StatusCode::BAD_REQUEST, message);
        refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return refusal;
    }
    let path = request.uri().path();
    if path == "/ws" {
        return upgrade(&request, site, visit);
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
    }
    match path {
        "/" => match &site.page {
            Some(page) => content(StatusCode::OK, "text/html; charset=utf-8", page.clone()),
            None => text(StatusCode::NOT_FOUND, "klatch: chat clients connect to /ws\n"),
        },
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match shared.broker.health() {
            _ if !site.stopping.load(Ordering::Relaxed) && site.shards.iter().any(|s| s.is_gone()) => {
                text(StatusCode::SERVICE_UNAVAILABLE, "internal\n")
            }
            Health::Up if !site.stopping.load(Ordering::Relaxed) => ready("ready", &shared.metrics),
            // It serves as well as any other node does.
            Health::Degraded if !site.stopping.load(Ordering::Relaxed) => ready("degraded", &shared.metrics),
            Health::Up | Health::Degraded => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"),
            other => text(StatusCode::SERVICE_UNAVAILABLE, &format!("{}\n", other.name())),
        },
        "/metrics" => {
            let type_ = "text/plain; version=0.0.4; charset=utf-8";
            content(StatusCode::OK, type_, shared.metrics.prometheus().into())
        }
        _ => match history_of(path) {
            Some(room) => history(room, request.uri().query(), site).await,
            None => text(StatusCode::NOT_FOUND, "not found\n"),
        },
    }
}

/// That this serves, and what an operator should know of it.
fn ready(how: &str, metrics: &Metrics) -> Answer {
    let single = if metrics.kafka_single_copy.get() == 1 { "durability: single\n" } else { "" };
    text(StatusCode::OK, &format!("{how}\n{single}"))
}

fn upgrade(request: &Request<Incoming>, site: &Arc<Site>, visit: &Mutex<Visit>) -> Answer {
    let refuse = |status: StatusCode, message: &str| {
        site.shared.metrics.handshakes_refused.inc();
        text(status, &format!("{message}\n"))
    };
    if site.stopping.load(Ordering::Relaxed) {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
    }
    if !origin_allowed(request.headers(), &site.origins) {
        return refuse(StatusCode::FORBIDDEN, "this origin may not connect");
    }
    let protocol = match offered(request.headers()) {
        Ok(protocol) => protocol,
        Err(message) => return refuse(StatusCode::BAD_REQUEST, &message),
    };
    let connect = match identity(request, &site.shared.policy.limits) {
        Ok(connect) => connect,
        Err(e) => {
            site.shared.metrics.refused(&e);
            return refuse(StatusCode::BAD_REQUEST, &e.to_string());
        }
    };
    let mut response = match create_response_with_body(request, || Full::new(Bytes::new())) {
        Ok(response) => response,
        Err(e) => return refuse(StatusCode::BAD_REQUEST, &format!("not a WebSocket handshake: {e}")),
    };
    if protocol {
        let name = HeaderValue::from_static(native::SUBPROTOCOL);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    let mut visit = visit.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(mut permit) = visit.permit.take() else {
        return refuse(StatusCode::BAD_REQUEST, "this connection has been upgraded already");
    };
    match permit.upgrade() {
        Ok(()) => {
            visit.granted = Some(Granted { connect, permit });
            response
        }
        Err(refusal) => {
            // It may ask again.
            visit.permit = Some(permit);
            match refusal {
                Refusal::Full => {
                    refuse(StatusCode::SERVICE_UNAVAILABLE, "the server has as many connections as it takes")
                }
                Refusal::Address => {
                    refuse(StatusCode::TOO_MANY_REQUESTS, "this address has as many connections as it may")
                }
            }
        }
    }
}

/// Why a request is refused that we and a proxy before us might read in two ways: for a body, which nothing here takes, or any
/// number of hosts but one. The refusal ends the connection, so that nothing behind it is taken for a request.
fn unclear<B>(request: &Request<B>) -> Option<&'static str> {
    let headers = request.headers();
    let empty = headers.get_all(header::CONTENT_LENGTH).iter().all(|length| length == "0");
    if !empty || headers.contains_key(header::TRANSFER_ENCODING) {
        Some("a request must not have a body here\n")
    } else if request.version() == Version::HTTP_11 && headers.get_all(header::HOST).iter().count() != 1 {
        Some("a request must name one host\n")
    } else {
        None
    }
}

/// Whether our subprotocol is offered; an error if only others are.
fn offered(headers: &HeaderMap) -> Result<bool, String> {
    let mut any = false;
    for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
        for name in value.to_str().unwrap_or_default().split(',') {
            if name.trim() == native::SUBPROTOCOL {
                return Ok(true);
            }
            any |= !name.trim().is_empty();
        }
    }
    if any {
        return Err(format!("none of the subprotocols offered is {}", native::SUBPROTOCOL));
    }
    Ok(false)
}

/// User, token and room from the query, and from headers where the query does not name them.
fn identity<B>(request: &Request<B>, limits: &Limits) -> Result<Option<Connect<'static>>, Error> {
    let mut connect = decode::decode_query(request.uri().query().unwrap_or_default(), limits)?;
    let field = |name: &str| -> Result<Option<String>, Error> {
        let mut values = request.headers().get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        // A proxy may have added the one that counts.
        if values.next().is_some() {
            return Err(Error::new(Code::BadRequest, format!("the header {name} is given twice")));
        }
        let bad = |_| Error::new(Code::BadRequest, format!("the header {name} is not UTF-8"));
        std::str::from_utf8(value.as_bytes()).map(|s| Some(s.to_owned())).map_err(bad)
    };
    if connect.room.is_none() {
        connect.room = field("x-klatch-room")?.map(Into::into);
    }
    if connect.user.is_none() {
        connect.user = field("x-klatch-user")?.map(Into::into);
    }
    if connect.token.is_none() {
        let bearer = field("authorization")?;
        connect.token = bearer.and_then(|b| {
            let (scheme, token) = b.split_once(' ')?;
            scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim().to_owned().into())
        });
    }
    let named = connect.room.is_some() || connect.user.is_some() || connect.token.is_some();
    for (what, name) in [("room", &connect.room), ("user", &connect.user)] {
        if let Some(name) = name
            && !(what == "user" && name.is_empty())
        {
            check_name(what, name, limits.name_bytes)?;
        }
    }
    Ok(named.then_some(connect))
}

/// Browsers name the page's origin: it must be one that is allowed, or by default the host that is asked for. Other clients send
/// none.
fn origin_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let mut origins = headers.get_all(header::ORIGIN).iter();
    let Some(origin) = origins.next() else { return true };
    let (Ok(origin), None) = (origin.to_str(), origins.next()) else { return false };
    if allowed.iter().any(|a| a == "*") {
        return true;
    }
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    if !crate::config::check::is_host(host) {
        return false;
    }
    if allowed.is_empty() {
        return headers
            .get(header::HOST)
            .and_then(|h| h.to_str().ok())
            .is_some_and(|h| h.eq_ignore_ascii_case(host));
    }
    allowed.iter().any(|pattern| match pattern.split_once("://") {
        Some((s, p)) if s.eq_ignore_ascii_case(scheme) => match p.strip_prefix("*.") {
            // A subdomain, port and all: the dot belongs to what must match.
            Some(domain) => host
                .len()
                .checked_sub(domain.len() + 1)
                .filter(|at| *at > 0)
                .and_then(|at| host.get(at..))
                .is_some_and(|end| end.starts_with('.') && end[1..].eq_ignore_ascii_case(domain)),
            None => p.eq_ignore_ascii_case(host),
        },
        _ => false,
    })
}

async fn history(room: &str, query: Option<&str>, site: &Arc<Site>) -> Answer {
    let limits = &site.shared.policy.limits;
    let failed = |e: &Error| {
        site.shared.metrics.refused(e);
        failed(e)
    };
    if site.shared.policy.authorizer {
        let message = "history by HTTP is closed while an authorizer is set; join the room and ask there";
        return failed(&Error::new(Code::Denied, message));
    }
    let (room, query) = match asked(room, query, limits) {
        Ok(parsed) => parsed,
        Err(e) => return failed(&e),
    };
    let reader = site.shared.history.clone();
    let read = tokio::task::spawn_blocking(move || {
        let page = reader.query(&room, &query)?;
        let mut out = Vec::new();
        encode::history(&mut out, None, &room, page.epoch, &page.publications, page.more, page.last);
        Ok::<_, Error>(out)
    });
    match read.await {
        Ok(Ok(json)) => content(StatusCode::OK, "application/json", json.into()),
        Ok(Err(e)) => failed(&e),
        Err(_) => failed(&Error::new(Code::Internal, "the history could not be read")),
    }
}

/// The room, as it stands in the path, whose history a path names.
fn history_of(path: &str) -> Option<&str> {
    path.strip_prefix("/rooms/")?.strip_suffix("/history")
}

/// A room and the part of its history that are asked for.
fn asked(room: &str, query: Option<&str>, limits: &Limits) -> Result<(String, HistoryQuery), Error> {
    // Unlike in a query, a plus in a path is a plus.
    let room = native::unescape(&room.replace('+', "%2B"))?;
    check_name("room", &room, limits.name_bytes)?;
    Ok((room, history_query(query.unwrap_or_default())?))
}

fn history_query(query: &str) -> Result<HistoryQuery, Error> {
    let mut q = HistoryQuery::default();
    let mut given = Vec::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let bad =
            || Error::new(Code::BadRequest, format!("the query's {key} has a value that cannot be used"));
        // `parse` would take a plus sign.
        let digits = value.bytes().all(|b| b.is_ascii_digit());
        let number = || value.parse::<u64>().ok().filter(|_| digits).ok_or_else(bad);
        match key {
            "after" => q.after = number()?,
            "before" => q.before = number()?,
            "at_least" => q.at_least = number()?,
            "limit" => q.limit = u32::try_from(number()?).unwrap_or(u32::MAX),
            "backward" => q.backward = value.parse().map_err(|_| bad())?,
            _ => continue,
        }
        if given.contains(&key) {
            return Err(Error::new(
                Code::BadRequest,
                format!("the query's {key} is given twice: give it once"),
            ));
        }
        given.push(key);
    }
    Ok(q)
}

fn failed(e: &Error) -> Answer {
    let status = match e.code().number() / 100 {
        1 => StatusCode::SERVICE_UNAVAILABLE,
        2 => StatusCode::BAD_REQUEST,
        4 => StatusCode::FORBIDDEN,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut out = Vec::new();
    encode::error(&mut out, e, None, None, None, None);
    content(status, "application/json", out.into())
}

fn text(status: StatusCode, message: &str) -> Answer {
    content(status, "text/plain; charset=utf-8", Bytes::copy_from_slice(message.as_bytes()))
}

fn content(status: StatusCode, type_: &'static str, body: Bytes) -> Answer {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(type_));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// All that is read of a request, for tests/fuzz.
#[cfg(feature = "fuzzing")]
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Reading {
    pub unclear: Option<&'static str>,
    pub origin_allowed: bool,
    pub offered: Result<bool, String>,
    pub identity: Result<Option<Connect<'static>>, Error>,
    pub history: Option<Result<(String, HistoryQuery), Error>>,
}

/// Reads a request as [`answer`] and what it calls do.
#[cfg(feature = "fuzzing")]
pub fn read<B>(request: &Request<B>, origins: &[String], limits: &Limits) -> Reading {
    let uri = request.uri();
    Reading {
        unclear: unclear(request),
        origin_allowed: origin_allowed(request.headers(), origins),
        offered: offered(request.headers()),
        identity: identity(request, limits),
        history: history_of(uri.path()).map(|room| asked(room, uri.query(), limits)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut h = HeaderMap::new();
        for (k, v) in pairs {
            let name: header::HeaderName = k.parse().unwrap();
            h.append(name, v.parse().unwrap());
        }
        h
    }

    #[test]
    fn r21_look_alike_origins_are_refused() {
        let allowed = vec!["https://*.example.com".to_owned()];
        let ok = |o: &str| origin_allowed(&headers(&[("origin", o)]), &allowed);
        assert!(ok("https://a.example.com"));
        assert!(ok("https://a.b.example.com"));
        for bad in [
            "https://evilexample.com",
            "https://example.com.evil.net",
            "https://a.example.com:444",
            "http://a.example.com",
            "https://example.com",
            "https://.example.com",
            "null",
            "",
        ] {
            assert!(!ok(bad), "{bad}");
        }
        assert!(origin_allowed(&headers(&[]), &allowed), "not a browser");
        let two = headers(&[("origin", "https://a.example.com"), ("origin", "https://a.example.com")]);
        assert!(!origin_allowed(&two, &allowed));
        let same = headers(&[("origin", "http://localhost:8080"), ("host", "localhost:8080")]);
        assert!(origin_allowed(&same, &[]));
        let other = headers(&[("origin", "http://localhost:8081"), ("host", "localhost:8080")]);
        assert!(!origin_allowed(&other, &[]));
    }

    #[test]
    fn subprotocols() {
        assert_eq!(offered(&headers(&[])), Ok(false));
        assert_eq!(offered(&headers(&[("sec-websocket-protocol", "x, klatch.v1")])), Ok(true));
        assert!(offered(&headers(&[("sec-websocket-protocol", "mqtt")])).is_err());
    }
}
