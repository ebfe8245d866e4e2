//! Whole numbers that the reference keeps signed and checks afterwards.
//!
//! Components keep them unsigned. So that a negative one is refused with the reference's text, it is read as a number
//! that the section's `validate` refuses.

use std::fmt::Display;

use serde::{Deserialize, Deserializer, de::Error};

/// A number that `validate` wants to be positive: a negative one reads as 0.
pub(crate) fn positive<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64>,
{
    fit(i64::deserialize(deserializer)?.max(0))
}

/// The same where 0, as a missing key is in the reference, takes the default.
pub(crate) fn zero_is<'de, D, T, const DEFAULT: usize>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: TryFrom<i64> + TryFrom<usize>,
{
    match i64::deserialize(deserializer)? {
        0 => fit(DEFAULT),
        number => fit(number.max(0)),
    }
}

/// A number that may be 0: a negative one reads as one that is not [`is_natural`].
pub(crate) fn natural<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    i64::deserialize(deserializer).map(i64::cast_unsigned)
}

/// Whether the reference could keep this number.
pub(crate) const fn is_natural(number: u64) -> bool {
    number <= i64::MAX.cast_unsigned()
}

fn fit<T: TryFrom<N>, N: Copy + Display, E: Error>(number: N) -> Result<T, E> {
    T::try_from(number).map_err(|_| E::custom(format_args!("{number} is too large")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_number_reads_as_one_that_is_refused() {
        let read = |text| -> i64 { serde_json::from_str(text).unwrap() };
        for (text, expected) in [("-1", 0), ("0", 0), ("7", 7)] {
            assert_eq!(positive::<_, usize>(&mut json(text)).unwrap(), expected, "{text}");
        }
        for (text, expected) in [("-1", 0), ("0", 5), ("7", 7)] {
            assert_eq!(zero_is::<_, u32, 5>(&mut json(text)).unwrap(), expected, "{text}");
        }
        for text in ["-9223372036854775808", "-1", "0", "9223372036854775807"] {
            assert_eq!(is_natural(natural(&mut json(text)).unwrap()), read(text) >= 0, "{text}");
        }
        for text in ["1.5", "\"7\"", "9223372036854775808"] {
            assert!(
                natural(&mut json(text)).is_err() && positive::<_, usize>(&mut json(text)).is_err(),
                "{text}"
            );
        }
        let error = positive::<_, u32>(&mut json("4294967296")).unwrap_err();
        assert!(error.to_string().contains("4294967296 is too large"), "{error}");
    }

    fn json(text: &str) -> serde_json::Deserializer<serde_json::de::StrRead<'_>> {
        serde_json::Deserializer::from_str(text)
    }
}
