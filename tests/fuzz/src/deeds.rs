//! What can happen to a log's files, chosen by the bytes of an input.

use crate::{ID, page};
use klatch::Record;
use klatch::log::{Files, Memory};
use std::sync::Arc;

/// Sequences above this check nowhere; see docs/log-format.md.
const MAX_SEQUENCE: u64 = 1 << 62;

/// The bytes that are left. Past their end there are zeros.
pub struct Input<'a>(pub &'a [u8]);

impl Input<'_> {
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn byte(&mut self) -> u8 {
        self.0.split_off_first().copied().unwrap_or_default()
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// A place in something of this length, its end included.
    fn place(&mut self, len: usize) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % (len + 1)
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte()).min(self.0.len());
        self.0.split_off(..len).unwrap_or_default().to_vec()
    }

    /// Small numbers, those at the borders of types and formats, and any.
    fn sequence(&mut self) -> u64 {
        const BORDERS: [u64; 8] = [
            u64::MAX,
            u64::MAX - 1,
            1 << 63,
            MAX_SEQUENCE,
            MAX_SEQUENCE - 1,
            MAX_SEQUENCE - (1 << 20),
            1 << 32,
            1 << 20,
        ];
        match self.byte() {
            n @ 0..200 => u64::from(n),
            n @ 200..240 => BORDERS[usize::from(n) % BORDERS.len()].wrapping_sub(u64::from(n - 200) / 8),
            _ => self.number(),
        }
    }
}

/// Files in memory, with what a test needs beside.
#[derive(Default)]
pub struct Disk {
    pub files: Arc<Memory>,
}

impl Disk {
    pub fn names(&self) -> Vec<String> {
        self.files.list().unwrap().into_iter().map(|(name, _)| name).collect()
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        let listed = self.files.list().unwrap();
        let len = listed.iter().find(|(n, _)| n == name).map_or(0, |(_, len)| *len);
        let mut bytes = vec![0; len as usize];
        if len > 0 {
            self.files.read_at(name, 0, &mut bytes).unwrap();
        }
        bytes
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let _ = self.files.remove(name);
        self.files.create(name).unwrap();
        self.files.write_at(name, 0, bytes).unwrap();
    }

    pub fn snapshot(&self) -> Vec<(String, Vec<u8>)> {
        self.names().into_iter().map(|name| (name.clone(), self.read(&name))).collect()
    }

    /// Whether a file may say that the last sequences there can be are used.
    pub fn is_exhausted(&self) -> bool {
        let near = |n: u64| n.abs_diff(MAX_SEQUENCE) < 1 << 32;
        self.snapshot().iter().any(|(name, bytes)| {
            let named = name.strip_suffix(".log").and_then(|n| n.parse::<u64>().ok());
            let digits = bytes.split(|b| !b.is_ascii_digit());
            let mut numbers = digits.filter_map(|n| str::from_utf8(n).ok()?.parse().ok());
            named.is_some_and(near)
                || name == "accepted" && numbers.any(near)
                || bytes.windows(8).any(|w| near(u64::from_le_bytes(w.try_into().unwrap_or_default())))
        })
    }
}

/// A round of deeds, and what the log had before it.
pub struct Deeds<'a> {
    disk: &'a Disk,
    before: Vec<(String, Vec<u8>)>,
    /// Whether bytes of a sound log were overwritten in their places and nothing else was done.
    in_place: bool,
}

impl<'a> Deeds<'a> {
    /// `sound`: nothing has happened to the log yet.
    pub fn begin(disk: &'a Disk, sound: bool) -> Deeds<'a> {
        Deeds { disk, before: disk.snapshot(), in_place: sound }
    }

    /// Does what the input says, until it says that it is enough.
    pub fn run(&mut self, input: &mut Input<'_>) {
        for _ in 0..24 {
            let deed = input.byte() % 16;
            if deed == 0 {
                return;
            }
            let names = self.disk.names();
            let mut choose = || names.get(usize::from(input.byte()) % names.len().max(1)).cloned();
            let (Some(name), Some(other)) = (choose(), choose()) else { return };
            self.deed(deed, &name, &other, input);
        }
    }

    fn deed(&mut self, deed: u8, name: &str, other: &str, input: &mut Input<'_>) {
        let disk = self.disk;
        let mut bytes = disk.read(name);
        let at = input.place(bytes.len());
        self.in_place &= deed <= 3;
        match deed {
            1 => bytes.iter_mut().skip(at).take(1).for_each(|b| *b ^= input.byte() | 1),
            2 => bytes.iter_mut().skip(at).take(usize::from(input.byte())).for_each(|b| *b = 0),
            3 => {
                let new = input.bytes();
                bytes.iter_mut().skip(at).zip(new).for_each(|(b, new)| *b = new);
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.splice(at..at, input.bytes())),
            6 => {
                let to = at + input.place(bytes.len() - at);
                bytes.drain(at..to);
            }
            // A part of another file, over this one's bytes or between them.
            7 | 8 => {
                let from = disk.read(other);
                let begin = input.place(from.len());
                let part = from[begin..].iter().take(16 * usize::from(input.byte())).copied();
                let over = if deed == 7 { bytes.len() } else { at };
                let part: Vec<u8> = part.collect();
                let to = (at + part.len()).min(over.max(at));
                bytes.splice(at..to, part);
            }
            9 => {
                disk.files.remove(name).unwrap();
                return;
            }
            10 => {
                let named = page::segment_name(input.sequence());
                disk.files.rename(name, &named).unwrap();
                return;
            }
            11 | 12 => {
                let batch = self.batch(input);
                let at = if deed == 11 { bytes.len() } else { at };
                bytes.splice(at..at, batch);
            }
            13 => {
                let (named, first) = (input.sequence(), input.sequence());
                let first = if input.byte().is_multiple_of(2) { named } else { first };
                let version = 1 + u32::from(input.byte() == 9);
                let mut bytes = page::segment_head(&self.id(input), version, first, input.sequence());
                bytes.extend(self.batch(input));
                return disk.put(&page::segment_name(named), &bytes);
            }
            14 => {
                let synced = page::synced(&self.id(input), input.sequence(), input.sequence());
                return disk.put("synced", &synced);
            }
            _ => {
                let accepted = if input.byte().is_multiple_of(4) {
                    input.bytes()
                } else {
                    let (from, to, first, last) =
                        (input.byte(), input.byte(), input.sequence(), input.sequence());
                    let damage = format!(
                        r#"{{"file":"{name}","from":{from},"to":{to},"missing":[[{first},{last}]]}}"#
                    );
                    page::accepted(&self.id(input), input.sequence(), &damage)
                };
                return disk.put("accepted", &accepted);
            }
        }
        disk.put(name, &bytes);
    }

    fn id(&self, input: &mut Input<'_>) -> [u8; 16] {
        if input.byte() == 77 { *b"another log's id" } else { ID }
    }

    /// A batch that checks as a whole; what is in it need not make sense.
    fn batch(&self, input: &mut Input<'_>) -> Vec<u8> {
        let (id, first, time) = (self.id(input), input.sequence(), input.sequence());
        let (mut content, mut count) = (Vec::new(), 0);
        for i in 0..u64::from(input.byte() % 4) {
            let body =
                if input.byte().is_multiple_of(4) { input.bytes() } else { b"\0\x01\0\0rnull".to_vec() };
            let skip = u64::from(input.byte() == 7);
            content.extend(page::record(&id, first.wrapping_add(i + skip), time, &body));
            count += 1;
        }
        if input.byte() == 8 {
            content.extend(input.bytes());
            count = input.number() as u32;
        }
        page::batch(&id, first, count, &content)
    }

    /// Where bytes were only overwritten: each record that they left alone can still be read.
    pub fn check_kept(&self, read: &[Record]) {
        if !self.in_place {
            return;
        }
        let after = self.disk.snapshot();
        let same = |name: &str, from: usize, to: usize| {
            let of = |files: &[(String, Vec<u8>)]| {
                files.iter().find(|(n, _)| n == name).and_then(|(_, b)| b.get(from..to).map(<[u8]>::to_vec))
            };
            of(&self.before) == of(&after)
        };
        let heads = self.before.iter().filter(|(name, _)| name.ends_with(".log") || name == "synced");
        // Without any of them nobody knows the log's id; without that of a segment and the notes its bounds are guessed.
        if !heads.clone().all(|(name, _)| same(name, 0, 48)) {
            return;
        }
        for (name, bytes) in heads.filter(|(name, _)| name.ends_with(".log")) {
            let mut at = 48;
            while let Some(head) = bytes.get(at..at + 24) {
                let number = |b: &[u8]| b.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
                let (len, count) = (number(&head[4..8]) as usize, number(&head[8..12]));
                if head[..4] != crc32c::crc32c(&ID).to_le_bytes() || bytes.len() < at + 24 + len {
                    break;
                }
                let mut from = at + 24;
                for _ in 0..count {
                    let to = from + 24 + number(&bytes[from..from + 4]) as usize;
                    let sequence = number(&bytes[from + 8..from + 16]);
                    if same(name, from, to) {
                        let found = read.binary_search_by_key(&sequence, Record::offset).is_ok();
                        assert!(found, "{sequence} in {name} at {from} is sound and not read");
                    }
                    from = to;
                }
                at += 24 + len;
            }
        }
    }
}
