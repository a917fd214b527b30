//! Numbers of bytes and times as a person writes them: `4096`, `64K`, `1.5G`; `10`, `2.5`, `500ms`, `2m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// Not a number of bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a number of bytes: write a number, and K, M, G or T for 1024, 1024², 1024³ or 1024⁴ of them"
)]
pub struct SizeError(String);

const UNITS: [(char, u32); 4] = [('T', 40), ('G', 30), ('M', 20), ('K', 10)];

impl FromStr for Size {
    type Err = SizeError;

    /// `K`, `KB` and `KiB` all mean 1024 bytes, in either case.
    fn from_str(text: &str) -> Result<Self, SizeError> {
        let error = || SizeError(text.to_owned());
        let (number, unit) = split_number(text);
        let unit = unit.trim_start().to_ascii_uppercase();
        let shift = match unit.as_str() {
            "" | "B" => 0,
            unit => {
                let (prefix, suffix) = unit.split_at_checked(1).ok_or_else(error)?;
                let known = UNITS.iter().find(|(known, _)| prefix.starts_with(*known));
                known
                    .filter(|_| matches!(suffix, "" | "B" | "IB"))
                    .map(|(_, shift)| *shift)
                    .ok_or_else(error)?
            }
        };
        let scaled = match number.parse::<u64>() {
            Ok(count) => count.checked_mul(1 << shift),
            Err(_) => fraction(number).and_then(|value| whole(value * (1_u64 << shift) as f64)),
        };
        scaled.map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |shift: u32| self.0 > 0 && self.0.trailing_zeros() >= shift;
        match UNITS.iter().find(|(_, shift)| whole(*shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The longest time that an option takes: a day.
const MAX_TIME: Duration = Duration::from_secs(86_400);

/// Why a text is not a time that an option takes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// Not a time.
    #[error("'{0}' is not a time: write seconds, like 10 or 2.5, or a unit, like 500ms, 10s, 2m, 24h or 7d")]
    Form(String),
    /// Not a time, where a unit is required.
    #[error("'{0}' is not a time: write a number with a unit, like 500ms, 10s, 2m, 24h or 7d")]
    FormWithUnit(String),
    /// A number without its unit.
    #[error("'{0}' lacks a unit: write {0}s, {0}m, {0}h or {0}d")]
    NoUnit(String),
    /// A time outside of the option's bounds.
    #[error("'{0}' is not a time from {min} to {max} seconds", min = .1.as_secs_f64(), max = .2.as_secs_f64())]
    Bounds(String, Duration, Duration),
}

/// Reads a time: numbers with units (ms, s, m, h, d, w), one after the other, or one number in units of `bare`.
///
/// # Errors
/// [`TimeError`].
pub fn time(text: &str, bare: Option<Duration>) -> Result<Duration, TimeError> {
    let error = || match bare {
        Some(_) => TimeError::Form(text.to_owned()),
        None => TimeError::FormWithUnit(text.to_owned()),
    };
    let (mut rest, mut sum) = (text.trim(), Duration::ZERO);
    loop {
        let (number, after) = split_number(rest);
        let value = fraction(number).ok_or_else(error)?;
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = match unit {
            "" if rest == text.trim() && after.is_empty() => {
                bare.ok_or_else(|| TimeError::NoUnit(text.trim().to_owned()))?
            }
            unit => unit_of_time(unit).ok_or_else(error)?,
        };
        let part = Duration::try_from_secs_f64(value * unit.as_secs_f64()).ok().ok_or_else(error)?;
        sum = sum.checked_add(part).ok_or_else(error)?;
        rest = after.trim_start();
        if rest.is_empty() {
            return Ok(sum);
        }
    }
}

/// Reads a time of up to a day; a number without a unit is in seconds.
///
/// # Errors
/// [`TimeError`].
pub fn seconds(text: &str) -> Result<Duration, TimeError> {
    within(text, Duration::from_secs(1), Duration::ZERO, MAX_TIME)
}

/// Reads a time within these bounds; a number without a unit is in units of `bare`.
///
/// # Errors
/// [`TimeError`].
pub fn within(text: &str, bare: Duration, min: Duration, max: Duration) -> Result<Duration, TimeError> {
    let time = time(text, Some(bare))?;
    match min <= time && time <= max {
        true => Ok(time),
        false => Err(TimeError::Bounds(text.to_owned(), min, max)),
    }
}

fn unit_of_time(unit: &str) -> Option<Duration> {
    let seconds = match unit.to_ascii_lowercase().as_str() {
        "ms" | "msec" | "millis" => return Some(Duration::from_millis(1)),
        "s" | "sec" | "secs" | "second" | "seconds" => 1,
        "m" | "min" | "mins" | "minute" | "minutes" => 60,
        "h" | "hr" | "hour" | "hours" => 3600,
        "d" | "day" | "days" => 86_400,
        "w" | "week" | "weeks" => 604_800,
        _ => return None,
    };
    Some(Duration::from_secs(seconds))
}

/// Splits a text after the digits and the point at its beginning.
fn split_number(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len()))
}

/// A number of digits with at most one point, and at least one digit.
fn fraction(number: &str) -> Option<f64> {
    number.bytes().any(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

/// The nearest whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the bounds are checked")]
fn whole(value: f64) -> Option<u64> {
    // Exact up to 2^53.
    (0.0..9e15).contains(&value).then_some(value.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_are_powers_of_1024() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64K", 65_536), ("3m", 3 << 20), ("2G", 2 << 30)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for (text, bytes) in [
            ("1.5M", 3 << 19),
            ("1T", 1 << 40),
            ("1 K", 1024),
            ("10MB", 10 << 20),
            ("2GiB", 2 << 30),
            ("7B", 7),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in [
            "",
            "K",
            "-1",
            "+1",
            "1.5.5M",
            ".",
            "99999999999G",
            "1e9",
            "inf",
            "nan",
            "é",
            "1é",
            "10Mbit",
            "1P",
            "0.5TT",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_has_a_unit_or_is_in_seconds() {
        for (text, millis) in [
            ("10", 10_000),
            ("2.5", 2500),
            ("0", 0),
            ("10s", 10_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1.5h", 5_400_000),
            ("1d", 86_400_000),
            ("1m30s", 90_000),
            ("1h 30 min", 5_400_000),
            (" 10 sec ", 10_000),
        ] {
            assert_eq!(seconds(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "1e3", "nan", "inf", "10x", "10 20", "1m30", "1:30", "é", "1é"] {
            assert!(matches!(seconds(text), Err(TimeError::Form(_))), "{text}");
        }
        for text in ["86401", "25h", "2d"] {
            assert!(matches!(seconds(text), Err(TimeError::Bounds(..))), "{text}");
        }
        assert_eq!(time("10", None), Err(TimeError::NoUnit("10".into())));
        assert_eq!(time("10", Some(Duration::from_millis(1))), Ok(Duration::from_millis(10)));
        assert_eq!(time("1w", None), Ok(Duration::from_secs(604_800)));
    }

    proptest! {
        #[test]
        fn a_size_reads_back_what_it_prints(bytes: u64) {
            prop_assert_eq!(Size(bytes).to_string().parse(), Ok(Size(bytes)));
        }

        #[test]
        fn any_text_is_a_size_or_an_error(text in "\\PC{0,20}") {
            let _ = text.parse::<Size>();
            let _ = seconds(&text);
        }
    }
}
