//! `kafka://host[:port][,host[:port]…][/topic]`, parsed by hand: URL libraries know one host only.

use crate::codes::Code;
use crate::error::{Error, Result};
use std::fmt;

/// What an address begins with.
pub const SCHEME: &str = "kafka://";
/// Where a broker listens if nobody says.
const DEFAULT_PORT: u16 = 9092;
/// The topic if nobody names one.
const DEFAULT_TOPIC: &str = "chats";
/// Longest topic name that Kafka takes.
const MAX_TOPIC: usize = 249;

/// Which topic on which cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `host:port,host:port`: brokers to ask for the others.
    pub servers: String,
    /// The topic.
    pub topic: String,
}

impl Address {
    /// Reads an address. The error, `invalid_config`, never repeats what stands before an `@`: it may be a password.
    pub fn parse(text: &str) -> Result<Address> {
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return bad(format!("it begins with {SCHEME}"));
        };
        if rest.contains('@') {
            return bad(
                "it holds no user and no password; set sasl.username and sasl.password under [kafka.properties]".into(),
            );
        }
        if rest.contains(['?', '#']) {
            return bad("it ends with the topic; further settings belong under [kafka]".into());
        }
        let (hosts, topic) = rest.split_once('/').unwrap_or((rest, ""));
        let topic = if topic.is_empty() { DEFAULT_TOPIC } else { topic };
        check_topic(topic)?;
        let servers = hosts.split(',').map(server).collect::<Result<Vec<_>>>()?.join(",");
        Ok(Address { servers, topic: topic.to_owned() })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.servers, self.topic)
    }
}

/// One `host[:port]`, its port filled in.
fn server(text: &str) -> Result<String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let Some((host, after)) = rest.split_once(']') else {
                return bad(format!("{text:?} lacks the closing bracket of an IPv6 address"));
            };
            if host.parse::<std::net::Ipv6Addr>().is_err() {
                return bad(format!("{host:?} is no IPv6 address"));
            }
            let port = match after.strip_prefix(':') {
                Some(port) => Some(port),
                None if after.is_empty() => None,
                None => return bad(format!("{text:?}: after the bracket comes :PORT or nothing")),
            };
            (format!("[{host}]"), port)
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(h, p)| (h, Some(p)));
            if port.is_some_and(|p| p.contains(':')) {
                return bad(format!("{text:?}: write an IPv6 address in brackets, as in [::1]:9092"));
            }
            let is_host = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
            if host.is_empty() || !host.bytes().all(is_host) {
                return bad(format!(
                    "{text:?} is no host; write HOST or HOST:PORT, several with commas between"
                ));
            }
            (host.to_owned(), port)
        }
    };
    let port = match port {
        None => DEFAULT_PORT,
        Some(digits) => match digits.parse::<u16>() {
            // Not what parse takes too, such as +80.
            Ok(port) if port > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => port,
            _ => return bad(format!("{text:?}: a port is a number from 1 to 65535")),
        },
    };
    Ok(format!("{host}:{port}"))
}

fn check_topic(topic: &str) -> Result<()> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    if topic.contains('/') {
        return bad(format!("{topic:?}: one topic, and nothing after it"));
    }
    if !topic.bytes().all(legal) || topic == "." || topic == ".." {
        return bad(format!("{topic:?} is no topic: its letters are a-z, A-Z, 0-9, '.', '_' and '-'"));
    }
    if topic.len() > MAX_TOPIC {
        return bad(format!("a topic's name has at most {MAX_TOPIC} letters, this one has {}", topic.len()));
    }
    Ok(())
}

fn bad<T>(what: String) -> Result<T> {
    let shape = "kafka://HOST[:PORT][,HOST[:PORT]...][/TOPIC]";
    Err(Error::new(Code::InvalidConfig, format!("the log's address is not {shape}: {what}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> (String, String) {
        let a = Address::parse(text).unwrap();
        // What it is written as means the same.
        assert_eq!(Address::parse(&a.to_string()).unwrap(), a);
        (a.servers, a.topic)
    }

    #[test]
    fn what_is_left_out_is_filled_in() {
        let own = |servers: &str, topic: &str| (servers.to_owned(), topic.to_owned());
        assert_eq!(parsed("kafka://a"), own("a:9092", "chats"));
        assert_eq!(parsed("kafka://a/"), own("a:9092", "chats"));
        assert_eq!(parsed("kafka://a:1/t"), own("a:1", "t"));
        assert_eq!(
            parsed("kafka://a.b-c_d,127.0.0.1:65535/x.y_z-1"),
            own("a.b-c_d:9092,127.0.0.1:65535", "x.y_z-1")
        );
        assert_eq!(parsed("kafka://[::1]"), own("[::1]:9092", "chats"));
        assert_eq!(parsed("kafka://[fe80::2]:7,h/t"), own("[fe80::2]:7,h:9092", "t"));
        assert_eq!(parsed(&format!("kafka://a/{}", "t".repeat(249))).1.len(), 249);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, word) in [
            ("kafka:/a/t", "begins with"),
            ("http://a/t", "begins with"),
            ("kafka://", "no host"),
            ("kafka:///t", "no host"),
            ("kafka://a,/t", "no host"),
            ("kafka://a b/t", "no host"),
            ("kafka://ä/t", "no host"),
            ("kafka://::1/t", "in brackets"),
            ("kafka://[::1/t", "closing bracket"),
            ("kafka://[nonsense]/t", "no IPv6"),
            ("kafka://[::1]9092/t", "after the bracket"),
            ("kafka://a:/t", "a port is"),
            ("kafka://a:0/t", "a port is"),
            ("kafka://a:65536/t", "a port is"),
            ("kafka://a:+1/t", "a port is"),
            ("kafka://a/t/u", "nothing after"),
            ("kafka://a/t u", "no topic"),
            ("kafka://a/zürich", "no topic"),
            ("kafka://a/.", "no topic"),
            ("kafka://a/..", "no topic"),
            ("kafka://a/t?acks=1", "under [kafka]"),
            ("kafka://a/t#x", "under [kafka]"),
        ] {
            let e = Address::parse(text).unwrap_err();
            assert_eq!(e.code(), Code::InvalidConfig);
            assert!(e.message().contains(word), "{text}: {e}");
        }
        assert!(Address::parse(&format!("kafka://a/{}", "t".repeat(250))).is_err());
    }

    #[test]
    fn a_password_is_refused_and_not_repeated() {
        let e = Address::parse("kafka://ann:s3cret@a:9092/t").unwrap_err();
        assert!(e.message().contains("sasl.password") && !e.message().contains("s3cret"), "{e}");
    }
}
