//! How an entry of the pinset is stored: one byte of version, then the reference's protobuf.
//!
//! The protobuf is byte for byte what Go ipfs-cluster 1.1.6 keeps as a value of its CRDT, so that both
//! consensus components share one encoding. A new version of the record is a new type with a [`Format`] impl
//! that names the version before it; older records are decoded by theirs and converted upwards.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, Multiaddr, PeerId, Pin, PinMode, PinOptions, PinType, Timestamp};

/// Version byte of the records written now.
pub(super) const RECORD_VERSION: u8 = <PinV1 as Format>::VERSION;

/// The field of a pin that its options are in.
const OPTIONS_TAG: u32 = 6;

/// Go's `api.pb.Pin`.
#[derive(Clone, PartialEq, Message)]
struct PbPin {
    #[prost(bytes = "vec", tag = "1")]
    cid: Vec<u8>,
    #[prost(int32, tag = "2")]
    kind: i32,
    #[prost(bytes = "vec", repeated, tag = "3")]
    allocations: Vec<Vec<u8>>,
    #[prost(sint32, tag = "4")]
    max_depth: i32,
    #[prost(bytes = "vec", tag = "5")]
    reference: Vec<u8>,
    #[prost(message, optional, tag = "6")]
    options: Option<PbPinOptions>,
    #[prost(uint64, tag = "7")]
    timestamp: u64,
}

/// Go's `api.pb.PinOptions`.
#[derive(Clone, PartialEq, Message)]
struct PbPinOptions {
    #[prost(sint32, tag = "1")]
    replication_factor_min: i32,
    #[prost(sint32, tag = "2")]
    replication_factor_max: i32,
    #[prost(string, tag = "3")]
    name: String,
    #[prost(uint64, tag = "4")]
    shard_size: u64,
    /// Read from old peers, never written.
    #[prost(btree_map = "string, string", tag = "6")]
    metadata: BTreeMap<String, String>,
    #[prost(bytes = "vec", tag = "7")]
    pin_update: Vec<u8>,
    #[prost(uint64, tag = "8")]
    expire_at: u64,
    #[prost(bytes = "vec", repeated, tag = "9")]
    origins: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "10")]
    sorted_metadata: Vec<PbMetadata>,
}

/// Go's `api.pb.Metadata`.
#[derive(Clone, PartialEq, Message)]
struct PbMetadata {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}

/// Go's value bytes of a pin. User allocations and the mode are not part of them (the mode follows from the
/// depth), times are whole seconds, and metadata is sorted by key.
pub fn encode_pin_protobuf(pin: &Pin) -> Vec<u8> {
    to_protobuf(pin).encode_to_vec()
}

/// Most items in the lists of a value of another peer: allocations, origins and pairs of metadata together. An empty one
/// takes two bytes there and fifty here.
const ITEMS_MAX: usize = 65_536;

/// The pin that a value of Go's describes. `cid` comes from the key the value is stored under and wins over
/// what the value says, as in the reference; so do its other habits: an unreadable `reference` or `pin_update`
/// counts as none.
///
/// # Errors
/// `Corrupt` for what is no such protobuf, for the type `bad` or an unknown one, for an unreadable peer id
/// or origin, for more than 65,536 items in its lists.
pub fn decode_pin_protobuf(cid: &Cid, bytes: &[u8]) -> Result<Pin> {
    // Counted first: decoding makes something of each.
    let items = count_items(bytes, Some(OPTIONS_TAG));
    if items > ITEMS_MAX {
        return Err(corrupt(cid, format!("it has {items} items, but at most {ITEMS_MAX} are taken")));
    }
    from_protobuf(cid, PbPin::decode(bytes).map_err(|source| unreadable(cid, "protobuf", source))?)
}

/// Fields of this protobuf that have a length, with those of the message in the field `inside` instead of it. What is
/// broken ends the count, as it will end the decoding.
fn count_items(mut bytes: &[u8], inside: Option<u32>) -> usize {
    let mut items = 0;
    while !bytes.is_empty() {
        let Ok((tag, kind)) = decode_key(&mut bytes) else { break };
        if kind != WireType::LengthDelimited {
            match skip_field(kind, tag, &mut bytes, DecodeContext::default()) {
                Ok(()) => continue,
                Err(_) => break,
            }
        }
        let length = decode_varint(&mut bytes).ok().and_then(|length| usize::try_from(length).ok());
        let Some((field, rest)) = length.and_then(|length| bytes.split_at_checked(length)) else {
            // Its beginning is decoded before the end is missed.
            return items + if inside == Some(tag) { count_items(bytes, None) } else { 1 };
        };
        items += if inside == Some(tag) { count_items(field, None) } else { 1 };
        bytes = rest;
    }
    items
}

/// A stored record.
pub(super) fn encode_record(pin: &Pin) -> Vec<u8> {
    let message = to_protobuf(pin);
    let mut record = Vec::with_capacity(1 + message.encoded_len());
    record.push(RECORD_VERSION);
    // Writing to a Vec grows it and cannot fail; an error would show as a record that does not decode.
    let _ = message.encode(&mut record);
    record
}

/// What follows the version in a record that was just encoded.
pub(super) fn body_of(record: &[u8]) -> &[u8] {
    record.get(1..).unwrap_or_default()
}

/// The value inside a stored record: [`encode_pin_protobuf`] of its entry.
pub(super) fn value_of(record: &Bytes) -> Result<Bytes> {
    match record.first() {
        Some(&RECORD_VERSION) => Ok(record.slice(1..)),
        Some(&version) => Err(Error::new(
            ErrorKind::Unsupported,
            format!("a record has version {version}, this program reads {RECORD_VERSION}; run the newer one"),
        )
        .component("state")),
        None => Err(Error::new(ErrorKind::Corrupt, "a record of the pinset is empty").component("state")),
    }
}

/// The entry of a stored record. Unlike a value that came from another peer, it must name its own key, which is the
/// binary CID.
///
/// # Errors
/// `Corrupt`; `Unsupported` for a record of a later version.
pub(super) fn decode_record(cid: &Cid, key: &[u8], record: &[u8]) -> Result<Pin> {
    let Some((&version, body)) = record.split_first() else {
        return Err(corrupt(cid, "the record is empty"));
    };
    if version > RECORD_VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the record of {cid} has version {version}, this program reads up to {RECORD_VERSION}; run the newer one"
            ),
        )
        .component("state"));
    }
    PinV1::decode_any(&Entry { cid, key }, version, body).map(|record| record.0)
}

/// The CID in the body of a record, and the bytes that it stands there in.
#[cfg(feature = "testing")]
pub(super) fn name_in(body: &[u8]) -> Option<(Cid, Vec<u8>)> {
    let key = PbPin::decode(body).ok()?.cid;
    Some((Cid::try_from(&key[..]).ok()?, key))
}

/// The pin as a reader will get it back once it is stored.
pub(super) fn normalise(pin: Pin) -> Pin {
    let mut pin = pin.into_stored();
    // Second 0 is how the stored form says "none".
    let never = |time: &Timestamp| *time != Timestamp::UNIX_EPOCH;
    pin.timestamp = pin.timestamp.filter(never);
    pin.options.expire_at = pin.options.expire_at.filter(never);
    pin
}

/// Whether [`normalise`] would give the same pin back.
pub(super) fn is_normal(pin: &Pin) -> bool {
    let whole = |time: Option<Timestamp>| {
        time.is_none_or(|time| time.truncated_to_seconds() == time && time != Timestamp::UNIX_EPOCH)
    };
    pin.options.user_allocations.is_empty()
        && pin.options.mode == pin.mode()
        && whole(pin.timestamp)
        && whole(pin.options.expire_at)
}

/// What a record is stored under.
struct Entry<'a> {
    cid: &'a Cid,
    key: &'a [u8],
}

/// One version of the stored record.
trait Format: Sized {
    /// The byte in front of it.
    const VERSION: u8;
    /// The version before it.
    type Previous: Format;

    /// Reads a body of exactly this version.
    fn decode(entry: &Entry<'_>, body: &[u8]) -> Result<Self>;

    /// Converts from the version before.
    fn migrate(previous: Self::Previous) -> Self;

    /// Reads a body of this version or any before it.
    fn decode_any(entry: &Entry<'_>, version: u8, body: &[u8]) -> Result<Self> {
        if version == Self::VERSION {
            Self::decode(entry, body)
        } else {
            Ok(Self::migrate(Self::Previous::decode_any(entry, version, body)?))
        }
    }
}

/// What stands before the first version: nothing.
enum NoFormat {}

impl Format for NoFormat {
    const VERSION: u8 = 0;
    type Previous = Self;

    fn decode(entry: &Entry<'_>, _body: &[u8]) -> Result<Self> {
        Err(corrupt(entry.cid, "no record ever had this version"))
    }

    fn migrate(previous: Self) -> Self {
        previous
    }

    fn decode_any(entry: &Entry<'_>, _version: u8, body: &[u8]) -> Result<Self> {
        Self::decode(entry, body)
    }
}

/// Version 1: Go's protobuf.
struct PinV1(Pin);

impl Format for PinV1 {
    const VERSION: u8 = 1;
    type Previous = NoFormat;

    fn decode(entry: &Entry<'_>, body: &[u8]) -> Result<Self> {
        let message = PbPin::decode(body).map_err(|source| unreadable(entry.cid, "record", source))?;
        if message.cid != entry.key {
            return Err(corrupt(entry.cid, "the record is that of another cid"));
        }
        from_protobuf(entry.cid, message).map(Self)
    }

    fn migrate(previous: NoFormat) -> Self {
        match previous {}
    }
}

fn to_protobuf(pin: &Pin) -> PbPin {
    let options = &pin.options;
    let cid_bytes = |cid: &Option<Cid>| cid.map(|cid| cid.to_bytes()).unwrap_or_default();
    // Go casts in both directions, so times before 1970 survive as two's complement.
    let seconds = |time: Option<Timestamp>| time.map_or(0, Timestamp::unix_seconds) as u64;
    PbPin {
        cid: pin.cid.to_bytes(),
        kind: match pin.pin_type {
            PinType::Data => 1,
            PinType::Meta => 2,
            PinType::ClusterDag => 3,
            PinType::Shard => 4,
        },
        allocations: pin.allocations.iter().map(|peer| peer.to_bytes()).collect(),
        max_depth: pin.max_depth,
        reference: cid_bytes(&pin.reference),
        options: Some(PbPinOptions {
            replication_factor_min: options.replication_factor_min,
            replication_factor_max: options.replication_factor_max,
            name: options.name.clone(),
            shard_size: options.shard_size,
            metadata: BTreeMap::new(),
            pin_update: cid_bytes(&options.pin_update),
            expire_at: seconds(options.expire_at),
            origins: options.origins.iter().map(Multiaddr::to_vec).collect(),
            sorted_metadata: options
                .metadata
                .iter()
                .map(|(key, value)| PbMetadata { key: key.clone(), value: value.clone() })
                .collect(),
        }),
        timestamp: seconds(pin.timestamp),
    }
}

fn from_protobuf(cid: &Cid, message: PbPin) -> Result<Pin> {
    let options = message.options.unwrap_or_default();
    let mut metadata = options.metadata;
    metadata.extend(options.sorted_metadata.into_iter().map(|entry| (entry.key, entry.value)));
    let optional_cid = |bytes: &[u8]| if bytes.is_empty() { None } else { Cid::try_from(bytes).ok() };
    let time = |seconds: u64| (seconds != 0).then(|| Timestamp::from_unix_seconds(seconds as i64));
    let pin_type = match message.kind {
        1 => PinType::Data,
        2 => PinType::Meta,
        3 => PinType::ClusterDag,
        4 => PinType::Shard,
        kind => return Err(corrupt(cid, format!("unknown pin type {kind}"))),
    };
    Ok(Pin {
        cid: *cid,
        pin_type,
        allocations: message
            .allocations
            .iter()
            .map(|bytes| PeerId::from_bytes(bytes).map_err(|source| unreadable(cid, "allocation", source)))
            .collect::<Result<_>>()?,
        max_depth: message.max_depth,
        reference: optional_cid(&message.reference),
        timestamp: time(message.timestamp),
        options: PinOptions {
            replication_factor_min: options.replication_factor_min,
            replication_factor_max: options.replication_factor_max,
            name: options.name,
            mode: PinMode::from_max_depth(message.max_depth),
            shard_size: options.shard_size,
            user_allocations: Vec::new(),
            expire_at: time(options.expire_at),
            metadata,
            pin_update: optional_cid(&options.pin_update),
            origins: options
                .origins
                .into_iter()
                .map(|bytes| Multiaddr::try_from(bytes).map_err(|source| unreadable(cid, "origin", source)))
                .collect::<Result<_>>()?,
        },
    })
}

fn corrupt(cid: &Cid, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the stored entry of {cid} is damaged: {what}")).component("state")
}

fn unreadable(cid: &Cid, what: &str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    corrupt(cid, format_args!("unreadable {what}: {source}")).with_source(source)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Vectors {
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        name: String,
        hex: String,
        decoded: serde_json::Value,
    }

    fn go_pins() -> Vec<(String, Vec<u8>, Pin)> {
        let file: Vectors = serde_json::from_str(include_str!("../../tests/data/go-pins.json")).unwrap();
        file.vectors
            .into_iter()
            .filter(|vector| vector.name.starts_with("protobuf/"))
            .map(|vector| {
                let pin = serde_json::from_value(vector.decoded).unwrap();
                (vector.name, hex::decode(vector.hex).unwrap(), pin)
            })
            .collect()
    }

    fn read(cid: &Cid, record: &[u8]) -> Result<Pin> {
        decode_record(cid, &cid.to_bytes(), record)
    }

    #[test]
    fn pins_are_encoded_in_exactly_the_references_bytes() {
        let pins = go_pins();
        assert_eq!(pins.len(), 6);
        for (name, bytes, pin) in pins {
            let pin = normalise(pin);
            assert_eq!(hex::encode(encode_pin_protobuf(&pin)), hex::encode(&bytes), "{name}");
            assert_eq!(decode_pin_protobuf(&pin.cid, &bytes).unwrap(), pin, "{name}");
            assert_eq!(read(&pin.cid, &encode_record(&pin)).unwrap(), pin, "{name}");
        }
    }

    #[test]
    fn metadata_of_old_peers_is_read_and_the_sorted_list_wins() {
        let (_, _, pin) = go_pins().swap_remove(0);
        let mut message = to_protobuf(&pin);
        let options = message.options.as_mut().unwrap();
        options.metadata =
            [("a", "old"), ("z", "kept")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let read = decode_pin_protobuf(&pin.cid, &message.encode_to_vec()).unwrap();
        let expected = [("a", "1"), ("z", "kept")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(read.options.metadata, expected.into());
    }

    #[test]
    fn what_is_no_entry_is_corrupt_and_never_a_panic() {
        let (_, bytes, pin) = go_pins().swap_remove(0);
        let kind = |record: &[u8]| read(&pin.cid, record).unwrap_err().kind();
        assert_eq!(kind(&[]), ErrorKind::Corrupt);
        assert_eq!(kind(&[0]), ErrorKind::Corrupt);
        assert_eq!(kind(&[1]), ErrorKind::Corrupt);
        assert_eq!(kind(&[2]), ErrorKind::Unsupported);
        for bad in [0, 5, -1] {
            let mut message = to_protobuf(&pin);
            message.kind = bad;
            let error = decode_pin_protobuf(&pin.cid, &message.encode_to_vec()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
        for many in [
            PbPin { kind: 1, allocations: vec![Vec::new(); ITEMS_MAX], cid: vec![1], ..PbPin::default() },
            PbPin {
                kind: 1,
                options: Some(PbPinOptions {
                    sorted_metadata: vec![PbMetadata::default(); ITEMS_MAX + 1],
                    ..PbPinOptions::default()
                }),
                ..PbPin::default()
            },
        ] {
            let error = decode_pin_protobuf(&pin.cid, &many.encode_to_vec()).unwrap_err();
            assert!(error.to_string().contains("it has 65537 items"), "{error}");
        }
        let other = go_pins().swap_remove(3).2;
        assert_eq!(kind(&encode_record(&other)), ErrorKind::Corrupt, "a record under another key");
        // Every record with one byte missing or changed either reads or is an error.
        let mut record = [&[RECORD_VERSION], &bytes[..]].concat();
        for index in 0..record.len() {
            let _ = read(&pin.cid, &record[..index]);
            record[index] ^= 0xff;
            let _ = read(&pin.cid, &record);
            record[index] ^= 0xff;
        }
    }

    #[test]
    fn an_older_record_is_converted_version_by_version() {
        struct First(u8);
        struct Second(u16);
        struct Third(String);
        impl Format for First {
            const VERSION: u8 = 1;
            type Previous = NoFormat;
            fn decode(entry: &Entry<'_>, body: &[u8]) -> Result<Self> {
                body.first().map(|byte| Self(*byte)).ok_or_else(|| corrupt(entry.cid, "empty"))
            }
            fn migrate(previous: NoFormat) -> Self {
                match previous {}
            }
        }
        impl Format for Second {
            const VERSION: u8 = 2;
            type Previous = First;
            fn decode(_: &Entry<'_>, body: &[u8]) -> Result<Self> {
                Ok(Self(u16::from_be_bytes([body[0], body[1]])))
            }
            fn migrate(previous: First) -> Self {
                Self(previous.0.into())
            }
        }
        impl Format for Third {
            const VERSION: u8 = 3;
            type Previous = Second;
            fn decode(_: &Entry<'_>, body: &[u8]) -> Result<Self> {
                Ok(Self(String::from_utf8_lossy(body).into_owned()))
            }
            fn migrate(previous: Second) -> Self {
                Self(previous.0.to_string())
            }
        }
        let cid = &go_pins()[0].2.cid;
        let entry = &Entry { cid, key: &[] };
        assert_eq!(Third::decode_any(entry, 3, b"now").unwrap().0, "now");
        assert_eq!(Third::decode_any(entry, 2, &[1, 0]).unwrap().0, "256");
        assert_eq!(Third::decode_any(entry, 1, &[7]).unwrap().0, "7");
        let error = Third::decode_any(entry, 0, &[7]).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn what_is_normal_stays_as_it_is() {
        for (_, _, pin) in go_pins() {
            let normal = normalise(pin.clone());
            assert!(is_normal(&normal));
            assert_eq!(is_normal(&pin), pin == normal);
        }
        let (_, _, mut pin) = go_pins().swap_remove(1);
        pin.timestamp = Some(Timestamp::UNIX_EPOCH);
        assert!(!is_normal(&pin));
        assert_eq!(normalise(pin).timestamp, None);
    }
}
