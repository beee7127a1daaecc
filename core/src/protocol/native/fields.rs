//! A frame taken apart: the text of each known top-level field, nothing interpreted.

use super::text::check_depth;
use crate::codes::Code;
use crate::error::{Error, Result};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

macro_rules! fields {
    ($($field:ident = $name:literal,)+) => {
        /// A field that some request has.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Field { $($field,)+ }

        /// The fields' names, in the same order.
        pub(super) const NAMES: &[&str] = &[$($name,)+];

        impl Field {
            /// The field with this name.
            pub(super) fn named(name: &str) -> Option<Field> { match name { $($name => Some(Field::$field),)+ _ => None } }
        }
    };
}

fields! {
    Type = "type",
    Ref = "ref",
    Room = "room",
    User = "user",
    Token = "token",
    Id = "id",
    Data = "data",
    Bytes = "bytes",
    Name = "name",
    History = "history",
    Since = "since",
    Epoch = "epoch",
    Echo = "echo",
    Presence = "presence",
    After = "after",
    Before = "before",
    Limit = "limit",
    Backward = "backward",
    AtLeast = "at_least",
}

impl Field {
    /// The name on the wire.
    pub(super) fn name(self) -> &'static str {
        NAMES[self as usize]
    }
}

/// The fields of one frame. After a failed [`Fields::read`] it holds what came before the fault.
#[derive(Default)]
pub(super) struct Fields<'a> {
    values: [Option<&'a str>; NAMES.len()],
    /// Names of unknown fields, kept only to find one that is given twice.
    unknown: Vec<Cow<'a, str>>,
    duplicate: bool,
    too_deep: Option<Error>,
}

impl<'a> Fields<'a> {
    /// Reads a frame. The parser skips values without recursion, so nesting cannot exhaust the stack.
    pub(super) fn read(&mut self, text: &'a str, depth: usize) -> Result<()> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let read = (Reader { fields: self, depth }).deserialize(&mut parser).and_then(|()| parser.end());
        if read.is_err() {
            // The parser's own words could quote the message. A frame that is cut short by its nesting is told so:
            // no field is deeper than the data may be, and the frame itself is one level.
            check_depth(text, depth.saturating_add(1))?;
            return Err(bad("a frame must be one JSON object, in valid JSON"));
        }
        self.unknown.sort_unstable();
        if self.duplicate || self.unknown.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(bad("a field is given twice: give each once"));
        }
        self.too_deep.take().map_or(Ok(()), Err)
    }

    /// The JSON text of a field, `null` too.
    pub(super) fn raw(&self, field: Field) -> Option<&'a str> {
        self.values[field as usize]
    }

    /// The JSON text of a field; `null` is as good as absent.
    pub(super) fn value(&self, field: Field) -> Option<&'a str> {
        self.raw(field).filter(|&value| value != "null")
    }

    /// A string field.
    pub(super) fn string(&self, field: Field) -> Result<Option<Cow<'a, str>>> {
        let Some(value) = self.value(field) else { return Ok(None) };
        match value.strip_prefix('"').and_then(|v| v.strip_suffix('"')) {
            Some(plain) if !plain.contains('\\') => Ok(Some(Cow::Borrowed(plain))),
            Some(_) => match serde_json::from_str(value) {
                Ok(text) => Ok(Some(Cow::Owned(text))),
                // The frame has been parsed, so this is the only fault that is left.
                Err(_) => Err(Error::new(
                    Code::InvalidData,
                    format!("`{}` has half a surrogate pair: send whole characters", field.name()),
                )),
            },
            None => Err(bad(format!("`{}` must be a string", field.name()))),
        }
    }

    /// A whole number.
    pub(super) fn number(&self, field: Field) -> Result<Option<u64>> {
        self.value(field)
            .map(|value| {
                value.parse().map_err(|_| {
                    bad(format!(
                        "`{}` must be a whole number from 0 to 18446744073709551615, with neither point nor exponent",
                        field.name()
                    ))
                })
            })
            .transpose()
    }

    /// A truth value.
    pub(super) fn flag(&self, field: Field) -> Result<Option<bool>> {
        match self.value(field) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(bad(format!("`{}` must be true or false", field.name()))),
        }
    }
}

/// A `bad_request`.
pub(super) fn bad(message: impl Into<String>) -> Error {
    Error::new(Code::BadRequest, message)
}

struct Reader<'f, 'a> {
    fields: &'f mut Fields<'a>,
    depth: usize,
}

impl<'a> DeserializeSeed<'a> for Reader<'_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, parser: D) -> Result<(), D::Error> {
        parser.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Reader<'_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        let fields = self.fields;
        while let Some(key) = map.next_key_seed(KeyReader)? {
            let value = map.next_value::<&RawValue>()?.get();
            match key {
                Key::Known(field) => {
                    let slot = &mut fields.values[field as usize];
                    fields.duplicate |= slot.is_some();
                    slot.get_or_insert(value);
                }
                Key::Unknown(name) => {
                    if let Err(error) = check_depth(value, self.depth) {
                        fields.too_deep = Some(error);
                    }
                    fields.unknown.push(name);
                }
            }
        }
        Ok(())
    }
}

enum Key<'a> {
    Known(Field),
    Unknown(Cow<'a, str>),
}

struct KeyReader;

impl<'a> DeserializeSeed<'a> for KeyReader {
    type Value = Key<'a>;

    fn deserialize<D: Deserializer<'a>>(self, parser: D) -> Result<Key<'a>, D::Error> {
        parser.deserialize_str(self)
    }
}

impl<'a> Visitor<'a> for KeyReader {
    type Value = Key<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_borrowed_str<E>(self, name: &'a str) -> Result<Key<'a>, E> {
        Ok(Field::named(name).map_or(Key::Unknown(Cow::Borrowed(name)), Key::Known))
    }

    // A name with escapes.
    fn visit_str<E>(self, name: &str) -> Result<Key<'a>, E> {
        Ok(Field::named(name).map_or_else(|| Key::Unknown(Cow::Owned(name.into())), Key::Known))
    }
}
