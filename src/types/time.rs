//! Points in time and durations, in the text forms of the reference.

use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::error::{Error, Result};

/// A point in time, in UTC, with nanoseconds.
///
/// Its text is RFC 3339 with the trailing zeros of the fraction cut, as Go writes it. Unix second 0 means
/// "never" where a time is optional in the reference's stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(jiff::Timestamp);

/// What the reference writes where a time is not set.
const ZERO_TEXT: &str = "0001-01-01T00:00:00Z";

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const UNIX_EPOCH: Self = Self(jiff::Timestamp::UNIX_EPOCH);

    pub(crate) const fn from_jiff(inner: jiff::Timestamp) -> Self {
        Self(inner)
    }

    /// From whole Unix seconds; out of range (year 9999) saturates, to a whole second too.
    pub fn from_unix_seconds(seconds: i64) -> Self {
        let (first, last) = (jiff::Timestamp::MIN, jiff::Timestamp::MAX);
        let seconds = seconds.clamp(first.as_second(), last.as_second());
        Self(jiff::Timestamp::from_second(seconds).unwrap_or(last))
    }

    /// From Unix nanoseconds.
    pub fn from_unix_nanoseconds(nanoseconds: i64) -> Self {
        // Every i64 of nanoseconds lies between the years 1677 and 2262, so this cannot saturate.
        Self(jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or(jiff::Timestamp::MAX))
    }

    /// Whole Unix seconds, rounded down.
    pub fn unix_seconds(self) -> i64 {
        // In 64 bits, because listings ask for it twice a line.
        self.0.as_second() - i64::from(self.0.subsec_nanosecond() < 0)
    }

    /// Nanoseconds since the last whole second, see [`Self::unix_seconds`].
    pub fn subsecond_nanoseconds(self) -> u32 {
        self.0.subsec_nanosecond().rem_euclid(1_000_000_000) as u32
    }

    /// Unix nanoseconds, saturating at the limits of `i64`.
    pub fn unix_nanoseconds(self) -> i64 {
        i64::try_from(self.0.as_nanosecond()).unwrap_or(if self.0 < jiff::Timestamp::UNIX_EPOCH {
            i64::MIN
        } else {
            i64::MAX
        })
    }

    /// The same time without the fraction of a second, as the pinset stores it.
    #[must_use]
    pub fn truncated_to_seconds(self) -> Self {
        Self::from_unix_seconds(self.unix_seconds())
    }

    /// Time passed since `earlier`; zero when `earlier` is later.
    pub fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::try_from(self.0.duration_since(earlier.0)).unwrap_or(Duration::ZERO)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration).unwrap_or(jiff::Timestamp::MAX))
    }
}

impl Sub<Duration> for Timestamp {
    type Output = Self;
    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration).unwrap_or(jiff::Timestamp::MIN))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    /// RFC 3339, with or without a fraction, in any zone. What lies beyond the last time that there is, 26 hours before the
    /// year 10000, reads as that one: people write 9999-12-31 for never.
    fn from_str(text: &str) -> Result<Self> {
        // jiff alone would also take a date with a space or a zone in brackets.
        let plain = text.len() >= 20 && matches!(text.as_bytes()[10], b'T' | b't') && !text.contains('[');
        let parsed =
            if plain { text.parse::<jiff::Timestamp>().ok().or_else(|| beyond_the_last(text)) } else { None };
        parsed.map(Self).ok_or_else(|| {
            Error::invalid_input(format!(
                "parsing time {text:?}: expected RFC 3339, for example \"2026-01-31T12:00:00Z\""
            ))
        })
    }
}

/// The last time that there is, for a sound text of the days behind it.
fn beyond_the_last(text: &str) -> Option<jiff::Timestamp> {
    let pieces = jiff::fmt::temporal::Pieces::parse(text).ok()?;
    let is_sound = pieces.time().is_some() && pieces.offset().is_some();
    (is_sound && pieces.date().year() == 9999).then_some(jiff::Timestamp::MAX)
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// Serde form of `Option<Timestamp>` where the reference writes `"0001-01-01T00:00:00Z"` for none.
pub(crate) mod or_zero {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.collect_str(time),
            None => serializer.serialize_str(ZERO_TEXT),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        match Option::<std::borrow::Cow<'de, str>>::deserialize(deserializer)? {
            None => Ok(None),
            Some(text) if text == ZERO_TEXT || text.is_empty() => Ok(None),
            Some(text) => text.parse().map(Some).map_err(D::Error::custom),
        }
    }
}

/// Parses a non-negative duration in Go's form (`1h30m`, `250ms`, `1.5s`, `0`).
///
/// # Errors
/// `InvalidInput` with Go's text `time: invalid duration "…"`, plus the forms that are understood.
pub fn parse_go_duration(text: &str) -> Result<Duration> {
    let invalid = || {
        Error::invalid_input(format!(
            "time: invalid duration {text:?} (expected a number with a unit, for example \"1h30m\", \"15s\" or \"250ms\")"
        ))
    };
    if let Some(positive) = text.strip_prefix('-')
        && positive.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && parse_go_duration(positive).is_ok()
    {
        return Err(Error::invalid_input(format!("time: invalid duration {text:?}: it is negative")));
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total_nanoseconds: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(number_end);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let unit_nanoseconds: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(invalid()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || fraction.len() > 18 {
            return Err(invalid());
        }
        if !whole.is_empty() {
            let whole: u128 = whole.parse().map_err(|_| invalid())?;
            total_nanoseconds = whole
                .checked_mul(unit_nanoseconds)
                .and_then(|value| total_nanoseconds.checked_add(value))
                .ok_or_else(invalid)?;
        }
        if !fraction.is_empty() {
            let digits: u128 = fraction.parse().map_err(|_| invalid())?;
            total_nanoseconds += digits * unit_nanoseconds / 10u128.pow(fraction.len() as u32);
        }
        rest = next;
    }
    // Go's durations are i64 nanoseconds; longer ones are errors there too.
    let nanoseconds = i64::try_from(total_nanoseconds).map_err(|_| invalid())?;
    Ok(Duration::from_nanos(nanoseconds as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_as_people_write_it_is_the_last_time_that_there_is() {
        let last = Timestamp(jiff::Timestamp::MAX);
        for text in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:59.999999999-12:00", "9999-12-30T23:00:00Z"] {
            assert_eq!(text.parse::<Timestamp>().unwrap(), last, "{text}");
        }
        for text in
            ["9999-12-32T00:00:00Z", "9999-12-31T24:00:01Z", "9999-12-31T23:59:59", "10000-01-01T00:00:00Z"]
        {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_is_written_as_go_writes_it() {
        for text in ["2026-11-20T23:19:20.706294137Z", "2026-11-20T23:19:20Z", "2026-11-20T23:19:20.5Z"] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), text);
        }
        assert_eq!(
            "2019-07-26T12:18:29.834862706+02:00".parse::<Timestamp>().unwrap().to_string(),
            "2019-07-26T10:18:29.834862706Z"
        );
        for text in [
            "2026-11-20",
            "2026-11-20 23:19:20Z",
            "",
            "soon",
            "2026-11-20T23:19:20Z[UTC]",
            "2026-11-20T23:19:20",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn durations_read_as_in_go() {
        for (text, nanoseconds) in [
            ("0", 0u64),
            ("0s", 0),
            ("1s", 1_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1h0m0.5s", 3_600_500_000_000),
            ("250ms", 250_000_000),
            ("2us", 2_000),
            ("1.5h", 5_400_000_000_000),
            (".5s", 500_000_000),
        ] {
            assert_eq!(parse_go_duration(text).unwrap(), Duration::from_nanos(nanoseconds), "{text}");
        }
        for text in ["", "abc", "1", "-1s", "1 s", "1d", ".s", "1..2s", "99999999999h", "s"] {
            assert!(parse_go_duration(text).is_err(), "{text}");
        }
    }
}
