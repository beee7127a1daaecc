//! The engine's events.

use crate::engine::Engine;
use crate::error::guard;
use crate::queue::json;
use crate::subscription::Ring;
use klatch::{Event, EventStream, NextEvent};
use napi_derive::napi;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::Duration;

/// Most events of one answer.
const BATCH: usize = 256;

/// An event as an array: its kind, then its fields.
fn array(event: Event) -> String {
    match event {
        Event::Connected { connection, user, address } => {
            json(&("connected", connection, user, address.to_string()))
        }
        Event::Disconnected { connection, user, why } => {
            json(&("disconnected", connection, user, why.map(|w| w.name())))
        }
        Event::Joined { connection, user, room } => json(&("joined", connection, user, room)),
        Event::Left { connection, user, room } => json(&("left", connection, user, room)),
        Event::Storage { refusing } => json(&("storage", refusing.map(|c| c.name()))),
        Event::Lost { count } => json(&("lost", count)),
        _ => json(&("other",)),
    }
}

fn rest(stream: &EventStream, first: Event) -> String {
    let mut events = vec![array(first)];
    while events.len() < BATCH
        && let NextEvent::Event(event) = stream.next_within(Duration::ZERO)
    {
        events.push(array(event));
    }
    format!("[{}]", events.join(","))
}

#[napi]
impl Engine {
    /// Has events gather from now on.
    #[napi]
    pub fn open_events(&self) -> napi::Result<()> {
        guard(|| {
            let engine = self.shared.engine()?;
            self.shared.events.get_or_init(|| engine.events());
            Ok(())
        })
    }

    /// The next events as JSON: an array of arrays, or `null` at the end. Nothing if there are none yet: then the ticket will be ready.
    #[napi]
    pub fn poll_events(&self, ticket: u32) -> napi::Result<Option<String>> {
        guard(|| {
            let Some(stream) = self.shared.events.get() else { return Ok(Some("null".into())) };
            let ring = Ring::waker(&self.shared.queue, ticket);
            Ok(match pin!(stream.next()).poll(&mut Context::from_waker(&ring)) {
                Poll::Ready(None) => Some("null".into()),
                Poll::Ready(Some(event)) => Some(rest(stream, event)),
                Poll::Pending => None,
            })
        })
    }
}
