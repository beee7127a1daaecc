//! Publications on their way to JavaScript: a table of their small parts as JSON, and their data apart, as one text and one buffer, so that
//! nothing is escaped, and nothing parsed that is not looked at.

use crate::queue::{json, offset};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use klatch::{HistoryPage, Kind, Publication};
use std::fmt::Write;

/// Several publications.
#[derive(Default)]
pub struct Page {
    /// An array with six items for each: offset, prev, time, user, id or 0 if none was given by the sender, and the length of its data: in
    /// UTF-16 units of `text`; or, below zero, `-1 - n` for `n` of `bytes`. Where they are of many rooms, the room is a seventh.
    pub table: String,
    /// The JSON of those that are JSON, without anything between.
    pub text: String,
    /// The bytes of the others.
    pub bytes: Vec<u8>,
}

impl Page {
    /// From the engine's, of one room or of many.
    pub fn new(publications: &[Publication], many: bool) -> Page {
        let mut page = Page { table: String::with_capacity(publications.len() * 64), ..Page::default() };
        page.table.push('[');
        for p in publications {
            page.add(p);
            if many {
                page.table.push(',');
                page.table.push_str(&json(p.room()));
            }
        }
        page.table.push(']');
        page
    }

    fn add(&mut self, p: &Publication) {
        let table = &mut self.table;
        if table.len() > 1 {
            table.push(',');
        }
        offset(table, p.offset());
        table.push(',');
        offset(table, p.prev());
        let user = json(p.user());
        let id = match p.record.given_id() {
            "" => "0".into(),
            id => json(id),
        };
        let data = p.record.data_slice();
        let length = match p.kind() {
            Kind::Binary => {
                self.bytes.extend_from_slice(data);
                -1 - data.len() as i64
            }
            Kind::Json => {
                // The log holds valid UTF-8 only; that is checked on the way in.
                let data = String::from_utf8_lossy(data);
                self.text.push_str(&data);
                utf16_len(&data) as i64
            }
        };
        // Writing to a string cannot fail.
        let _ = write!(table, ",{},{user},{id},{length}", p.time());
    }

    /// All in one JSON array: table, text and the bytes in base64.
    fn inline(&self) -> String {
        format!("[{},{},\"{}\"]", self.table, json(&self.text), base64(&self.bytes))
    }
}

fn utf16_len(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.chars().map(char::len_utf16).sum() }
}

/// Publications as one JSON array.
pub fn inline(publications: &[Publication]) -> String {
    Page::new(publications, false).inline()
}

/// A page of history as JSON.
pub fn history(page: &HistoryPage) -> String {
    let mut out = String::from("[");
    offset(&mut out, page.last);
    // Writing to a string cannot fail.
    let _ = write!(out, ",\"{}\",{},{}]", page.epoch, page.more, inline(&page.publications));
    out
}

/// Bytes in base64, where there is no buffer to put them into.
pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}
