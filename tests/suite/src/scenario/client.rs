//! What clients do and expect.

use super::World;
use super::pattern::{fill, fill_text, matches, pieces};
use crate::ws::{Answer, Got, Out, PATIENCE, Ws};
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A client of a scenario.
pub(super) struct Client {
    ws: Ws,
    /// Refs of the pings that fences send.
    fences: u64,
    closed: bool,
}

/// How a client asks for its upgrade.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Connect {
    path: Value,
    query: BTreeMap<String, Value>,
    headers: BTreeMap<String, Value>,
    protocols: Vec<String>,
    /// Whether pings of the server are answered.
    pongs: bool,
    /// Texts that are sent along with the request, before its answer.
    with: Vec<Value>,
}

impl Default for Connect {
    fn default() -> Connect {
        Connect {
            path: "/ws".into(),
            query: BTreeMap::new(),
            headers: BTreeMap::new(),
            protocols: vec!["klatch.v1".into()],
            pongs: true,
            with: Vec::new(),
        }
    }
}

/// A frame as a scenario describes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Frame {
    opcode: u8,
    fin: bool,
    rsv: u8,
    masked: bool,
    text: Value,
    hex: String,
}

impl Default for Frame {
    fn default() -> Frame {
        Frame { opcode: 1, fin: true, rsv: 0, masked: true, text: Value::Null, hex: String::new() }
    }
}

/// Refs that no scenario uses.
const FENCES: u64 = 1 << 40;

impl Client {
    /// A text frame as JSON.
    fn json(&mut self) -> Result<Value, String> {
        let text = self.ws.next_text().map_err(|e| e.to_string())?;
        serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.ws.write(bytes).map_err(|e| e.to_string())
    }

    /// Nothing has been sent to this client that it has not seen. The shard sends replies to a ping before what other
    /// threads handed it in the same turn, and all of that before the reply to the ping after it.
    fn fence(&mut self) -> Result<(), String> {
        for _ in 0..2 {
            self.fences += 1;
            let reference = FENCES + self.fences;
            self.ws.text(&format!(r#"{{"type":"ping","ref":{reference}}}"#)).map_err(|e| e.to_string())?;
            let got = self.json()?;
            if got != serde_json::json!({"type": "pong", "ref": reference}) {
                return Err(format!("nothing was expected; got {got}"));
            }
        }
        Ok(())
    }

    /// The end of the scenario: everything must have been expected.
    pub(super) fn end(&mut self) -> Result<(), String> {
        if self.closed { Ok(()) } else { self.fence() }
    }

    fn ended(
        &mut self,
        got: Option<u16>,
        reason: &str,
        code: &Value,
        expected: Option<&Value>,
    ) -> Result<(), String> {
        self.closed = true;
        self.ws.finish(got.unwrap_or(1000));
        let expected = expected.and_then(Value::as_str);
        if got.map(u64::from) != code.as_u64() || expected.is_some_and(|e| e != reason) {
            return Err(format!("closed with {got:?} {reason}"));
        }
        Ok(())
    }

    fn close_frame(&mut self, skip: bool) -> Result<(Option<u16>, String), String> {
        loop {
            match self.ws.read().map_err(|e| e.to_string())? {
                Got::Ping(_) | Got::Pong(_) => {}
                Got::Text(_) if skip => {}
                Got::Close(code, reason) => return Ok((Some(code), reason)),
                Got::End => return Ok((None, String::new())),
                other => return Err(format!("a close was expected; got {other:?}")),
            }
        }
    }
}

impl World {
    pub(super) fn client(&mut self, name: &str, verb: &str, args: &[Value]) -> Result<(), String> {
        match (verb, args) {
            ("connect", args) => {
                let (connect, expected) = match args {
                    [] => (&Value::Null, None),
                    [connect] => (connect, None),
                    [connect, expected, ..] => (connect, Some(expected)),
                };
                let (ws, answer) =
                    self.open(connect)?.map_err(|a| format!("refused: {} {}", a.status, a.body))?;
                if let Some(Value::String(part)) = expected
                    && !answer.head.contains(part.as_str())
                {
                    return Err(format!("the answer was {}", answer.head));
                }
                let client = Client { ws, fences: 0, closed: false };
                if self.clients.insert(name.into(), client).is_some_and(|old| !old.closed) {
                    return Err(format!("{name} is connected already"));
                }
                return Ok(());
            }
            ("refused", [connect, status, rest @ ..]) => {
                let Err(answer) = self.open(connect)? else { return Err("it was let in".into()) };
                let part = rest.first().and_then(Value::as_str).unwrap_or_default();
                if Some(u64::from(answer.status)) != status.as_u64() || !answer.body.contains(part) {
                    return Err(format!("got {} {}", answer.status, answer.body));
                }
                return Ok(());
            }
            _ => {}
        }
        let World { clients, vars, .. } = self;
        let client = clients.get_mut(name).ok_or_else(|| format!("{name} is not connected"))?;
        match (verb, args) {
            ("send", frames @ [_, ..]) => {
                let mut bytes = Vec::new();
                for frame in frames {
                    let text = fill(frame, vars)?.to_string();
                    bytes.extend(text_frame(&text));
                }
                client.send(&bytes)
            }
            ("send_text", texts @ [_, ..]) => {
                let mut bytes = Vec::new();
                for text in texts {
                    bytes.extend(text_frame(&pieces(text)?));
                }
                client.send(&bytes)
            }
            ("send_frames", frames @ [_, ..]) => {
                let mut bytes = Vec::new();
                for frame in frames {
                    bytes.extend(frame_bytes(frame)?);
                }
                client.send(&bytes)
            }
            ("send_bytes", [hex]) => client.send(&unhex(hex.as_str().unwrap_or_default())?),
            ("send_bytes_slowly", [hex]) => {
                for byte in unhex(hex.as_str().unwrap_or_default())? {
                    client.send(&[byte])?;
                    // Only makes it likely that each byte is read alone; nothing depends on it.
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
            ("repeat_until_closed", [frame, code, rest @ ..]) => {
                let frame = frame_bytes(frame)?;
                let until = Instant::now() + PATIENCE;
                let (got, reason) = loop {
                    // The server may close at any moment; what it said is read below.
                    let _ = client.ws.write(&frame);
                    match client.ws.next_within(Duration::from_millis(20)).map_err(|e| e.to_string())? {
                        Some(Got::Close(code, reason)) => break (Some(code), reason),
                        Some(Got::End) => break (None, String::new()),
                        _ if Instant::now() > until => return Err("it was not closed".into()),
                        _ => {}
                    }
                };
                client.ended(got, &reason, code, rest.first())
            }
            ("expect", patterns @ [_, ..]) => patterns.iter().try_for_each(|pattern| {
                let got = client.json()?;
                matches(pattern, &got, vars)
            }),
            ("expect_unordered", patterns @ [_, ..]) => {
                let mut left: Vec<&Value> = patterns.iter().collect();
                while !left.is_empty() {
                    let got = client.json()?;
                    let hit =
                        left.iter().position(|pattern| matches(pattern, &got, &mut vars.clone()).is_ok());
                    let hit = hit.ok_or_else(|| format!("none of those expected; got {got}"))?;
                    matches(left.remove(hit), &got, vars)?;
                }
                Ok(())
            }
            ("expect_text", [part]) => {
                let part = pieces(part)?;
                let text = client.ws.next_text().map_err(|e| e.to_string())?;
                if text.contains(&part) { Ok(()) } else { Err(format!("got {text}")) }
            }
            ("skip_to", [pattern]) => loop {
                let got = client.json()?;
                if matches(pattern, &got, &mut vars.clone()).is_ok() {
                    return matches(pattern, &got, vars);
                }
            },
            ("nothing", []) => client.fence(),
            ("ping", []) => match client.ws.read().map_err(|e| e.to_string())? {
                Got::Ping(_) => Ok(()),
                other => Err(format!("a ping was expected; got {other:?}")),
            },
            ("pong", [payload]) => {
                let payload = fill_text(payload, vars)?;
                match client.ws.read().map_err(|e| e.to_string())? {
                    Got::Pong(got) if got == payload.as_bytes() => Ok(()),
                    other => Err(format!("a pong was expected; got {other:?}")),
                }
            }
            ("closed" | "skip_to_closed", [code, rest @ ..]) => {
                let (got, reason) = client.close_frame(verb == "skip_to_closed")?;
                client.ended(got, &reason, code, rest.first())
            }
            ("close", [code]) => {
                let code = code.as_u64().unwrap_or_default() as u16;
                client.ws.close(code).map_err(|e| e.to_string())?;
                let (got, _) = client.close_frame(false)?;
                client.closed = true;
                client.ws.finish(code);
                if got == Some(code) { Ok(()) } else { Err(format!("answered with {got:?}")) }
            }
            ("drop", []) => {
                clients.remove(name);
                Ok(())
            }
            _ => Err(format!("clients do not {verb} with {} arguments", args.len())),
        }
    }

    fn open(&self, connect: &Value) -> Result<Result<(Ws, Answer), Answer>, String> {
        let connect: Connect = match connect {
            Value::Null => Connect::default(),
            given => serde_json::from_value(given.clone()).map_err(|e| e.to_string())?,
        };
        let mut path = fill_text(&connect.path, &self.vars)?;
        for (i, (key, value)) in connect.query.iter().enumerate() {
            let mark = if i == 0 && !path.contains('?') { '?' } else { '&' };
            let value = fill_text(value, &self.vars)?;
            path.push_str(&format!("{mark}{}={}", percent(key), percent(&value)));
        }
        let mut headers = Vec::new();
        for (name, value) in &connect.headers {
            headers.push((name.clone(), fill_text(value, &self.vars)?));
        }
        if !connect.protocols.is_empty() {
            headers.push(("Sec-WebSocket-Protocol".into(), connect.protocols.join(", ")));
        }
        let mut with = Vec::new();
        for text in &connect.with {
            with.extend(text_frame(&pieces(text)?));
        }
        let opened = Ws::open(self.address()?, &path, &headers, &with).map_err(|e| e.to_string())?;
        Ok(opened.map(|(mut ws, answer)| {
            ws.answers_pings = connect.pongs;
            (ws, answer)
        }))
    }
}

fn text_frame(text: &str) -> Vec<u8> {
    Out { opcode: 1, fin: true, rsv: 0, masked: true, payload: text.as_bytes() }.bytes()
}

fn frame_bytes(frame: &Value) -> Result<Vec<u8>, String> {
    let f: Frame = serde_json::from_value(frame.clone()).map_err(|e| e.to_string())?;
    let payload = match &f.text {
        Value::Null => unhex(&f.hex)?,
        text => pieces(text)?.into_bytes(),
    };
    Ok(Out { opcode: f.opcode, fin: f.fin, rsv: f.rsv, masked: f.masked, payload: &payload }.bytes())
}

fn unhex(hex: &str) -> Result<Vec<u8>, String> {
    let digits: Vec<u8> = hex.bytes().filter(|b| *b != b' ').collect();
    digits
        .chunks(2)
        .map(|pair| {
            let text = std::str::from_utf8(pair).map_err(|e| e.to_string())?;
            u8::from_str_radix(text, 16).map_err(|e| format!("{text}: {e}"))
        })
        .collect()
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => (b as char).to_string(),
            b => format!("%{b:02X}"),
        })
        .collect()
}
