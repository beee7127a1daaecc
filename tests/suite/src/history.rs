//! A room's history over HTTP, as raw text.

use klatch_harness::http;
use klatch_harness::target::{Target, encode};
use serde::Deserialize;
use serde_json::value::RawValue;

/// All of a room's history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The room's epoch.
    pub epoch: String,
    /// The room's last offset.
    pub last: u64,
    /// The publications, each as it was written.
    pub publications: Vec<String>,
}

#[derive(Deserialize)]
struct Page<'a> {
    epoch: String,
    #[serde(borrow)]
    publications: Vec<&'a RawValue>,
    more: bool,
    last: u64,
}

#[derive(Deserialize)]
struct Offset {
    offset: u64,
}

/// The offset of a publication's text.
///
/// # Panics
/// If it has none.
pub fn offset(publication: &str) -> u64 {
    serde_json::from_str::<Offset>(publication).unwrap_or_else(|e| panic!("{e} in {publication}")).offset
}

/// Reads a room's history from its beginning, `limit` publications at a time.
///
/// # Panics
/// If the server does not answer, or answers with anything but a page.
pub fn history(server: &str, room: &str, limit: u32) -> History {
    let mut all = History::default();
    let mut after = 0;
    loop {
        let path = format!("/rooms/{}/history?after={after}&limit={limit}", encode(room));
        let (status, body) = get(server, &path);
        assert_eq!(status, 200, "{path}: {body}");
        let page: Page<'_> = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e} in {body}"));
        all.publications.extend(page.publications.iter().map(|p| p.get().to_owned()));
        (all.epoch, all.last) = (page.epoch, page.last);
        if !page.more {
            return all;
        }
        let reached = all.publications.last().map_or(0, |p| offset(p));
        assert!(reached > after, "{path} says that there is more and gives nothing new");
        after = reached;
    }
}

/// `GET` of a path: status and body.
///
/// # Panics
/// If the server does not answer.
pub fn get(server: &str, path: &str) -> (u16, String) {
    let target = Target::parse(server).unwrap_or_else(|e| panic!("{e}"));
    http::get(&target.at(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}
