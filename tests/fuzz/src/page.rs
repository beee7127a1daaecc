//! The log's files by docs/log-format.md alone: nothing here is the product's.

use klatch::Record;
use klatch::log::Place;

/// A CRC32C that begins with the log's id.
fn crc(id: &[u8; 16], parts: &[&[u8]]) -> u32 {
    parts.iter().fold(crc32c::crc32c(id), |crc, part| crc32c::crc32c_append(crc, part))
}

/// The name of the segment that begins with this sequence.
pub fn segment_name(first: u64) -> String {
    format!("{first:020}.log")
}

/// The head of a segment.
pub fn segment_head(id: &[u8; 16], version: u32, first: u64, created: u64) -> Vec<u8> {
    closed(
        [&b"klatchlg"[..], &version.to_le_bytes(), id, &first.to_le_bytes(), &created.to_le_bytes()].concat(),
    )
}

/// The file `synced`.
pub fn synced(id: &[u8; 16], first: u64, last: u64) -> Vec<u8> {
    closed([&b"klatchsy"[..], &1u32.to_le_bytes(), id, &first.to_le_bytes(), &last.to_le_bytes()].concat())
}

fn closed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.extend(crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// The file `accepted`, with damage in JSON.
pub fn accepted(id: &[u8; 16], next: u64, damage: &str) -> Vec<u8> {
    let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
    let mut bytes = format!("{{\"log\":\"{id}\",\"next\":{next},\"damage\":[{damage}]}}\n").into_bytes();
    bytes.extend(format!("{:08x}\n", crc32c::crc32c(&bytes)).bytes());
    bytes
}

/// A record of a sequence, with any body.
pub fn record(id: &[u8; 16], sequence: u64, time: u64, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32).to_le_bytes();
    let numbers = [sequence.to_le_bytes(), time.to_le_bytes()].concat();
    let crc = crc(id, &[&length, &numbers, body]).to_le_bytes();
    [&length[..], &crc, &numbers, body].concat()
}

/// A batch that says to begin with `first` and to have `count` records, with any content.
pub fn batch(id: &[u8; 16], first: u64, count: u32, content: &[u8]) -> Vec<u8> {
    let head =
        [&(content.len() as u32).to_le_bytes()[..], &count.to_le_bytes(), &first.to_le_bytes()].concat();
    let crc = crc(id, &[&head, content]).to_le_bytes();
    [&crc32c::crc32c(id).to_le_bytes()[..], &head, &crc, content].concat()
}

/// Panics unless the segment's bytes at the place are this record.
pub fn check_record(id: &[u8; 16], segment: &[u8], read: &Record, place: &Place) {
    let bytes = &segment[place.at as usize..][..place.len as usize];
    assert_eq!(bytes, record(id, read.offset(), read.time(), read.body()));
    let [kind, room, user, given, text @ ..] = &read.body()[..] else { panic!("a record without a head") };
    assert!(*kind < 2 && *room > 0);
    let names = [*room, *user, *given].map(usize::from);
    let mut rest = text;
    for len in names {
        let name = rest.split_off(..len).expect("a name within the body");
        std::str::from_utf8(name).expect("a name in UTF-8");
    }
    assert!(*kind == 1 || std::str::from_utf8(rest).is_ok());
}
