//! What a chunker is called.

use std::num::IntErrorKind;

use super::CHUNK_BYTES_MAX;
use crate::error::{Error, Result};

/// Chunk size unless something else is asked for, in bytes.
const DEFAULT_BYTES: usize = 256 * 1024;
/// Smallest "min" of Rabin: its window.
const RABIN_MIN_BYTES: i64 = 16;

/// How files are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::adder::import) enum Chunker {
    /// Every so many bytes.
    Size(usize),
    /// Where Rabin's fingerprint says so. All in bytes.
    Rabin { min: u64, average: u64, max: u64 },
    /// Where a rolling hash by cyclic polynomials says so.
    Buzhash,
}

impl Chunker {
    /// Reads `default`, `size-N`, `rabin`, `rabin-AVG`, `rabin-MIN-AVG-MAX` or `buzhash`.
    ///
    /// # Errors
    /// `InvalidInput` in the reference's words.
    pub(in crate::adder::import) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() || text == "default" {
            return Ok(Self::Size(DEFAULT_BYTES));
        }
        let parts: Vec<&str> = text.split('-').collect();
        match parts[..] {
            ["size", size] => parse_size(size),
            ["size", ..] => {
                Err(Error::invalid_input("incorrect chunker string format (expected size-{size})"))
            }
            ["rabin"] => Ok(rabin_around(DEFAULT_BYTES as u64)),
            ["rabin", average] => {
                let average = number(average)?;
                // In the reference's arithmetic: 32 bits, of which some are lost.
                #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
                let max = (average as f32 * 1.5) as i64;
                check_max(max)?;
                Ok(rabin_around(average.unsigned_abs()))
            }
            ["rabin", min, average, max] => parse_rabin(min, average, max),
            ["rabin", ..] => Err(Error::invalid_input(
                "incorrect format (expected 'rabin' 'rabin-[avg]' or 'rabin-[min]-[avg]-[max]'",
            )),
            ["buzhash", ..] => Ok(Self::Buzhash),
            _ => Err(Error::invalid_input(format!("unrecognized chunker option: {text}"))),
        }
    }
}

fn parse_size(size: &str) -> Result<Chunker> {
    let size = number(size)?;
    if size <= 0 {
        return Err(Error::invalid_input("chunker size must be greater than 0"));
    }
    check_max(size)?;
    Ok(Chunker::Size(usize::try_from(size).unwrap_or(CHUNK_BYTES_MAX)))
}

fn rabin_around(average: u64) -> Chunker {
    Chunker::Rabin { min: average / 3, average, max: average + average / 2 }
}

fn parse_rabin(min: &str, average: &str, max: &str) -> Result<Chunker> {
    let min = number(labelled(min, "min", "first label must be min")?)?;
    if min < RABIN_MIN_BYTES {
        return Err(Error::invalid_input("rabin min must be greater than 16"));
    }
    let average = number(labelled(average, "avg", "second label must be avg")?)?;
    let max = number(labelled(max, "max", "final label must be max")?)?;
    if min >= average {
        return Err(Error::invalid_input("incorrect format: rabin-min must be smaller than rabin-avg"));
    }
    if average >= max {
        return Err(Error::invalid_input("incorrect format: rabin-avg must be smaller than rabin-max"));
    }
    check_max(max)?;
    Ok(Chunker::Rabin { min: min.unsigned_abs(), average: average.unsigned_abs(), max: max.unsigned_abs() })
}

/// `16` or `min:16`.
fn labelled<'a>(text: &'a str, label: &str, complaint: &str) -> Result<&'a str> {
    match text.split_once(':') {
        None => Ok(text),
        Some((found, _)) if found != label => Err(Error::invalid_input(complaint)),
        Some((_, rest)) => Ok(rest.rsplit(':').next().unwrap_or(rest)),
    }
}

fn check_max(bytes: i64) -> Result<()> {
    if usize::try_from(bytes).is_ok_and(|bytes| bytes > CHUNK_BYTES_MAX) {
        return Err(Error::invalid_input(format!(
            "chunker parameters may not exceed the maximum chunk size of {CHUNK_BYTES_MAX}"
        )));
    }
    Ok(())
}

/// A decimal number, refused in Go's words.
fn number(text: &str) -> Result<i64> {
    text.parse::<i64>().map_err(|source| {
        let reason = match source.kind() {
            IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
            _ => "invalid syntax",
        };
        Error::invalid_input(format!("strconv.Atoi: parsing {text:?}: {reason}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunkers_are_read_as_in_the_reference() {
        for (text, chunker) in [
            ("", Chunker::Size(262_144)),
            ("default", Chunker::Size(262_144)),
            ("size-262144", Chunker::Size(262_144)),
            ("size-+7", Chunker::Size(7)),
            ("size-2096896", Chunker::Size(2_096_896)),
            ("rabin", Chunker::Rabin { min: 87_381, average: 262_144, max: 393_216 }),
            ("rabin-1000", Chunker::Rabin { min: 333, average: 1000, max: 1500 }),
            ("rabin-16-17-18", Chunker::Rabin { min: 16, average: 17, max: 18 }),
            ("rabin-min:16-avg:17-max:18", Chunker::Rabin { min: 16, average: 17, max: 18 }),
            ("buzhash", Chunker::Buzhash),
            ("buzhash-x", Chunker::Buzhash),
        ] {
            assert_eq!(Chunker::parse(text).unwrap(), chunker, "{text}");
        }
    }

    #[test]
    fn what_is_no_chunker_is_refused_in_the_references_words() {
        let too_large = "chunker parameters may not exceed the maximum chunk size of 2096896";
        let rabin = "incorrect format (expected 'rabin' 'rabin-[avg]' or 'rabin-[min]-[avg]-[max]'";
        for (text, message) in [
            ("nope", "unrecognized chunker option: nope"),
            ("rabinx", "unrecognized chunker option: rabinx"),
            ("size", "incorrect chunker string format (expected size-{size})"),
            ("size-1-2", "incorrect chunker string format (expected size-{size})"),
            ("size-x", "strconv.Atoi: parsing \"x\": invalid syntax"),
            ("size-", "strconv.Atoi: parsing \"\": invalid syntax"),
            (
                "size-99999999999999999999",
                "strconv.Atoi: parsing \"99999999999999999999\": value out of range",
            ),
            ("size-0", "chunker size must be greater than 0"),
            ("size-2096897", too_large),
            ("rabin-2000000", too_large),
            ("rabin-9223372036854775807", too_large),
            ("rabin-1-2", rabin),
            ("rabin-1-2-3-4", rabin),
            ("rabin-15-20-30", "rabin min must be greater than 16"),
            ("rabin-avg:20-30-40", "first label must be min"),
            ("rabin-20-max:30-40", "second label must be avg"),
            ("rabin-20-30-min:40", "final label must be max"),
            ("rabin-20-20-30", "incorrect format: rabin-min must be smaller than rabin-avg"),
            ("rabin-20-30-30", "incorrect format: rabin-avg must be smaller than rabin-max"),
            ("rabin-20-30-3000000", too_large),
        ] {
            assert_eq!(Chunker::parse(text).unwrap_err().to_string(), message, "{text}");
        }
    }
}
