//! Pins and where they stand: what listings have millions of, so they are shown from the JSON itself, without a copy of
//! it. Of a field that is not shown only the JSON is checked.

use std::fmt::{self, Write as _};

use ipfs_cluster::types::{PinMode, PinType, TrackerStatus};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};

use super::ZERO_TIME;
use super::plain::{CidText, PeerText, Text, TimeText};

/// What is shown of a pin; what is not there reads as in the client.
#[derive(serde::Deserialize)]
struct Pin<'a> {
    #[serde(borrow)]
    cid: CidText<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(default, rename = "type", deserialize_with = "pin_type")]
    kind: PinType,
    #[serde(default, deserialize_with = "mode")]
    mode: Option<PinMode>,
    max_depth: Option<i32>,
    #[serde(default)]
    replication_factor_min: i32,
    #[serde(default)]
    replication_factor_max: i32,
    #[serde(borrow, default)]
    allocations: Option<Vec<PeerText<'a>>>,
    #[serde(default)]
    metadata: HasEntries,
    #[serde(borrow, default)]
    expire_at: TimeText<'a>,
    #[serde(borrow, default)]
    timestamp: TimeText<'a>,
}

/// What is shown of where a CID stands.
#[derive(serde::Deserialize)]
struct Status<'a> {
    #[serde(borrow)]
    cid: CidText<'a>,
    #[serde(borrow, default)]
    name: Text<'a>,
    #[serde(borrow, default)]
    peer_map: PeerMap<'a>,
}

#[derive(serde::Deserialize)]
struct PeerStatus<'a> {
    #[serde(borrow, default)]
    peername: Text<'a>,
    #[serde(deserialize_with = "status_name")]
    status: TrackerStatus,
    #[serde(borrow, default)]
    timestamp: TimeText<'a>,
    #[serde(borrow, default)]
    error: Text<'a>,
    #[serde(default)]
    attempt_count: u32,
    #[serde(default)]
    priority_pin: bool,
}

/// Puts a pin, on one line, behind what is there.
pub(crate) fn pin(text: &mut String, json: &str) -> serde_json::Result<()> {
    let pin: Pin<'_> = serde_json::from_str(json)?;
    let mode =
        pin.mode.unwrap_or_else(|| pin.max_depth.map_or_else(PinMode::default, PinMode::from_max_depth));
    text.extend([&*pin.cid, " | ", &*pin.name, " | "]);
    upper_case(text, pin.kind.as_str());
    text.push_str(if mode == PinMode::Direct { "-DIRECT" } else { "" });
    text.push_str(" | Repl. Factor: ");
    let factors = (pin.replication_factor_min, pin.replication_factor_max);
    if factors == (-1, -1) {
        text.push_str("-1 | Allocations: [everywhere]");
    } else {
        let _ = write!(text, "{}--{} | Allocations: [", factors.0, factors.1);
        let mut peers = pin.allocations.unwrap_or_default();
        peers.sort_unstable_by(|one, other| (**one).cmp(other));
        for (number, peer) in peers.iter().enumerate() {
            text.push_str(if number == 0 { "" } else { " " });
            text.push_str(peer);
        }
        text.push(']');
    }
    let _ = match pin.max_depth.unwrap_or(mode.max_depth()) {
        0 => write!(text, " | Direct"),
        -1 => write!(text, " | Recursive"),
        depth => write!(text, " | Recursive-{depth}"),
    };
    let HasEntries(has_metadata) = pin.metadata;
    text.push_str(if has_metadata { " | Metadata: yes | Exp: " } else { " | Metadata: no | Exp: " });
    date_time(text, &pin.expire_at, "∞");
    text.push_str(" | Added: ");
    date_time(text, &pin.timestamp, "unknown");
    text.push('\n');
    Ok(())
}

/// Puts where a CID stands, in a block with a line for each peer, behind what is there.
pub(crate) fn status(text: &mut String, json: &str) -> serde_json::Result<()> {
    /// Of a column that is followed by another one.
    const NAME_LETTERS: usize = 20;
    let info: Status<'_> = serde_json::from_str(json)?;
    text.extend([&*info.cid, if info.name.is_empty() { "" } else { " | " }, &*info.name, ":\n"]);
    let PeerMap(mut peers) = info.peer_map;
    peers.sort_by(|(one, _), (other, _)| (**one).cmp(other));
    // Of a peer that is named twice the last counts.
    peers.dedup_by(|later, earlier| {
        let is_again = *later.0 == *earlier.0;
        if is_again {
            std::mem::swap(later, earlier);
        }
        is_again
    });
    for (peer, status) in &peers {
        let name: &str = if status.peername.is_empty() { peer } else { &status.peername };
        text.extend(["    > ", name]);
        text.extend(std::iter::repeat_n(' ', NAME_LETTERS.saturating_sub(name.chars().count())));
        text.push_str(" : ");
        upper_case(text, status.status.as_str());
        text.extend([if status.error.is_empty() { "" } else { ": " }, &*status.error]);
        text.extend([" | ", status.timestamp.get().unwrap_or(ZERO_TIME)]);
        let _ = writeln!(text, " | Attempts: {} | Priority: {}", status.attempt_count, status.priority_pin);
    }
    Ok(())
}

fn upper_case(text: &mut String, word: &str) {
    text.extend(word.chars().map(|letter| letter.to_ascii_uppercase()));
}

/// `2026-11-20 23:17:33`, or what stands for no time.
fn date_time(text: &mut String, time: &TimeText<'_>, none: &str) {
    let Some(time) = time.get() else { return text.push_str(none) };
    let seconds = time.split(['.', 'Z']).next().unwrap_or_default();
    match seconds.split_once('T') {
        Some((date, time)) => text.extend([date, " ", time]),
        None => text.push_str(seconds),
    }
}

/// Whether a map, or `null`, has entries, which must be texts.
#[derive(Default)]
struct HasEntries(bool);

impl<'de> Deserialize<'de> for HasEntries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Counts;
        impl<'de> Visitor<'de> for Counts {
            type Value = HasEntries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings or null")
            }

            fn visit_unit<E>(self) -> Result<HasEntries, E> {
                Ok(HasEntries(false))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<HasEntries, A::Error> {
                let mut has_entries = false;
                while map.next_entry::<Text<'_>, Text<'_>>()?.is_some() {
                    has_entries = true;
                }
                Ok(HasEntries(has_entries))
            }
        }
        deserializer.deserialize_any(Counts)
    }
}

/// The entries of a map, or of `null`, as they come.
#[derive(Default)]
struct PeerMap<'a>(Vec<(PeerText<'a>, PeerStatus<'a>)>);

impl<'a, 'de: 'a> Deserialize<'de> for PeerMap<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collects;
        impl<'de> Visitor<'de> for Collects {
            type Value = PeerMap<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from peers to statuses or null")
            }

            fn visit_unit<E>(self) -> Result<PeerMap<'de>, E> {
                Ok(PeerMap::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PeerMap<'de>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(PeerMap(entries))
            }
        }
        deserializer.deserialize_any(Collects)
    }
}

fn pin_type<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PinType, D::Error> {
    match &*Text::deserialize(deserializer)? {
        "" => Ok(PinType::default()),
        name => name.parse().map_err(D::Error::custom),
    }
}

fn mode<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PinMode>, D::Error> {
    match &*Text::deserialize(deserializer)? {
        "" => Ok(None),
        name => name.parse().map(Some).map_err(D::Error::custom),
    }
}

fn status_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TrackerStatus, D::Error> {
    Text::deserialize(deserializer)?.parse().map_err(D::Error::custom)
}
