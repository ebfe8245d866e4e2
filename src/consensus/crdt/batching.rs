//! Operations that were acknowledged and that no delta has yet.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::delta::{element_len, tombstone_len};
use super::key::{self, Digest};
use super::wire::{corrupt, put_varint, read_varint};
use crate::error::Result;
use crate::types::Cid;

/// The byte in front of a record of the log.
const FORMAT: u8 = 1;
const KIND_PIN: u8 = 1;
const KIND_UNPIN: u8 = 2;

/// About how many bytes of deltas there are before they are cut, whatever the configuration says. As the reference.
pub(super) const DELTA_BYTES: usize = 1 << 20;
/// Most bytes of operations in one record of the log.
pub(super) const LOG_RECORD_BYTES: usize = 4 << 20;

/// When a delta is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// With every group of operations.
    AtOnce,
    /// After this many operations or this long.
    Batched { operations: usize, age: Duration },
}

impl Policy {
    /// Whether what waits is to be cut.
    pub(super) fn is_due(self, operations: usize, bytes: usize, age: Duration) -> bool {
        match self {
            _ if operations == 0 => false,
            Self::AtOnce => true,
            Self::Batched { operations: most, age: oldest } => {
                operations >= most || bytes >= DELTA_BYTES || age >= oldest
            }
        }
    }
}

/// What waits for one pin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// The value to be added.
    pub(super) value: Option<Bytes>,
    /// Elements to be removed. They are removed here already.
    pub(super) tombstones: Vec<Digest>,
}

impl Waiting {
    /// Pins, over whatever waited.
    pub(super) fn pin(&mut self, value: Bytes) {
        self.value = Some(value);
    }

    /// Unpins what waited and these elements.
    pub(super) fn unpin(&mut self, elements: &[Digest]) {
        self.value = None;
        self.tombstones.extend_from_slice(elements);
    }

    /// At most how many bytes it takes in deltas.
    pub(super) fn bytes(&self, pin: &Cid) -> usize {
        let element = self.value.as_ref().map_or(0, |value| element_len(pin, value.len()));
        element + self.tombstones.len() * tombstone_len(pin)
    }
}

/// All that waits.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending {
    /// By pin. One that is empty stays until the cut: the log has operations of it.
    pub(super) pins: BTreeMap<Cid, Waiting>,
    /// Operations that were logged.
    pub(super) operations: usize,
    /// Bytes they take in deltas.
    pub(super) bytes: usize,
    /// When the oldest came.
    pub(super) since: Option<Instant>,
    /// Records of the log, in order.
    pub(super) log: Vec<u64>,
}

impl Pending {
    /// How old the oldest is.
    pub(super) fn age(&self, now: Instant) -> Duration {
        self.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// What waits for a pin is this now.
    pub(super) fn set(&mut self, pin: Cid, waiting: Waiting) {
        self.bytes += waiting.bytes(&pin);
        if let Some(before) = self.pins.insert(pin, waiting) {
            self.bytes = self.bytes.saturating_sub(before.bytes(&pin));
        }
    }

    /// An operation that the log has.
    pub(super) fn replay(&mut self, entry: Logged) {
        let (pin, mut waiting) = match &entry {
            Logged::Pin { pin, .. } | Logged::Unpin { pin, .. } => {
                (*pin, self.pins.get(pin).cloned().unwrap_or_default())
            }
        };
        match entry {
            Logged::Pin { value, .. } => waiting.pin(value),
            Logged::Unpin { elements, .. } => waiting.unpin(&elements),
        }
        self.set(pin, waiting);
        self.operations += 1;
    }
}

/// An operation in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Logged {
    /// The pin has this value.
    Pin { pin: Cid, value: Bytes },
    /// The pin is gone, with these elements.
    Unpin { pin: Cid, elements: Vec<Digest> },
}

impl Logged {
    fn bytes(&self) -> usize {
        match self {
            Self::Pin { pin, value } => 16 + pin.encoded_len() + value.len(),
            Self::Unpin { pin, elements } => 16 + pin.encoded_len() + elements.len() * size_of::<Digest>(),
        }
    }

    fn put(&self, record: &mut Vec<u8>) {
        let (Self::Pin { pin, .. } | Self::Unpin { pin, .. }) = self;
        let name = pin.to_bytes();
        record.push(if matches!(self, Self::Pin { .. }) { KIND_PIN } else { KIND_UNPIN });
        put_varint(record, name.len() as u64);
        record.extend_from_slice(&name);
        match self {
            Self::Pin { value, .. } => {
                put_varint(record, value.len() as u64);
                record.extend_from_slice(value);
            }
            Self::Unpin { elements, .. } => {
                put_varint(record, elements.len() as u64);
                elements.iter().for_each(|digest| record.extend_from_slice(digest));
            }
        }
    }

    fn take(record: &Bytes, rest: &mut &[u8]) -> Option<Self> {
        let (&kind, after) = rest.split_first()?;
        *rest = after;
        let pin = key::pin_of_bytes(take_bytes(rest)?)?;
        match kind {
            KIND_PIN => Some(Self::Pin { pin, value: record.slice_ref(take_bytes(rest)?) }),
            KIND_UNPIN => {
                let (count, after) = read_varint(rest)?;
                *rest = after;
                if count > rest.len() as u64 / 32 {
                    return None;
                }
                let elements = (0..count).map(|_| {
                    let (digest, after) = rest.split_first_chunk::<32>()?;
                    *rest = after;
                    Some(*digest)
                });
                Some(Self::Unpin { pin, elements: elements.collect::<Option<_>>()? })
            }
            _ => None,
        }
    }
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, after) = read_varint(rest)?;
    let (bytes, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(bytes)
}

/// Records of the log, none much larger than [`LOG_RECORD_BYTES`].
pub(super) fn encode_log(operations: &[Logged]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut record = vec![FORMAT];
    for operation in operations {
        if record.len() > 1 && record.len() + operation.bytes() > LOG_RECORD_BYTES {
            records.push(std::mem::replace(&mut record, vec![FORMAT]));
        }
        operation.put(&mut record);
    }
    if record.len() > 1 {
        records.push(record);
    }
    records
}

/// The operations of a record, in order.
///
/// # Errors
/// `Corrupt`.
pub(super) fn decode_log(record: &Bytes) -> Result<Vec<Logged>> {
    let broken = || corrupt("a record of operations that were acknowledged is unreadable");
    let mut rest = record.strip_prefix(&[FORMAT]).ok_or_else(broken)?;
    let mut operations = Vec::new();
    while !rest.is_empty() {
        operations.push(Logged::take(record, &mut rest).ok_or_else(broken)?);
    }
    Ok(operations)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(number: u8) -> Cid {
        Cid::new_v1(0x55, *key::block_cid(&[number; 32]).hash())
    }

    fn put(number: u8, value: &'static str) -> Logged {
        Logged::Pin { pin: pin(number), value: Bytes::from_static(value.as_bytes()) }
    }

    fn remove(number: u8, elements: &[Digest]) -> Logged {
        Logged::Unpin { pin: pin(number), elements: elements.to_vec() }
    }

    #[test]
    fn the_log_is_read_as_it_was_written() {
        let operations = vec![put(1, "one"), remove(2, &[]), remove(1, &[[7; 32], [8; 32]]), put(3, "")];
        let [record] = &*encode_log(&operations) else { panic!("one record") };
        assert_eq!(decode_log(&Bytes::copy_from_slice(record)).unwrap(), operations);
        assert!(encode_log(&[]).is_empty());
    }

    #[test]
    fn a_long_log_is_several_records_in_order() {
        let value = Bytes::from(vec![7; 1 << 20]);
        let operations: Vec<_> =
            (0..10).map(|number| Logged::Pin { pin: pin(number), value: value.clone() }).collect();
        let records = encode_log(&operations);
        assert!(records.len() == 4 && records.iter().all(|record| record.len() <= LOG_RECORD_BYTES));
        let read = records.into_iter().flat_map(|record| decode_log(&record.into()).unwrap());
        assert_eq!(read.collect::<Vec<_>>(), operations);
    }

    #[test]
    fn what_waits_for_a_pin_is_what_its_operations_say_together() {
        let old = [7; 32];
        let cases: [(&[Logged], Option<&str>, &[Digest]); 6] = [
            (&[put(1, "a")], Some("a"), &[]),
            (&[put(1, "a"), put(1, "b")], Some("b"), &[]),
            (&[put(1, "a"), remove(1, &[])], None, &[]),
            (&[remove(1, &[old])], None, &[old]),
            (&[remove(1, &[old]), put(1, "a")], Some("a"), &[old]),
            (&[remove(1, &[old]), put(1, "a"), remove(1, &[])], None, &[old]),
        ];
        for (operations, value, tombstones) in cases {
            let mut pending = Pending::default();
            operations.iter().cloned().for_each(|operation| pending.replay(operation));
            let waiting = &pending.pins[&pin(1)];
            assert_eq!(waiting.value.as_deref(), value.map(str::as_bytes), "{operations:?}");
            assert_eq!(waiting.tombstones, tombstones, "{operations:?}");
            assert_eq!(pending.bytes, waiting.bytes(&pin(1)));
            assert_eq!(pending.operations, operations.len());
        }
    }

    #[test]
    fn a_cut_is_due_by_size_age_or_bytes() {
        let second = Duration::from_secs(1);
        let batched = Policy::Batched { operations: 10, age: second };
        for (policy, operations, bytes, age, due) in [
            (Policy::AtOnce, 0, 0, second, false),
            (Policy::AtOnce, 1, 1, Duration::ZERO, true),
            (batched, 0, 0, second, false),
            (batched, 9, 1, second / 2, false),
            (batched, 10, 1, Duration::ZERO, true),
            (batched, 1, DELTA_BYTES, Duration::ZERO, true),
            (batched, 1, 1, second, true),
        ] {
            assert_eq!(policy.is_due(operations, bytes, age), due, "{policy:?} {operations} {bytes} {age:?}");
        }
    }
}
