//! Identity and default room from the query of the upgrade request.

use super::decode::{connect_names, epoch, start};
use super::fields::{Field, NAMES, bad};
use crate::command::{Connect, JoinOptions};
use crate::config::Limits;
use crate::error::Result;
use std::borrow::Cow;

/// Decodes the query of an upgrade request (what follows `?`, percent-encoded): `room`, `user`, `token`, `history`,
/// `since`, `epoch`, `echo`, `presence`, with the meaning of the fields of a connect frame. Other keys are ignored.
///
/// `bad_request` if one of these is given twice, a value has the wrong form, or the encoding is not UTF-8;
/// `invalid_name` for a room or user that cannot be one.
pub fn decode_query(query: &str, limits: &Limits) -> Result<Connect<'static>> {
    let mut given = Given::default();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(field) = Field::named(&unescape(key)?).filter(|field| KEYS.contains(field)) else {
            continue;
        };
        let slot = &mut given.0[field as usize];
        if slot.is_some() {
            return Err(bad(format!("`{}` is given twice in the query: give it once", field.name())));
        }
        *slot = Some(unescape(value)?);
    }
    let epoch = given.take(Field::Epoch).map(|text| epoch(&text)).transpose()?;
    let connect = Connect {
        reference: None,
        room: given.take(Field::Room).map(Cow::Owned),
        user: given.take(Field::User).filter(|user| !user.is_empty()).map(Cow::Owned),
        token: given.take(Field::Token).map(Cow::Owned),
        options: JoinOptions {
            start: start(given.number(Field::Since)?, epoch, given.number(Field::History)?)?,
            echo: given.flag(Field::Echo)?.unwrap_or(true),
            presence: given.flag(Field::Presence)?.unwrap_or(false),
        },
    };
    if connect.token.as_ref().is_some_and(|token| token.contains('\0')) {
        return Err(bad("`token` must not have a zero byte"));
    }
    connect_names(&connect, limits)?;
    Ok(connect)
}

/// The fields that a query may have.
const KEYS: [Field; 8] = [
    Field::Room,
    Field::User,
    Field::Token,
    Field::History,
    Field::Since,
    Field::Epoch,
    Field::Echo,
    Field::Presence,
];

#[derive(Default)]
struct Given([Option<String>; NAMES.len()]);

impl Given {
    fn take(&mut self, field: Field) -> Option<String> {
        self.0[field as usize].take()
    }

    fn number(&mut self, field: Field) -> Result<Option<u64>> {
        let Some(text) = self.take(field) else { return Ok(None) };
        match text.parse() {
            // `parse` would take a plus sign.
            Ok(number) if text.bytes().all(|b| b.is_ascii_digit()) => Ok(Some(number)),
            _ => {
                Err(bad(format!("`{}` must be a whole number from 0 to 18446744073709551615", field.name())))
            }
        }
    }

    fn flag(&mut self, field: Field) -> Result<Option<bool>> {
        match self.take(field).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad(format!("`{}` must be true or false", field.name()))),
        }
    }
}

/// Undoes percent-encoding, and `+` for a space. `bad_request` if what comes out is not UTF-8.
pub fn unescape(text: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        bytes.push(match (byte, after) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => {
                let (Some(high), Some(low)) = (digit(*high), digit(*low)) else { return Err(not_encoded()) };
                rest = after;
                high << 4 | low
            }
            (b'%', _) => return Err(not_encoded()),
            (byte, _) => *byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| not_encoded())
}

fn digit(hex: u8) -> Option<u8> {
    (hex as char).to_digit(16).map(|digit| digit as u8)
}

fn not_encoded() -> crate::error::Error {
    bad("the query must be percent-encoded UTF-8")
}
