//! Versions.
//!
//! The ABI has a number of its own, which is also that of the shared library's name (`libklatch.so.0`): it changes only where a program
//! must be compiled again. Functions are added, and never changed.

use crate::text::klatch_str_t;

/// The version of this header: major * 1000000 + minor * 1000 + patch.
pub const KLATCH_VERSION_NUMBER: u32 = 1000;
/// The ABI of this header.
pub const KLATCH_ABI_VERSION: u32 = 0;

/// The version of the library, as a number like KLATCH_VERSION_NUMBER.
#[unsafe(no_mangle)]
pub extern "C" fn klatch_version_number() -> u32 {
    KLATCH_VERSION_NUMBER
}

/// The version of the library as text, "0.1.0". It lives for ever.
#[unsafe(no_mangle)]
pub extern "C" fn klatch_version() -> klatch_str_t {
    klatch_str_t::of(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes())
}

/// The ABI of the library. A program that loads it by itself compares it with KLATCH_ABI_VERSION.
#[unsafe(no_mangle)]
pub extern "C" fn klatch_abi_version() -> u32 {
    KLATCH_ABI_VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_that_of_the_version() {
        let parts: Vec<u32> = env!("CARGO_PKG_VERSION").split('.').map(|n| n.parse().unwrap()).collect();
        assert_eq!(KLATCH_VERSION_NUMBER, parts[0] * 1_000_000 + parts[1] * 1000 + parts[2]);
    }
}
