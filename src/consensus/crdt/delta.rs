//! What one block of the DAG changes: the reference's `Delta` message.

use bytes::Bytes;
use prost::Message;

use super::key::{self, Digest};
use super::wire::{Field, Fields, corrupt, put_bytes, put_varint, varint_len};
use crate::error::Result;
use crate::types::Cid;

/// Most elements and tombstones together in one delta. The reference cuts a delta at 1 MiB, which holds about 10,000.
pub(super) const DELTA_ENTRIES_MAX: usize = 65_536;
/// The greatest height of a block. Heights grow by one a block, so nobody gets there honestly, and one can still be
/// added to it.
pub(super) const HEIGHT_MAX: u64 = 1 << 48;

/// A pin that a block adds. Its id is the block's, which nobody writes down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// Which pin.
    pub(super) pin: Cid,
    /// The reference's protobuf of it, as it came.
    pub(super) value: Bytes,
}

/// An element that a block removes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tombstone {
    /// Which pin.
    pub(super) pin: Cid,
    /// The block that added it.
    pub(super) block: Digest,
}

/// The changes of one block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    /// What it adds, in the order written.
    pub(super) elements: Vec<Element>,
    /// What it removes.
    pub(super) tombstones: Vec<Tombstone>,
    /// The height of the block, which is the priority of its elements.
    pub(super) priority: u64,
}

/// The reference's `Delta`.
#[derive(Clone, PartialEq, Message)]
struct PbDelta {
    #[prost(message, repeated, tag = "1")]
    elements: Vec<PbElement>,
    #[prost(message, repeated, tag = "2")]
    tombstones: Vec<PbElement>,
    #[prost(uint64, tag = "3")]
    priority: u64,
}

/// The reference's `Element`, which is both.
#[derive(Clone, PartialEq, Message)]
struct PbElement {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(bytes = "bytes", tag = "3")]
    value: Bytes,
}

impl Delta {
    /// Reads a delta. Values share the memory of `bytes`. What is under a key that names no pin, and tombstones of
    /// blocks that cannot exist here, are left out: no peer of the reference writes any.
    ///
    /// # Errors
    /// `Corrupt` for what is no such message, for more than [`DELTA_ENTRIES_MAX`] entries and for a height that is 0 or
    /// above [`HEIGHT_MAX`].
    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        // An empty entry takes two bytes on the wire and a hundred in memory, so they are counted first.
        let mut entries = 0;
        let mut fields = Fields::of(&bytes);
        while let Some(field) = fields.next()? {
            entries += usize::from(matches!(field, Field::Bytes(1 | 2, _)));
        }
        if entries > DELTA_ENTRIES_MAX {
            return Err(corrupt(format!(
                "a delta has {entries} entries, but at most {DELTA_ENTRIES_MAX} are taken"
            )));
        }
        let message = PbDelta::decode(bytes)
            .map_err(|source| corrupt(format!("unreadable delta: {source}")).with_source(source))?;
        if !(1..=HEIGHT_MAX).contains(&message.priority) {
            return Err(corrupt(format!(
                "a delta has priority {}, but heights are 1 to {HEIGHT_MAX}",
                message.priority
            )));
        }
        let elements = message
            .elements
            .into_iter()
            .filter_map(|element| Some(Element { pin: key::to_pin(&element.key)?, value: element.value }));
        let tombstones = message.tombstones.iter().filter_map(|tombstone| {
            Some(Tombstone { pin: key::to_pin(&tombstone.key)?, block: key::to_block(&tombstone.id)? })
        });
        Ok(Self {
            elements: elements.collect(),
            tombstones: tombstones.collect(),
            priority: message.priority,
        })
    }

    /// The reference's bytes.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut buffer = Vec::with_capacity(self.encoded_len());
        for element in &self.elements {
            put_entry(&mut buffer, 1, &element.pin, &[(3, &element.value)]);
        }
        for tombstone in &self.tombstones {
            put_entry(&mut buffer, 2, &tombstone.pin, &[(2, key::of_block(&tombstone.block).as_bytes())]);
        }
        if self.priority > 0 {
            put_varint(&mut buffer, 3 << 3);
            put_varint(&mut buffer, self.priority);
        }
        buffer
    }

    /// About how many bytes [`Delta::encode`] gives, never fewer.
    pub(super) fn encoded_len(&self) -> usize {
        let elements: usize =
            self.elements.iter().map(|element| element_len(&element.pin, element.value.len())).sum();
        let tombstones: usize = self.tombstones.iter().map(|tombstone| tombstone_len(&tombstone.pin)).sum();
        elements + tombstones + 11
    }

    /// Number of elements and tombstones.
    pub(super) fn len(&self) -> usize {
        self.elements.len() + self.tombstones.len()
    }
}

fn put_entry(buffer: &mut Vec<u8>, number: u64, pin: &Cid, rest: &[(u64, &[u8])]) {
    let name = key::of_pin(pin);
    let length = |bytes: &[u8]| 1 + varint_len(bytes.len() as u64) + bytes.len();
    // As the reference does, what is empty is left out.
    let rest = rest.iter().filter(|(_, bytes)| !bytes.is_empty());
    let inner = length(name.as_bytes()) + rest.clone().map(|(_, bytes)| length(bytes)).sum::<usize>();
    put_varint(buffer, number << 3 | 2);
    put_varint(buffer, inner as u64);
    put_bytes(buffer, 1, name.as_bytes());
    for (number, bytes) in rest {
        put_bytes(buffer, *number, bytes);
    }
}

/// What frames of one entry and its fields take at most: the entry's own, key, and value or id.
const FRAMES_BYTES: usize = 6 + 3 + 6;

/// At most how many bytes an element takes in a delta.
pub(super) fn element_len(pin: &Cid, value_len: usize) -> usize {
    FRAMES_BYTES + key_len(pin) + value_len
}

/// At most how many bytes a tombstone takes in a delta.
pub(super) fn tombstone_len(pin: &Cid) -> usize {
    const ID_BYTES: usize = 1 + (34 * 8usize).div_ceil(5);
    FRAMES_BYTES + key_len(pin) + ID_BYTES
}

fn key_len(pin: &Cid) -> usize {
    1 + (pin.encoded_len() * 8).div_ceil(5)
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;
    use crate::error::ErrorKind;
    use crate::state::decode_pin_protobuf;

    #[test]
    fn deltas_are_read_and_written_as_the_reference_does() {
        let vectors: Vec<_> =
            vectors::group("crdt/").into_iter().filter(|vector| vector.name.ends_with("/delta")).collect();
        assert_eq!(vectors.len(), 7);
        for vector in vectors {
            let delta = Delta::decode(vector.bytes().into()).unwrap();
            assert_eq!(hex::encode(delta.encode()), vector.hex, "{}", vector.name);
            assert!(delta.encoded_len() >= vector.bytes().len());
            assert_eq!(vector.decoded["priority"], delta.priority);
            let list = |field: &str| vector.decoded[field].as_array().cloned().unwrap_or_default();
            let elements = list("elements");
            assert_eq!(elements.len(), delta.elements.len(), "{}", vector.name);
            for (element, expected) in delta.elements.iter().zip(&elements) {
                assert_eq!(expected["Key"], key::of_pin(&element.pin));
                assert_eq!(expected["ValueHex"], hex::encode(&element.value));
                decode_pin_protobuf(&element.pin, &element.value).unwrap();
            }
            let tombstones = list("tombstones");
            assert_eq!(tombstones.len(), delta.tombstones.len(), "{}", vector.name);
            for (tombstone, expected) in delta.tombstones.iter().zip(&tombstones) {
                assert_eq!(expected["Key"], key::of_pin(&tombstone.pin));
                assert_eq!(expected["Id"], key::of_block(&tombstone.block));
            }
        }
    }

    #[test]
    fn entries_that_name_nothing_are_left_out() {
        let good = vectors::delta("crdt/5-batch/delta");
        let mut message = PbDelta::decode(&*good.encode()).unwrap();
        let named = |key: &str, id: &str| PbElement { key: key.into(), id: id.into(), value: Bytes::new() };
        let (pin, block) = (message.tombstones[0].key.clone(), message.tombstones[0].id.clone());
        message.elements.insert(0, named("/other/key", ""));
        message.tombstones.push(named("/other/key", &block));
        message.tombstones.push(named(&pin, "/other"));
        message.tombstones.push(named(&pin, &block[1..]));
        assert_eq!(Delta::decode(message.encode_to_vec().into()).unwrap(), good);
    }

    #[test]
    fn impossible_heights_and_too_many_entries_are_refused() {
        let refusal = |message: &PbDelta| Delta::decode(message.encode_to_vec().into()).unwrap_err();
        for priority in [0, HEIGHT_MAX + 1, u64::MAX] {
            let error = refusal(&PbDelta { priority, ..Default::default() });
            assert_eq!(error.kind(), ErrorKind::Corrupt);
        }
        let empty = PbElement { key: String::new(), id: String::new(), value: Bytes::new() };
        let elements = vec![empty; DELTA_ENTRIES_MAX + 1];
        let error = refusal(&PbDelta { elements, priority: 1, ..Default::default() });
        assert!(error.to_string().contains("65537 entries"), "{error}");
    }
}
