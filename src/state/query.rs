//! What can be asked of the pinset, and where an answer goes on.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use multihash_codetable::{Code, MultihashDigest};

use crate::error::{Error, Result};
use crate::types::{PeerId, Pin, PinTypeFilter, Timestamp};

/// Longest text of a cursor, in bytes.
pub const CURSOR_TEXT_BYTES_MAX: usize = 3 * 1024;
/// How cursors are laid out: this byte, the fingerprint of the query, the position, a check sum.
const CURSOR_FORMAT: u8 = 1;
const FINGERPRINT_BYTES: usize = 8;
const CHECK_BYTES: usize = 4;

/// Which entries a listing gives, on which index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// Every entry, in order of the binary CID.
    #[default]
    All,
    /// Entries of exactly this name, in order of the binary CID.
    Name(String),
    /// Entries whose name starts like this, in order of name (see [`NAME_ORDER_BYTES_MAX`]), then CID.
    ///
    /// [`NAME_ORDER_BYTES_MAX`]: super::NAME_ORDER_BYTES_MAX
    NamePrefix(String),
    /// Entries that carry this metadata pair, in order of the binary CID.
    Metadata {
        /// The key.
        key: String,
        /// The value, whole.
        value: String,
    },
    /// Entries pinned in `[from, to)`, oldest first, then in order of the binary CID. Entries that do not say
    /// when they were pinned are in no such range.
    Created {
        /// First second; none from the beginning.
        from: Option<Timestamp>,
        /// First second after; none to the end.
        to: Option<Timestamp>,
    },
}

impl Selection {
    /// Whether an entry belongs to it.
    pub fn matches(&self, pin: &Pin) -> bool {
        match self {
            Self::All => true,
            Self::Name(name) => pin.options.name == *name,
            Self::NamePrefix(prefix) => pin.options.name.starts_with(prefix.as_str()),
            Self::Metadata { key, value } => pin.options.metadata.get(key) == Some(value),
            Self::Created { from, to } => pin
                .timestamp
                .is_some_and(|time| from.is_none_or(|from| from <= time) && to.is_none_or(|to| time < to)),
        }
    }

    fn natural_order(&self) -> StateOrder {
        match self {
            Self::All | Self::Name(_) | Self::Metadata { .. } => StateOrder::Cid,
            Self::NamePrefix(_) => StateOrder::Name,
            Self::Created { .. } => StateOrder::Created,
        }
    }

    fn feed(&self, text: &mut Fingerprint) {
        match self {
            Self::All => text.number(0),
            Self::Name(name) => text.number(1).bytes(name.as_bytes()),
            Self::NamePrefix(prefix) => text.number(2).bytes(prefix.as_bytes()),
            Self::Metadata { key, value } => text.number(3).bytes(key.as_bytes()).bytes(value.as_bytes()),
            Self::Created { from, to } => text.number(4).time(*from).time(*to),
        };
    }
}

/// What entries are put in order by. Those that agree in it are in order of the binary CID.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StateOrder {
    /// By binary CID.
    #[default]
    Cid,
    /// By name (see [`NAME_ORDER_BYTES_MAX`](super::NAME_ORDER_BYTES_MAX)).
    Name,
    /// By time of pinning. Entries that do not say when they were pinned are not listed.
    Created,
}

/// A listing.
///
/// Where several conditions are given, the index that holds the fewest entries finds them and the others are checked
/// on what it finds. There is no index of peers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateQuery {
    /// Which entries.
    pub selection: Selection,
    /// Of these, only those that belong to each of these too.
    pub also: Vec<Selection>,
    /// Only these types.
    pub types: PinTypeFilter,
    /// Only what this peer must hold: what is allocated to it, and what is pinned everywhere.
    pub peer: Option<PeerId>,
    /// In which order; none is that of `selection`.
    pub order: Option<StateOrder>,
    /// The last one first.
    pub descending: bool,
    /// Go on where a page of the same query ended.
    pub after: Option<StateCursor>,
}

impl StateQuery {
    /// The order that entries come in.
    pub fn resolved_order(&self) -> StateOrder {
        self.order.unwrap_or_else(|| self.selection.natural_order())
    }

    /// Whether an entry belongs to what is listed, wherever in it.
    pub fn matches(&self, pin: &Pin) -> bool {
        self.types.matches(pin.pin_type)
            && self.selection.matches(pin)
            && self.also.iter().all(|condition| condition.matches(pin))
            && self.peer.is_none_or(|peer| !pin.is_remote_for(&peer))
    }

    /// Whether an entry found by one condition may fail another.
    pub(super) fn has_more_than(&self, conditions: usize) -> bool {
        let given = self.conditions().len();
        given > conditions || self.peer.is_some() || self.types != PinTypeFilter::ALL
    }

    /// Every condition that an index may find entries by.
    pub(super) fn conditions(&self) -> Vec<&Selection> {
        let all = std::iter::once(&self.selection).chain(&self.also);
        all.filter(|condition| **condition != Selection::All).collect()
    }

    /// The cursor that goes on behind a position of this query.
    pub(crate) fn cursor_at(&self, position: impl Into<Bytes>) -> StateCursor {
        StateCursor { fingerprint: self.fingerprint(), position: position.into() }
    }

    /// Where to go on; none from the beginning.
    ///
    /// # Errors
    /// `InvalidInput` for a cursor of another query.
    pub(crate) fn position(&self) -> Result<Option<Bytes>> {
        match &self.after {
            None => Ok(None),
            Some(cursor) if cursor.fingerprint == self.fingerprint() => Ok(Some(cursor.position.clone())),
            Some(_) => Err(Error::invalid_input(
                "the cursor belongs to another query; use it with the filters and the order it was given for",
            )
            .component("state")),
        }
    }

    fn fingerprint(&self) -> u64 {
        let mut text = Fingerprint::default();
        self.selection.feed(&mut text);
        text.number(self.also.len() as u64);
        self.also.iter().for_each(|condition| condition.feed(&mut text));
        let types = crate::types::PinType::ALL.into_iter();
        text.number(types.fold(0, |bits, kind| bits << 1 | u64::from(self.types.matches(kind))));
        text.bytes(&self.peer.map(|peer| peer.to_bytes()).unwrap_or_default());
        text.number(self.resolved_order() as u64).number(self.descending.into());
        text.finish()
    }
}

/// What a fingerprint is made from; the lengths keep its parts apart.
#[derive(Default)]
struct Fingerprint(Vec<u8>);

impl Fingerprint {
    fn number(&mut self, number: u64) -> &mut Self {
        self.0.extend(number.to_be_bytes());
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.number(bytes.len() as u64).0.extend_from_slice(bytes);
        self
    }

    fn time(&mut self, time: Option<Timestamp>) -> &mut Self {
        match time {
            None => self.number(0),
            Some(time) => self
                .number(1)
                .number(time.unix_seconds() as u64)
                .number(u64::from(time.subsecond_nanoseconds())),
        }
    }

    fn finish(&self) -> u64 {
        first_bytes(&self.0)
    }
}

/// The first bytes of a hash, as a number.
fn first_bytes(bytes: &[u8]) -> u64 {
    let hash = Code::Sha2_256.digest(bytes);
    hash.digest().iter().take(FINGERPRINT_BYTES).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Where a listing goes on: behind a place in its order, whether or not the entry of that place still exists.
///
/// Its text form survives restarts and upgrades, and is accepted with the query it was given for alone. It is opaque,
/// not secret: it holds the end of a page in the order of the query, a name for example.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateCursor {
    fingerprint: u64,
    position: Bytes,
}

impl StateCursor {
    /// The same place for a query that has more to it than [`StateQuery`] says; `salt` stands for the rest. Salting
    /// twice by the same number undoes it.
    #[must_use]
    pub(crate) fn salted(self, salt: u64) -> Self {
        Self { fingerprint: self.fingerprint ^ salt, ..self }
    }
}

/// A number for [`StateCursor::salted`].
pub(crate) fn salt(text: &str) -> u64 {
    first_bytes(text.as_bytes())
}

impl fmt::Display for StateCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(1 + FINGERPRINT_BYTES + self.position.len() + CHECK_BYTES);
        bytes.push(CURSOR_FORMAT);
        bytes.extend(self.fingerprint.to_be_bytes());
        bytes.extend_from_slice(&self.position);
        f.write_str(&sealed(bytes))
    }
}

/// The text of a cursor with this content.
pub(super) fn sealed(mut content: Vec<u8>) -> String {
    let check = first_bytes(&content).to_be_bytes();
    content.extend_from_slice(&check[..CHECK_BYTES]);
    URL_SAFE_NO_PAD.encode(content)
}

impl FromStr for StateCursor {
    type Err = Error;

    /// What [`fmt::Display`] wrote; everything else is `InvalidInput`.
    fn from_str(text: &str) -> Result<Self> {
        let read = || {
            if text.len() > CURSOR_TEXT_BYTES_MAX {
                return None;
            }
            let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
            let (content, check) = bytes.split_last_chunk::<CHECK_BYTES>()?;
            let (fingerprint, position) = content.split_first()?.1.split_first_chunk()?;
            let is_whole = content[0] == CURSOR_FORMAT
                && first_bytes(content).to_be_bytes()[..CHECK_BYTES] == check[..]
                && !position.is_empty();
            is_whole.then(|| Self {
                fingerprint: u64::from_be_bytes(*fingerprint),
                position: Bytes::copy_from_slice(position),
            })
        };
        read().ok_or_else(|| {
            Error::invalid_input("not a cursor; use the one that came with the last page, or none to begin")
                .component("state")
        })
    }
}

/// A page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatePage {
    /// The entries.
    pub pins: Vec<Pin>,
    /// Where the next page begins; none when this is the last one.
    pub next: Option<StateCursor>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn queries() -> Vec<StateQuery> {
        let base = StateQuery { selection: Selection::Name("a".into()), ..StateQuery::default() };
        let pair = |key: &str, value: &str| Selection::Metadata { key: key.into(), value: value.into() };
        let created = |from, to| Selection::Created { from, to };
        let now = Some(Timestamp::from_unix_seconds(7));
        vec![
            StateQuery::default(),
            base.clone(),
            StateQuery { selection: Selection::NamePrefix("a".into()), ..base.clone() },
            StateQuery { also: vec![pair("ab", "c")], ..base.clone() },
            StateQuery { also: vec![pair("a", "bc")], ..base.clone() },
            StateQuery { also: vec![created(now, None)], ..base.clone() },
            StateQuery { also: vec![created(None, now)], ..base.clone() },
            StateQuery { types: "pin".parse().unwrap(), ..base.clone() },
            StateQuery { peer: Some(PeerId::random()), ..base.clone() },
            StateQuery { order: Some(StateOrder::Name), ..base.clone() },
            StateQuery { descending: true, ..base },
        ]
    }

    #[test]
    fn a_cursor_is_taken_by_its_own_query_alone_and_an_order_that_is_said_is_the_one_that_is_not() {
        let all = queries();
        for (number, query) in all.iter().enumerate() {
            let text = query.cursor_at("here").to_string();
            for (other_number, other) in all.iter().enumerate() {
                let asked = StateQuery { after: Some(text.parse().unwrap()), ..other.clone() };
                match asked.position() {
                    Ok(position) => assert_eq!((number, position), (other_number, Some("here".into()))),
                    Err(error) => assert!(number != other_number, "{error}"),
                }
            }
        }
        let said = StateQuery { order: Some(StateOrder::Cid), ..all[1].clone() };
        assert_eq!(said.cursor_at("x"), all[1].cursor_at("x"));
        let salted = all[1].cursor_at("x").salted(9);
        assert!(StateQuery { after: Some(salted.clone()), ..all[1].clone() }.position().is_err());
        assert_eq!(salted.salted(9), all[1].cursor_at("x"));
    }

    proptest! {
        #[test]
        fn a_changed_cursor_is_none(position in proptest::collection::vec(any::<u8>(), 1..80), at in any::<usize>(), to in "[A-Za-z0-9_-]") {
            let text = StateQuery::default().cursor_at(position).to_string();
            prop_assert_eq!(text.parse::<StateCursor>().unwrap().to_string(), text.clone());
            let at = at % text.len();
            let mut changed = text.clone();
            changed.replace_range(at..=at, &to);
            prop_assert!(changed == text || changed.parse::<StateCursor>().is_err());
            prop_assert!(text[..at].parse::<StateCursor>().is_err());
        }

        #[test]
        fn garbage_is_no_cursor(text in ".{0,60}") {
            prop_assert!(text.parse::<StateCursor>().is_err());
        }
    }

    #[test]
    fn the_longest_position_fits_into_a_cursor() {
        let name = "\0".repeat(10_000);
        let cid = crate::types::Block::raw("x").cid;
        let options = crate::types::PinOptions { name, ..Default::default() };
        let position = super::super::index::position(StateOrder::Name, &Pin::new(cid, options)).unwrap();
        let text = StateQuery::default().cursor_at(position).to_string();
        assert!(text.len() <= CURSOR_TEXT_BYTES_MAX / 2, "{}", text.len());
        "A".repeat(CURSOR_TEXT_BYTES_MAX + 1).parse::<StateCursor>().unwrap_err();
    }
}
