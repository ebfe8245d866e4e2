//! How another peer's pinset stands to ours.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a peer's pinset stands to that of the peer that says so. Numbers are about right: both sides change meanwhile,
/// and pins that were only changed are not counted.
///
/// As text, in JSON too: `in sync`, `about 120 behind`, `about 3 ahead`, `diverged`, `unknown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum PinsetStanding {
    /// Not asked, or without an answer; Go's peers never answer this.
    #[default]
    Unknown,
    /// The same pins.
    InSync,
    /// It has not heard of everything that we have; so many pins make the difference, one at least.
    Behind(u64),
    /// It has heard of more than we have.
    Ahead(u64),
    /// Other pins, and nothing says who has to catch up.
    Diverged,
}

impl PinsetStanding {
    /// Whether nothing is known.
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// Reads the text. Any other is unknown: it is said by a peer that may know more words than we do.
    fn read(text: &str) -> Self {
        let about = |rest: &str| rest.strip_prefix("about ")?.parse().ok();
        match text {
            "in sync" => return Self::InSync,
            "diverged" => return Self::Diverged,
            _ => {}
        }
        if let Some(pins) = text.strip_suffix(" behind").and_then(about) {
            Self::Behind(pins)
        } else if let Some(pins) = text.strip_suffix(" ahead").and_then(about) {
            Self::Ahead(pins)
        } else {
            Self::Unknown
        }
    }
}

impl fmt::Display for PinsetStanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("unknown"),
            Self::InSync => f.write_str("in sync"),
            Self::Behind(pins) => write!(f, "about {pins} behind"),
            Self::Ahead(pins) => write!(f, "about {pins} ahead"),
            Self::Diverged => f.write_str("diverged"),
        }
    }
}

impl Serialize for PinsetStanding {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PinsetStanding {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::read(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_reads_back_as_it_was_written_and_new_words_are_unknown() {
        use PinsetStanding::{Ahead, Behind, Diverged, InSync, Unknown};
        for (standing, text) in [
            (Unknown, "unknown"),
            (InSync, "in sync"),
            (Behind(120), "about 120 behind"),
            (Ahead(u64::MAX), "about 18446744073709551615 ahead"),
            (Diverged, "diverged"),
        ] {
            let json = serde_json::to_string(&standing).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<PinsetStanding>(&json).unwrap(), standing);
        }
        for text in ["", "In sync", "about x behind", "about 1", "behind", "about -1 ahead", "about 1 ahead!"]
        {
            assert_eq!(PinsetStanding::read(text), Unknown, "{text}");
        }
    }
}
