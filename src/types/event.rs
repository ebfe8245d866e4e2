//! What happens in a cluster, as it is told to those who watch.

use std::borrow::Cow;
use std::fmt;
use std::ops::BitOr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::{Alert, Cid, PeerId, Pin, PinInfo, PinStatus, Timestamp, parse_cid};
use crate::error::{Error, Result};

/// Digits of the first part of a cursor.
const EPOCH_DIGITS: usize = 16;

/// A place among the events of one peer since its start: behind the event that carries it. Its text is
/// `<16 hex digits>-<number>`; nothing else of it is for others to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventCursor {
    epoch: u64,
    number: u64,
}

impl EventCursor {
    /// Behind the event with this number, of the start that is called so.
    pub(crate) const fn new(epoch: u64, number: u64) -> Self {
        Self { epoch, number }
    }

    pub(crate) const fn epoch(self) -> u64 {
        self.epoch
    }

    pub(crate) const fn number(self) -> u64 {
        self.number
    }
}

impl fmt::Display for EventCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.epoch, self.number)
    }
}

impl FromStr for EventCursor {
    type Err = Error;

    /// Exactly the text that was given out.
    fn from_str(text: &str) -> Result<Self> {
        let read = text.split_once('-').and_then(|(epoch, number)| {
            let cursor = Self { epoch: u64::from_str_radix(epoch, 16).ok()?, number: number.parse().ok()? };
            // No signs, no capitals, no zeros in front: one place has one text.
            (epoch.len() == EPOCH_DIGITS && cursor.to_string() == text).then_some(cursor)
        });
        read.ok_or_else(|| {
            let shown: String = text.chars().take(64).collect();
            Error::invalid_input(format!("{shown:?} is no cursor of an event"))
        })
    }
}

impl Serialize for EventCursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventCursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Cow::<'de, str>::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A kind of events that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum EventKind {
    /// An entry came into the pinset or changed.
    Pinned = 1,
    /// An entry left the pinset.
    Unpinned = 1 << 1,
    /// An item has another status on the peer that tells.
    Status = 1 << 2,
    /// Another peer appeared, or its ping expired.
    Peer = 1 << 3,
    /// A metric of a peer stopped coming.
    Alert = 1 << 4,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Pinned, Self::Unpinned, Self::Status, Self::Peer, Self::Alert];

    /// The name in queries, in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
            Self::Status => "status",
            Self::Peer => "peer",
            Self::Alert => "alert",
        }
    }
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EventKinds(u8);

impl EventKinds {
    /// Every kind.
    pub const ALL: Self = Self((1 << EventKind::ALL.len()) - 1);
    /// The kinds that are about a CID.
    pub const OF_CIDS: Self =
        Self(EventKind::Pinned as u8 | EventKind::Unpinned as u8 | EventKind::Status as u8);

    /// Whether a kind is among them.
    pub const fn has(self, kind: EventKind) -> bool {
        self.0 & kind as u8 != 0
    }

    /// Whether any of the others is among them.
    pub(crate) const fn meets(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }
}

impl Default for EventKinds {
    fn default() -> Self {
        Self::ALL
    }
}

impl From<EventKind> for EventKinds {
    fn from(kind: EventKind) -> Self {
        Self(kind as u8)
    }
}

impl BitOr for EventKinds {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Display for EventKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> =
            EventKind::ALL.into_iter().filter(|kind| self.has(*kind)).map(EventKind::as_str).collect();
        f.write_str(&names.join(","))
    }
}

impl FromStr for EventKinds {
    type Err = Error;

    /// A comma list of names; nothing is all of them.
    fn from_str(text: &str) -> Result<Self> {
        let mut kinds = Self(0);
        for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let Some(kind) = EventKind::ALL.into_iter().find(|kind| kind.as_str() == name) else {
                let shown: String = name.chars().take(64).collect();
                let message =
                    format!("unknown kind of events {shown:?}, expected a comma list of {}", Self::ALL);
                return Err(Error::invalid_input(message));
            };
            kinds = kinds | kind.into();
        }
        Ok(if kinds == Self(0) { Self::ALL } else { kinds })
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where to go on behind it.
    pub cursor: EventCursor,
    /// When it was noticed.
    pub time: Timestamp,
    /// The peer that tells.
    pub peer: PeerId,
    /// What happened.
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Happening {
    /// An entry is in the pinset: a new one, or one that changed.
    Pinned(Arc<Pin>),
    /// An entry, as it was, left the pinset.
    Unpinned(Arc<Pin>),
    /// An item has another status on the peer that tells. Read from JSON it has CID, name, peer and status alone.
    Status(Arc<PinInfo>),
    /// Another peer was heard of again or for the first time, or its ping expired.
    Peer {
        /// Which.
        subject: PeerId,
        /// Its name, where it is known.
        peername: String,
        /// Whether it lives.
        is_alive: bool,
    },
    /// A metric of a peer stopped coming.
    Alert(Arc<Alert>),
    /// Events may have been missed, for this reason: list what matters again. What follows is complete again.
    Resync(Cow<'static, str>),
    /// Nothing: the watch lives, and this is how far it is.
    Heartbeat,
    /// Something that only later versions know, by its name.
    Other(String),
}

impl Happening {
    /// Its name in JSON.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Pinned(_) => EventKind::Pinned.as_str(),
            Self::Unpinned(_) => EventKind::Unpinned.as_str(),
            Self::Status(_) => EventKind::Status.as_str(),
            Self::Peer { .. } => EventKind::Peer.as_str(),
            Self::Alert(_) => EventKind::Alert.as_str(),
            Self::Resync(_) => "resync",
            Self::Heartbeat => "heartbeat",
            Self::Other(name) => name,
        }
    }

    /// The CID that it is about, if it is about one.
    pub fn cid(&self) -> Option<&Cid> {
        match self {
            Self::Pinned(pin) | Self::Unpinned(pin) => Some(&pin.cid),
            Self::Status(info) => Some(&info.cid),
            Self::Peer { .. } | Self::Alert(_) | Self::Resync(_) | Self::Heartbeat | Self::Other(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Event {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Raw {
            cursor: EventCursor,
            time: Timestamp,
            peer: PeerId,
            #[serde(rename = "type")]
            name: String,
            cid: Option<String>,
            #[serde(rename = "name", default)]
            pin_name: String,
            pin: Option<Pin>,
            info: Option<PinStatus>,
            subject: Option<PeerId>,
            #[serde(default)]
            peername: String,
            state: Option<String>,
            alert: Option<Alert>,
            #[serde(default)]
            reason: String,
        }
        let raw = Raw::deserialize(deserializer)?;
        let missing = || D::Error::custom("an event lacks what it is about");
        let pin = |pin: Option<Pin>| pin.map(Arc::new).ok_or_else(missing);
        let what = match raw.name.as_str() {
            "pinned" => Happening::Pinned(pin(raw.pin)?),
            "unpinned" => Happening::Unpinned(pin(raw.pin)?),
            "status" => {
                let cid = parse_cid(&raw.cid.ok_or_else(missing)?).map_err(D::Error::custom)?;
                let mut info = PinInfo::of_cid(cid, raw.peer, raw.info.ok_or_else(missing)?);
                info.name = raw.pin_name;
                Happening::Status(Arc::new(info))
            }
            "peer" => Happening::Peer {
                subject: raw.subject.ok_or_else(missing)?,
                peername: raw.peername,
                is_alive: match raw.state.as_deref() {
                    Some("appeared") => true,
                    Some("expired") => false,
                    _ => return Err(missing()),
                },
            },
            "alert" => Happening::Alert(Arc::new(raw.alert.ok_or_else(missing)?)),
            "resync" => Happening::Resync(raw.reason.into()),
            "heartbeat" => Happening::Heartbeat,
            _ => Happening::Other(raw.name),
        };
        Ok(Self { cursor: raw.cursor, time: raw.time, peer: raw.peer, what })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_has_one_text_and_nothing_else_is_one() {
        for cursor in [EventCursor::new(0, 0), EventCursor::new(u64::MAX, u64::MAX), EventCursor::new(7, 12)]
        {
            assert_eq!(cursor.to_string().parse::<EventCursor>().unwrap(), cursor);
        }
        for text in [
            "",
            "-",
            "7-12",
            "0000000000000007-",
            "0000000000000007-012",
            "0000000000000007-+12",
            "000000000000000A-1",
            "+000000000000007-1",
            "0000000000000007-18446744073709551616",
            "0000000000000007-1-1",
            "0000000000000007-1 ",
        ] {
            assert!(text.parse::<EventCursor>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn kinds_are_named_and_unknown_names_are_refused_with_those_that_there_are() {
        assert_eq!("".parse::<EventKinds>().unwrap(), EventKinds::ALL);
        let some: EventKinds = "alert, pinned,".parse().unwrap();
        assert_eq!(some.to_string(), "pinned,alert");
        assert!(some.has(EventKind::Alert) && !some.has(EventKind::Status));
        let error = "pinned,resync".parse::<EventKinds>().unwrap_err();
        assert_eq!(
            error.message(),
            "unknown kind of events \"resync\", expected a comma list of pinned,unpinned,status,peer,alert"
        );
    }
}
