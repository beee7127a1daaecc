//! A client's frame to a command.

use super::fields::{Field, Fields, bad};
use super::text::check;
use crate::codes::Code;
use crate::command::{
    Command, Connect, History, HistoryQuery, Join, JoinOptions, Publish, Ref, Signal, Start,
};
use crate::config::Limits;
use crate::error::{Error, Result};
use crate::ids::{MAX_ID, check_id, check_name};
use crate::message::{Epoch, Kind};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::borrow::Cow;

pub use super::query::decode_query;

/// A frame that is not a valid request, with what of it could be read, so that the reply can carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What is wrong and what to do. The text quotes nothing of the frame.
    pub error: Error,
    /// The request's ref.
    pub reference: Ref,
    /// The message id, if it is not longer than one may be.
    pub id: Option<String>,
    /// The room as it was named, if it is not longer than a name may be.
    pub room: Option<String>,
    /// Whether it was a publish: then the reply says that nothing was stored.
    pub publish: bool,
    /// Whether it was a connect, or may have been one: then nobody knows whom it is from.
    pub connect: bool,
}

/// Decodes one text frame. Strings and data are borrowed from it wherever they have no escapes to undo.
///
/// Errors: `bad_request`, `unknown_command`, `invalid_name`, `invalid_id`, `invalid_data`, `too_deep`. The size of the
/// frame is for the caller to limit. At most `u32::MAX` is taken for `history` and `limit`.
pub fn decode<'a>(text: &'a str, limits: &Limits) -> Result<Command<'a>, Refused> {
    let mut fields = Fields::default();
    match fields.read(text, limits.json_depth).and_then(|()| command(&fields, limits)) {
        Ok(command) => Ok(command),
        Err(error) => Err(refused(&fields, error, limits)),
    }
}

/// The requests that do not say whom a connection is from.
const OTHERS: [&str; 7] = ["join", "leave", "publish", "signal", "history", "presence", "ping"];

fn refused(fields: &Fields<'_>, error: Error, limits: &Limits) -> Refused {
    let text = |field, most| {
        fields.string(field).ok().flatten().filter(|text| text.len() <= most).map(Cow::into_owned)
    };
    let kind = fields.string(Field::Type).ok().flatten();
    Refused {
        publish: kind.as_deref() == Some("publish"),
        connect: !kind.as_deref().is_some_and(|kind| OTHERS.contains(&kind)),
        error,
        reference: fields.number(Field::Ref).ok().flatten(),
        id: text(Field::Id, MAX_ID),
        room: text(Field::Room, limits.name_bytes),
    }
}

fn command<'a>(fields: &Fields<'a>, limits: &Limits) -> Result<Command<'a>> {
    let kind = fields.string(Field::Type)?.ok_or_else(|| bad("a frame must have a `type`"))?;
    let reference = fields.number(Field::Ref)?;
    Ok(match &*kind {
        "publish" => Command::Publish(publish(fields, reference, limits)?),
        "signal" => Command::Signal(signal(fields, reference, limits)?),
        "ping" => Command::Ping { reference },
        "join" => {
            Command::Join(Join { reference, room: room(fields, limits)?, options: join_options(fields)? })
        }
        "leave" => Command::Leave { reference, room: room(fields, limits)? },
        "history" => Command::History(History {
            reference,
            room: room(fields, limits)?,
            query: history_query(fields)?,
        }),
        "presence" => Command::Presence { reference, room: room(fields, limits)? },
        "connect" => {
            let connect = Connect {
                reference,
                room: fields.string(Field::Room)?,
                user: fields.string(Field::User)?.filter(|user| !user.is_empty()),
                token: fields.string(Field::Token)?,
                options: join_options(fields)?,
            };
            connect_names(&connect, limits)?;
            Command::Connect(connect)
        }
        _ => {
            return Err(Error::new(
                Code::UnknownCommand,
                "`type` must be one of connect, join, leave, publish, signal, history, presence, ping",
            ));
        }
    })
}

fn publish<'a>(fields: &Fields<'a>, reference: Ref, limits: &Limits) -> Result<Publish<'a>> {
    let room = room(fields, limits)?;
    let id = fields.string(Field::Id)?;
    if let Some(id) = &id {
        check_id(id)?;
    }
    let (kind, data) = match (fields.raw(Field::Data), fields.string(Field::Bytes)?) {
        (Some(data), None) => {
            check(data, limits.json_depth)?;
            (Kind::Json, Cow::Borrowed(data.as_bytes()))
        }
        (None, Some(base64)) => {
            let bytes = BASE64_STANDARD.decode(&*base64).map_err(|_| {
                Error::new(Code::InvalidData, "`bytes` must be base64 of the standard alphabet, with padding")
            })?;
            (Kind::Binary, Cow::Owned(bytes))
        }
        _ => return Err(bad("a publish must have either `data` or `bytes`")),
    };
    Ok(Publish { reference, room, id, kind, data })
}

fn signal<'a>(fields: &Fields<'a>, reference: Ref, limits: &Limits) -> Result<Signal<'a>> {
    let room = room(fields, limits)?;
    let name = fields.string(Field::Name)?.ok_or_else(|| bad("a signal must have a `name`"))?;
    check_name("event", &name, limits.name_bytes)?;
    if fields.value(Field::Bytes).is_some() {
        return Err(bad("a signal carries `data`, not `bytes`"));
    }
    let data = fields.raw(Field::Data).unwrap_or("null");
    check(data, limits.json_depth)?;
    Ok(Signal { reference, room, name, data })
}

fn room<'a>(fields: &Fields<'a>, limits: &Limits) -> Result<Option<Cow<'a, str>>> {
    let room = fields.string(Field::Room)?;
    if let Some(room) = &room {
        check_name("room", room, limits.name_bytes)?;
    }
    Ok(room)
}

/// Checks the names in a connect, from whichever place it came.
pub(super) fn connect_names(connect: &Connect<'_>, limits: &Limits) -> Result<()> {
    for (what, name) in [("room", &connect.room), ("user", &connect.user)] {
        if let Some(name) = name {
            check_name(what, name, limits.name_bytes)?;
        }
    }
    Ok(())
}

fn join_options(fields: &Fields<'_>) -> Result<JoinOptions> {
    let epoch = fields.string(Field::Epoch)?.map(|text| epoch(&text)).transpose()?;
    Ok(JoinOptions {
        start: start(fields.number(Field::Since)?, epoch, fields.number(Field::History)?)?,
        echo: fields.flag(Field::Echo)?.unwrap_or(true),
        presence: fields.flag(Field::Presence)?.unwrap_or(false),
    })
}

/// Where a member's stream starts, from the three values that say it.
pub(super) fn start(since: Option<u64>, epoch: Option<Epoch>, history: Option<u64>) -> Result<Start> {
    let history = at_most_u32(history.unwrap_or(0));
    match (since, epoch) {
        (Some(offset), epoch) => Ok(Start::Since { epoch, offset, history }),
        (None, Some(_)) => Err(bad("`epoch` needs `since`: a position is both")),
        (None, None) if history == 0 => Ok(Start::Live),
        (None, None) => Ok(Start::History(history)),
    }
}

/// An epoch as klatch writes it.
pub(super) fn epoch(text: &str) -> Result<Epoch> {
    // `parse` would take a plus sign, and fewer digits.
    let written = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
    text.parse()
        .ok()
        .filter(|_| written)
        .ok_or_else(|| bad("`epoch` must be the 16 hexadecimal digits of a reply's `epoch`"))
}

fn history_query(fields: &Fields<'_>) -> Result<HistoryQuery> {
    let default = HistoryQuery::default();
    Ok(HistoryQuery {
        after: fields.number(Field::After)?.unwrap_or(default.after),
        before: fields.number(Field::Before)?.unwrap_or(default.before),
        limit: fields.number(Field::Limit)?.map_or(default.limit, at_most_u32),
        backward: fields.flag(Field::Backward)?.unwrap_or(default.backward),
        at_least: fields.number(Field::AtLeast)?.unwrap_or(default.at_least),
    })
}

fn at_most_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests;
