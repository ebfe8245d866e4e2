//! Whole numbers that the reference keeps signed and checks afterwards.
//!
//! Components keep them unsigned. So that a negative one is refused with the reference's text, it is read as a number
//! that the section's `validate` refuses.

use serde::{Deserialize, Deserializer};

/// A number that `validate` wants to be positive: a negative one reads as 0.
pub(crate) fn positive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    i64::deserialize(deserializer).map(zero_if_negative)
}

/// The same where 0, as a missing key is in the reference, takes the default.
pub(crate) fn zero_is<'de, D, const DEFAULT: usize>(deserializer: D) -> Result<usize, D::Error>
where
    D: Deserializer<'de>,
{
    let number = i64::deserialize(deserializer)?;
    Ok(if number == 0 { DEFAULT } else { zero_if_negative(number) })
}

fn zero_if_negative(number: i64) -> usize {
    // What does not fit is no limit either way.
    usize::try_from(number.max(0)).unwrap_or(usize::MAX)
}

/// A number that may be 0: a negative one reads as one that is not [`is_natural`].
pub(crate) fn natural<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    i64::deserialize(deserializer).map(i64::cast_unsigned)
}

/// Whether the reference could keep this number.
pub(crate) const fn is_natural(number: u64) -> bool {
    number <= i64::MAX.cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_number_reads_as_one_that_is_refused() {
        let read = |text| -> i64 { serde_json::from_str(text).unwrap() };
        for (text, expected) in [("-1", 0), ("0", 0), ("7", 7)] {
            assert_eq!(positive(&mut json(text)).unwrap(), expected, "{text}");
        }
        for (text, expected) in [("-1", 0), ("0", 5), ("7", 7)] {
            assert_eq!(zero_is::<_, 5>(&mut json(text)).unwrap(), expected, "{text}");
        }
        for text in ["-9223372036854775808", "-1", "0", "9223372036854775807"] {
            assert_eq!(is_natural(natural(&mut json(text)).unwrap()), read(text) >= 0, "{text}");
        }
        for text in ["1.5", "\"7\"", "9223372036854775808"] {
            assert!(natural(&mut json(text)).is_err() && positive(&mut json(text)).is_err(), "{text}");
        }
    }

    fn json(text: &str) -> serde_json::Deserializer<serde_json::de::StrRead<'_>> {
        serde_json::Deserializer::from_str(text)
    }
}
