//! What a session may send.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use klatch_suite::random::Random;
use klatch_suite::ws::Out;
use serde_json::{Value, json};

/// One thing to send, and what must come of it.
pub enum Command {
    /// A text message that must be answered under its `ref`; a publish may be answered by its publication instead.
    Request { text: String, reference: u64, publishes: Option<Published> },
    /// A text message that must be answered by an error that names no request.
    Junk(String),
    /// Bytes after which the connection must end with one of these close codes.
    Fatal(Vec<u8>, &'static [u16]),
    /// A ping of the WebSocket protocol.
    Ping(Vec<u8>),
}

/// What a publication must have to be the answer to a publish.
pub struct Published {
    pub id: String,
    /// None: the default room.
    pub room: Option<String>,
}

/// Makes them up. What it remembers makes requests that fit each other: rooms that were joined, ids that were used.
pub struct Author {
    random: Random,
    /// In every id, so that no other session's are met.
    name: String,
    next: u64,
    ids: Vec<(String, String, String)>,
}

const ROOMS: [&str; 6] = ["shared", "a", "b", "c", "déjà vu", "🎉"];
const BAD_ROOMS: [&str; 4] = ["", "a\u{0}b", "\u{7f}", "tab\there"];

impl Author {
    pub fn new(random: Random, name: String) -> Author {
        Author { random, name, next: 0, ids: Vec::new() }
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.random.below(n)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len() as u64) as usize]
    }

    /// A query for `/ws`. None: the server must refuse it, or may.
    pub fn query(&mut self, user: &str) -> (String, bool) {
        let room = self.one(&["shared", "a", "%F0%9F%8E%89"]);
        match self.below(8) {
            0 => (String::new(), true),
            1 | 2 => (format!("user={user}"), true),
            3 => (format!("user={user}&room={room}"), true),
            4 => (format!("user={user}&room={room}&history={}", self.below(100)), true),
            5 => (format!("user={user}&room={room}&since={}&presence=true", self.below(1000)), true),
            6 => (format!("user={user}&room={room}&echo=false&unknown={}", self.below(9)), true),
            _ => (
                self.one(&["user=%FF", "room=%00", "user=a&user=b", "since=x&room=a", "echo=1&room=a"])
                    .into(),
                false,
            ),
        }
    }

    /// The next thing to send.
    pub fn command(&mut self) -> Command {
        match self.below(100) {
            0..72 => self.request(),
            72..84 => self.nearly(),
            84..89 => self.junk(),
            89..95 => Command::Ping({
                let n = self.below(126) as usize;
                self.random.bytes(n)
            }),
            _ => self.fatal(),
        }
    }

    fn data(&mut self) -> Value {
        match self.below(6) {
            0 => json!("a".repeat(self.below(3000) as usize)),
            1 => json!([null, -0.5, {"a": [1, 2, {"b": "\u{1F389}"}]}]),
            2 => json!("\u{2028}\" \\ \u{0}"),
            3 => Value::Null,
            n => json!({"text": "hello", "n": n}),
        }
    }

    /// A publish: new, again, or again with another body.
    fn publish(&mut self) -> Value {
        if !self.ids.is_empty() && self.below(4) == 0 {
            let at = self.below(self.ids.len() as u64) as usize;
            let (room, id, data) = self.ids[at].clone();
            let data = if self.below(3) == 0 { r#""another""#.to_owned() } else { data };
            let data: Value = serde_json::from_str(&data).unwrap_or_default();
            return json!({"type": "publish", "room": room, "id": id, "data": data});
        }
        let (room, id) = (self.one(&ROOMS), format!("{}.{}", self.name, self.next));
        if self.below(5) == 0 {
            let n = self.below(300) as usize;
            let bytes = BASE64_STANDARD.encode(self.random.bytes(n));
            return json!({"type": "publish", "room": room, "id": id, "bytes": bytes});
        }
        let data = self.data();
        self.ids.push((room.to_owned(), id.clone(), data.to_string()));
        json!({"type": "publish", "room": room, "id": id, "data": data})
    }

    fn valid(&mut self) -> Value {
        let room = self.one(&ROOMS);
        match self.below(12) {
            0..4 => self.publish(),
            4 => {
                json!({"type": "join", "room": room, "history": self.below(60), "presence": self.below(2) == 0})
            }
            5 => json!({"type": "join", "room": room, "since": self.below(2000), "echo": self.below(2) == 0}),
            6 => json!({"type": "leave", "room": room}),
            7 => json!({"type": "signal", "room": room, "name": "typing", "data": self.data()}),
            8 => json!({"type": "history", "room": room, "limit": self.below(40), "before": self.below(3000),
                        "backward": self.below(2) == 0}),
            9 => json!({"type": "history", "room": room, "after": self.below(1 << 40)}),
            10 => json!({"type": "presence", "room": room}),
            _ => json!({"type": "ping"}),
        }
    }

    fn reference(&mut self) -> u64 {
        self.next += 1;
        // Small, and as large as they get.
        if self.next.is_multiple_of(2) { self.next } else { u64::MAX - self.next }
    }

    /// With its `ref` in front, where also a server that reads no further than the fault has seen it.
    fn with_reference(&mut self, mut fields: Value, publishes: Option<Published>) -> Command {
        let reference = self.reference();
        let rest = match fields.as_object_mut() {
            Some(fields) => serde_json::to_string(fields).unwrap_or_default(),
            None => "{}".into(),
        };
        let text = format!("{{\"ref\":{reference},{}", &rest[1..]);
        Command::Request { text, reference, publishes }
    }

    pub fn request(&mut self) -> Command {
        let fields = self.valid();
        let publishes = published(&fields);
        self.with_reference(fields, publishes)
    }

    /// A valid request with one thing wrong, or perhaps wrong.
    fn nearly(&mut self) -> Command {
        let mut fields = self.valid();
        match self.below(10) {
            0 => fields["type"] = json!(self.one(&["joins", "", "connect", "Publish", "\u{0}"])),
            1 => fields["room"] = json!(self.one(&BAD_ROOMS)),
            2 => fields["room"] = json!("a".repeat(127 + self.below(3) as usize)),
            3 => fields["room"] = self.wrong(),
            4 => {
                fields["id"] = json!(self.one(&[
                    "",
                    "~1",
                    "a\u{1}",
                    "0123456789012345678901234567890123456789012345678901234567890123456"
                ]))
            }
            5 => fields["since"] = self.wrong(),
            6 => fields["limit"] = self.wrong(),
            7 => {
                let depth = 6 + self.below(4) as usize;
                let data: Value = (0..depth).fold(json!(1), |inner, _| json!([inner]));
                fields = json!({"type": "publish", "room": "a", "data": data});
            }
            8 => {
                fields =
                    json!({"type": "publish", "room": "a", "bytes": self.one(&["A", "====", "é", "AAAA\n"])})
            }
            _ => {
                // One field less.
                let names: Vec<String> =
                    fields.as_object().into_iter().flatten().map(|f| f.0.clone()).collect();
                let name = &names[self.below(names.len() as u64) as usize];
                if let Some(fields) = fields.as_object_mut() {
                    fields.remove(name);
                }
            }
        }
        let publishes = published(&fields);
        self.with_reference(fields, publishes)
    }

    fn wrong(&mut self) -> Value {
        match self.below(7) {
            0 => json!(-1),
            1 => json!(1.5),
            2 => json!({}),
            3 => json!(true),
            4 => json!("18446744073709551616"),
            5 => json!([0]),
            _ => Value::Null,
        }
    }

    fn junk(&mut self) -> Command {
        let whole = self.valid().to_string();
        Command::Junk(match self.below(6) {
            0 => String::new(),
            1 => {
                let mut cut = self.below(whole.len() as u64) as usize;
                while !whole.is_char_boundary(cut) {
                    cut -= 1;
                }
                whole[..cut].to_owned()
            }
            2 if whole.len() < 2000 => format!("{whole}{whole}"),
            3 => "[".repeat(self.below(4000) as usize + 1),
            4 => r#"{"type":"publish","room":"a","data":"\ud83d"}"#.into(),
            _ => format!("{{\"type\":\"ping\",{}", &whole[1..]),
        })
    }

    fn fatal(&mut self) -> Command {
        let out = |opcode, payload: &[u8]| Out { opcode, fin: true, rsv: 0, masked: true, payload }.bytes();
        match self.below(12) {
            0 => Command::Fatal(out(2, b"binary"), &[4502]),
            1 => Command::Fatal(out(1, b"\"\xC3\x28\""), &[1007]),
            2 => Command::Fatal(
                Out { opcode: 1, fin: true, rsv: 4, masked: true, payload: b"{}" }.bytes(),
                &[1002],
            ),
            3 => Command::Fatal(
                Out { opcode: 1, fin: true, rsv: 0, masked: false, payload: b"{}" }.bytes(),
                &[1002],
            ),
            4 => Command::Fatal(out(self.one(&[3, 7, 11, 15]), b""), &[1002]),
            5 => Command::Fatal(out(0, b"continued"), &[1002]),
            6 => Command::Fatal(out(9, &[0; 126]), &[1002]),
            7 => Command::Fatal(out(8, b"\x03"), &[1002]),
            8 => Command::Fatal(out(8, &self.one(&[999_u16, 1004, 1005, 5000]).to_be_bytes()), &[1002]),
            9 => Command::Fatal(out(1, &vec![b' '; 4097 + self.below(5000) as usize]), &[1009]),
            10 => {
                let piece = |opcode| Out { opcode, fin: false, rsv: 0, masked: true, payload: b" " }.bytes();
                let pieces = 8 + self.below(20);
                Command::Fatal([piece(1), piece(0).repeat(pieces as usize)].concat(), &[1008])
            }
            _ => Command::Fatal(out(8, &1000_u16.to_be_bytes()), &[1000]),
        }
    }

    /// The frames of a text message: one, or several with a ping among them.
    pub fn frames(&mut self, text: &str) -> Vec<u8> {
        let whole = text.as_bytes();
        if self.below(4) > 0 {
            return Out { opcode: 1, fin: true, rsv: 0, masked: true, payload: whole }.bytes();
        }
        let mut bytes = Vec::new();
        let mut cuts: Vec<usize> =
            (0..=self.below(4)).map(|_| self.below(whole.len() as u64 + 1) as usize).collect();
        cuts.push(whole.len());
        cuts.sort_unstable();
        let (mut from, last) = (0, cuts.len() - 1);
        for (n, to) in cuts.into_iter().enumerate() {
            let opcode = u8::from(n == 0);
            let payload = &whole[from..to];
            bytes.extend(Out { opcode, fin: n == last, rsv: 0, masked: true, payload }.bytes());
            if n != last && self.below(2) == 0 {
                bytes
                    .extend(Out { opcode: 10, fin: true, rsv: 0, masked: true, payload: b"unasked" }.bytes());
            }
            from = to;
        }
        bytes
    }
}

fn published(fields: &Value) -> Option<Published> {
    let id = fields["id"].as_str().filter(|_| fields["type"] == "publish")?;
    Some(Published { id: id.to_owned(), room: fields["room"].as_str().map(str::to_owned) })
}
