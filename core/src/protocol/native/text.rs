//! JSON text without a tree: what data may be, and how strings and numbers are written.

use crate::codes::Code;
use crate::config::Limit;
use crate::error::{Error, Result};
use serde::de::IgnoredAny;

/// Checks one JSON value of a caller in this process, by the rules that a client's data is held to, and returns it
/// without the white space around it. `invalid_data` if it is not JSON or has half a surrogate pair, `too_deep`
/// past `depth`.
pub fn check_value(json: &str, depth: usize) -> Result<&str> {
    // In this order, so that a value that is too deep is called that, whether it is complete or not.
    check(json, depth)?;
    serde_json::from_str::<IgnoredAny>(json)
        .map_err(|_| Error::new(Code::InvalidData, "the data is not one valid JSON value"))?;
    Ok(json.trim_matches([' ', '\t', '\n', '\r']))
}

/// Checks JSON that a parser has accepted: nesting of at most `depth` (`too_deep`; a scalar has depth 0, `[]` has 1)
/// and no escape of half a surrogate pair (`invalid_data`), which most languages cannot hold in a string.
///
/// One pass without recursion. It is safe on any text, but finds only these two faults.
pub fn check(json: &str, depth: usize) -> Result<()> {
    walk(json, depth, true)
}

/// The same for the nesting only.
pub(super) fn check_depth(json: &str, depth: usize) -> Result<()> {
    walk(json, depth, false)
}

fn walk(json: &str, depth: usize, surrogates: bool) -> Result<()> {
    let mut rest = json.as_bytes();
    let mut level = 0usize;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'[' | b'{' => {
                level += 1;
                if level > depth {
                    let text = format!("JSON may be nested {depth} levels deep at most: flatten it");
                    return Err(Error::new(Code::TooDeep, text).at(Limit::JsonDepth));
                }
            }
            b']' | b'}' => level = level.saturating_sub(1),
            b'"' => rest = after_string(rest, surrogates)?,
            _ => {}
        }
    }
    Ok(())
}

/// What follows the string that begins here.
fn after_string(mut rest: &[u8], surrogates: bool) -> Result<&[u8]> {
    loop {
        let Some(at) = memchr::memchr2(b'"', b'\\', rest) else { return Ok(&[]) };
        rest = match rest.get(at..).unwrap_or_default() {
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'u', after @ ..] if surrogates => {
                match (unit(after), after.get(4..).unwrap_or_default()) {
                    (0xD800..=0xDBFF, [b'\\', b'u', low @ ..]) if matches!(unit(low), 0xDC00..=0xDFFF) => {
                        low.get(4..).unwrap_or_default()
                    }
                    (0xD800..=0xDFFF, _) => {
                        return Err(Error::new(
                            Code::InvalidData,
                            "the data has half a surrogate pair (an escape from \\ud800 to \\udfff without its other \
                         half): send whole characters",
                        ));
                    }
                    (_, after) => after,
                }
            }
            [_, _, after @ ..] => after,
            _ => return Ok(&[]),
        };
    }
}

/// The UTF-16 unit whose four hexadecimal digits begin here; 0 if there are none.
fn unit(digits: &[u8]) -> u32 {
    let text = digits.get(..4).and_then(|d| std::str::from_utf8(d).ok()).unwrap_or_default();
    u32::from_str_radix(text, 16).unwrap_or_default()
}

/// What stands after the backslash for each byte that a JSON string cannot hold as it is; 0 for all others.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 0x20 {
        table[i] = b'u';
        i += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0A] = b'n';
    table[0x0C] = b'f';
    table[0x0D] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Appends a JSON string, quotes and all. Only what must be escaped is.
pub fn push_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|&b| ESCAPES[b as usize] != 0) {
        let (plain, [byte, after @ ..]) = rest.split_at(at) else { break };
        out.extend_from_slice(plain);
        match ESCAPES[*byte as usize] {
            b'u' => {
                let digit = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[digit[(byte >> 4) as usize], digit[(byte & 15) as usize]]);
            }
            letter => out.extend_from_slice(&[b'\\', letter]),
        }
        rest = after;
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Appends a number in decimal digits.
pub fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut from = digits.len();
    while from > 0 {
        from -= 1;
        digits[from] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[from..]);
}

#[cfg(test)]
mod tests;
