//! The seam between history and live, sans I/O.
//!
//! A shard keeps one cursor a room: the offset up to which it has handed the room's batches to its live members. A member that
//! is behind reads pages of the view up to that cursor, and is live in the turn in which it has reached it. The cursor only
//! grows, and every row at or below it is in the view, so no publication is missed or sent twice.

use crate::points::{Rule, broken};
use std::collections::VecDeque;

/// The stream of a member that is not live yet.
#[derive(Debug)]
pub struct Behind<H> {
    /// What it has been sent: everything up to here.
    at: u64,
    /// A page is being read.
    loading: bool,
    /// Replies that belong behind a position that it has not reached, in order of position.
    held: VecDeque<(u64, H)>,
}

/// What to do next for a member that is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Read the page after `after` and up to `to`.
    Read {
        /// The member's position.
        after: u64,
        /// The shard's cursor.
        to: u64,
    },
    /// Nothing: a page is being read, or the shard itself has yet to reach the member's position.
    Wait,
    /// It has reached the cursor: from now on it is live.
    Live,
}

impl<H> Behind<H> {
    /// A member at a position.
    pub fn new(at: u64) -> Behind<H> {
        Behind { at, loading: false, held: VecDeque::new() }
    }

    /// What it has been sent.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// What to do, given the shard's cursor. After [`Next::Read`] nothing else until [`Behind::page`].
    pub fn next(&mut self, cursor: u64) -> Next {
        if self.loading || self.at > cursor {
            Next::Wait
        } else if self.at == cursor {
            Next::Live
        } else {
            self.loading = true;
            Next::Read { after: self.at + u64::from(broken(Rule::PageIsWhole)), to: cursor }
        }
    }

    /// A page has been sent that ends at `reached`.
    pub fn page(&mut self, reached: u64) {
        self.loading = false;
        self.at = self.at.max(reached);
    }

    /// Keeps a reply until the member has been sent everything up to `position`; gives it back if it has.
    pub fn hold(&mut self, position: u64, reply: H) -> Option<H> {
        if position <= self.at || broken(Rule::ReplyInItsPlace) {
            return Some(reply);
        }
        let i = self.held.partition_point(|h| h.0 <= position);
        self.held.insert(i, (position, reply));
        None
    }

    /// Everything that is still held, in order of position.
    pub fn into_held(self) -> impl Iterator<Item = H> {
        self.held.into_iter().map(|h| h.1)
    }

    /// The next held reply whose position has been reached.
    pub fn release(&mut self) -> Option<H> {
        if self.held.front()?.0 <= self.at { self.held.pop_front().map(|h| h.1) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Publish(u8),
        Deliver,
        Join(u8),
        Page(u8, u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1u8..4).prop_map(Step::Publish),
            Just(Step::Deliver),
            any::<u8>().prop_map(Step::Join),
            (any::<u8>(), 1u8..5).prop_map(|(m, n)| Step::Page(m, n)),
        ]
    }

    struct Member {
        behind: Option<Behind<()>>,
        read: Option<(u64, u64)>,
        start: u64,
        seen: Vec<u64>,
    }

    proptest! {
        /// Publications reach the view at once and the shard in batches; members join anywhere, pages are read whenever and
        /// of any size. Every member sees exactly what came after its start, in order.
        #[test]
        fn every_stream_is_contiguous(steps in prop::collection::vec(step(), 1..200)) {
            let (mut view, mut queued, mut cursor) = (Vec::new(), Vec::new(), 0u64);
            let mut members: Vec<Member> = Vec::new();
            let mut steps = steps;
            for _ in 0..400 { steps.push(Step::Deliver); }
            for i in 0..=255u8 { steps.push(Step::Page(i, 4)); steps.push(Step::Page(i, 4)); }
            for s in steps {
                match s {
                    Step::Publish(n) => for _ in 0..n {
                        let offset = view.last().copied().unwrap_or(0u64) + 1 + u64::from(n % 2);
                        view.push(offset);
                        queued.push(offset);
                    },
                    Step::Deliver => {
                        for offset in queued.drain(..) {
                            cursor = offset;
                            for m in members.iter_mut().filter(|m| m.behind.is_none()) { m.seen.push(offset) }
                        }
                    }
                    Step::Join(x) => {
                        // Anywhere in the view, also ahead of the shard.
                        let start = if view.is_empty() { 0 } else { view[x as usize % view.len()] };
                        members.push(Member { behind: Some(Behind::new(start)), read: None, start, seen: vec![] });
                    }
                    Step::Page(x, n) => if !members.is_empty() {
                        let i = x as usize % members.len();
                        let m = &mut members[i];
                        if let Some((after, to)) = m.read.take() {
                            let page: Vec<u64> =
                                view.iter().copied().filter(|o| *o > after && *o <= to).take(n as usize).collect();
                            let more = page.last().is_some_and(|l| view.iter().any(|o| o > l && *o <= to));
                            m.seen.extend(&page);
                            m.behind.as_mut().unwrap().page(if more { *page.last().unwrap() } else { to });
                        }
                        if let Some(b) = &mut m.behind {
                            match b.next(cursor) {
                                Next::Read { after, to } => m.read = Some((after, to)),
                                Next::Live => m.behind = None,
                                Next::Wait => {}
                            }
                        }
                    },
                }
            }
            for m in &members {
                let end = match &m.behind { None => cursor, Some(b) => b.at() };
                let expected: Vec<u64> = view.iter().copied().filter(|o| *o > m.start && *o <= end).collect();
                prop_assert_eq!(&m.seen, &expected);
            }
        }
    }

    #[test]
    fn replies_wait_for_their_position() {
        let mut b = Behind::new(5);
        assert_eq!(b.hold(5, "now"), Some("now"));
        assert_eq!(b.hold(9, "nine"), None);
        assert_eq!(b.hold(7, "seven"), None);
        assert_eq!(b.release(), None);
        b.page(8);
        assert_eq!(b.release(), Some("seven"));
        assert_eq!(b.release(), None);
        b.page(9);
        assert_eq!(b.release(), Some("nine"));
        assert_eq!((b.hold(20, "twenty"), b.hold(10, "ten")), (None, None));
        assert_eq!(b.into_held().collect::<Vec<_>>(), ["ten", "twenty"]);
    }
}
