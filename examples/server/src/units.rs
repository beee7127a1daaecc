//! Sizes and times as people write them.

const SIZES: &[(&str, u64)] =
    &[("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
const TIMES: &[(&str, u64)] =
    &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 7 * 86_400_000)];

/// A number of bytes: `1048576`, `64KiB`, `10GiB`.
pub fn size(text: &str) -> Result<u64, String> {
    parse(text, SIZES)
        .ok_or_else(|| format!("{text:?} is no size; write bytes, or a unit as in 64KiB, 10GiB"))
}

/// A time in milliseconds: `500ms`, `30s`, `10m`, `12h`, `30d`. A unit is needed, except after 0.
pub fn time(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    parse(text, TIMES)
        .ok_or_else(|| format!("{text:?} is no time; write it with a unit, as in 500ms, 30s, 12h, 30d"))
}

/// A whole number without a unit.
pub fn number(text: &str) -> Result<u64, String> {
    parse(text, &[("", 1)]).ok_or_else(|| format!("{text:?} is no whole number"))
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let (_, scale) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    digits.replace('_', "").parse::<u64>().ok()?.checked_mul(*scale).filter(|n| i64::try_from(*n).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        assert_eq!(size("1_000"), Ok(1000));
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("10 GiB"), Ok(10 << 30));
        assert_eq!(time("0"), Ok(0));
        assert_eq!(time("500ms"), Ok(500));
        assert_eq!(time("2d"), Ok(172_800_000));
        assert_eq!(number("12"), Ok(12));
        for bad in ["", "GiB", "10GB", "1.5GiB", "-1", "99999999999999999999", "9999999TiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for bad in ["", "30", "s", "1 year", "-1s"] {
            assert!(time(bad).is_err(), "{bad}");
        }
        assert!(number("1s").is_err());
    }
}
