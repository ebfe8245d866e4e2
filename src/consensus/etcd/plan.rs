//! What operations become: writes, and chunks of writes that fit into one transaction of etcd. Nothing here talks to it.
//!
//! Etcd does not write one key twice in one transaction, so a chunk holds what the operations of each entry come to: what
//! it becomes, or what it becomes if it is as somebody saw it.

use std::collections::BTreeMap;

use bytes::{Buf as _, BufMut as _, Bytes};

use super::keys::{Keys, encode_pin};
use super::wire::{Compare, Delete, Op, Txn};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, PinOperation};

/// What is compared one after the other for one entry; more begins another chunk.
const CHOICES_MAX: usize = 8;
/// About what a key, a comparison and what is around them take in a request of etcd, in bytes.
const WRITE_BYTES: usize = 160;
/// Version of the operations in a part.
const PART_VERSION: u8 = 1;

/// How much etcd takes in one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Operations.
    pub(super) operations: usize,
    /// Bytes of keys and values, about.
    pub(super) bytes: usize,
}

impl Limits {
    /// Entries in one chunk: below them are choices, beside them is what goes with every transaction.
    fn entries(self) -> usize {
        self.operations.saturating_sub(CHOICES_MAX + 4).max(1)
    }
}

/// An operation as etcd is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) cid: Cid,
    /// The value that the entry must have; none where it does not matter.
    pub(super) seen: Option<Bytes>,
    /// The value it gets; none removes it.
    pub(super) now: Option<Bytes>,
}

impl Write {
    pub(super) fn of(operation: &PinOperation) -> Self {
        let cid = *operation.cid();
        match operation {
            PinOperation::Pin(pin) => Self { cid, seen: None, now: Some(encode_pin(pin).into()) },
            PinOperation::Unpin(_) => Self { cid, seen: None, now: None },
            PinOperation::Revise(revision) => Self {
                cid,
                seen: Some(encode_pin(revision.seen()).into()),
                now: revision.now().map(|pin| encode_pin(pin).into()),
            },
        }
    }

    /// About what it takes in a request.
    pub(super) fn bytes(&self) -> usize {
        let length = |value: &Option<Bytes>| value.as_ref().map_or(0, Bytes::len);
        WRITE_BYTES + length(&self.seen) + length(&self.now)
    }
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Leave,
    Put(Bytes),
    Remove,
}

/// What becomes of an entry, depending on what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// If it has this value.
    choices: Vec<(Bytes, Outcome)>,
    otherwise: Outcome,
    /// Which write was the last for it: that is its place.
    place: usize,
}

impl Entry {
    const UNTOUCHED: Self = Self { choices: Vec::new(), otherwise: Outcome::Leave, place: 0 };

    fn apply(&mut self, write: &Write) {
        let outcome = match &write.now {
            Some(value) => Outcome::Put(value.clone()),
            None => Outcome::Remove,
        };
        let Some(seen) = &write.seen else {
            self.choices.clear();
            self.otherwise = outcome;
            return;
        };
        // Where an earlier write has decided what it is, that is compared now.
        let is_seen = |outcome: &Outcome| matches!(outcome, Outcome::Put(value) if value == seen);
        let mut is_chosen = false;
        for (value, then) in &mut self.choices {
            if is_seen(then) {
                *then = outcome.clone();
            }
            is_chosen |= value == seen;
        }
        if is_seen(&self.otherwise) {
            self.otherwise = outcome;
        } else if self.otherwise == Outcome::Leave && !is_chosen {
            self.choices.push((seen.clone(), outcome));
        }
    }

    fn op(&self, key: &[u8]) -> Option<Op> {
        let simple = |outcome: &Outcome| match outcome {
            Outcome::Leave => None,
            Outcome::Put(value) => Some(Op::put(key.to_vec(), value.clone())),
            Outcome::Remove => {
                Some(Op::Delete(Delete { key: key.to_vec().into(), prev_kv: true, ..Delete::default() }))
            }
        };
        self.choices.iter().rev().fold(simple(&self.otherwise), |rest, (seen, then)| {
            Some(Op::Txn(Txn {
                compare: vec![Compare::value(key.to_vec(), seen.clone())],
                success: simple(then).into_iter().collect(),
                failure: rest.into_iter().collect(),
            }))
        })
    }
}

/// Writes that go into one transaction.
#[derive(Debug)]
pub(super) struct Chunk {
    limits: Limits,
    entries: BTreeMap<Cid, Entry>,
    writes: usize,
    bytes: usize,
}

impl Chunk {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limits, entries: BTreeMap::new(), writes: 0, bytes: 0 }
    }

    /// How many writes it has.
    pub(super) fn writes(&self) -> usize {
        self.writes
    }

    /// Whether something happens to this entry already.
    pub(super) fn touches(&self, cid: &Cid) -> bool {
        self.entries.contains_key(cid)
    }

    /// Whether these fit in beside what is there, as entries of their own.
    pub(super) fn has_room(&self, writes: &[Write]) -> bool {
        self.entries.len() + writes.len() <= self.limits.entries()
            && self.bytes + writes.iter().map(Write::bytes).sum::<usize>() <= self.limits.bytes
    }

    /// Takes a write after those that are there; false, and unchanged, if it does not fit. The first one always does.
    pub(super) fn push(&mut self, write: &Write) -> bool {
        let entry = self.entries.get(&write.cid);
        let (is_new, choices) = (entry.is_none(), entry.map_or(0, |entry| entry.choices.len()));
        let is_full = self.bytes + write.bytes() > self.limits.bytes
            || (is_new && self.entries.len() >= self.limits.entries())
            || choices >= CHOICES_MAX;
        if is_full && self.writes > 0 {
            return false;
        }
        let entry = self.entries.entry(write.cid).or_insert(Entry::UNTOUCHED);
        entry.apply(write);
        entry.place = self.writes;
        self.writes += 1;
        self.bytes += write.bytes();
        true
    }

    /// The operations, each with its entry, in order of the last write of each.
    pub(super) fn ops(&self, keys: &Keys) -> Vec<(Cid, Op)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(_, entry)| entry.place);
        entries.into_iter().filter_map(|(cid, entry)| Some((*cid, entry.op(&keys.pin(cid))?))).collect()
    }
}

/// Whether all of these go into one transaction.
pub(super) fn fits(writes: &[Write], limits: Limits) -> bool {
    let mut chunk = Chunk::new(limits);
    writes.iter().all(|write| chunk.push(write))
}

/// Refuses what no transaction can hold.
///
/// # Errors
/// `InvalidInput`.
pub(super) fn check_size(write: &Write, limits: Limits) -> Result<()> {
    if write.bytes() > limits.bytes {
        return Err(Error::invalid_input(format!(
            "the entry of {} takes {} bytes, but etcd takes about {} in one request; make it smaller, or raise etcd's \
             --max-request-bytes and etcd.max_request_bytes",
            write.cid,
            write.bytes(),
            limits.bytes
        )));
    }
    Ok(())
}

/// Writes in parts of about so many bytes, each with as many as fit.
pub(super) fn parts(writes: &[Write], bytes: usize) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut part = Vec::new();
    for write in writes {
        if !part.is_empty() && part.len() + write.bytes() > bytes {
            parts.push(std::mem::take(&mut part));
        }
        if part.is_empty() {
            part.push(PART_VERSION);
        }
        let (seen, now) = (&write.seen, &write.now);
        part.put_u8(u8::from(seen.is_some()) | u8::from(now.is_some()) << 1);
        for value in [Some(&Bytes::from(write.cid.to_bytes())), seen.as_ref(), now.as_ref()] {
            // No value is longer than a request of etcd.
            if let Some((value, length)) = value.and_then(|value| Some((value, value.len().try_into().ok()?)))
            {
                part.put_u32(length);
                part.put_slice(value);
            }
        }
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

/// The writes of a part.
///
/// # Errors
/// `Corrupt`; `Unsupported` for a later version.
pub(super) fn read_part(mut part: Bytes) -> Result<Vec<Write>> {
    let corrupt = || Error::new(ErrorKind::Corrupt, "a part of a batch cannot be read");
    match part.try_get_u8() {
        Ok(PART_VERSION) => {}
        Ok(version) if version > PART_VERSION => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("a part of a batch has version {version}, this program reads {PART_VERSION}"),
            ));
        }
        _ => return Err(corrupt()),
    }
    let mut writes = Vec::new();
    while part.has_remaining() {
        let flags = part.get_u8();
        let mut value = || {
            let length = part.try_get_u32().ok().and_then(|length| usize::try_from(length).ok());
            length
                .filter(|length| *length <= part.len())
                .map(|length| part.split_to(length))
                .ok_or_else(corrupt)
        };
        let cid = Cid::try_from(&value()?[..]).map_err(|_| corrupt())?;
        let mut optional = |flag: u8| if flags & flag > 0 { value().map(Some) } else { Ok(None) };
        let (seen, now) = (optional(1)?, optional(2)?);
        if flags > 3 {
            return Err(corrupt());
        }
        writes.push(Write { cid, seen, now });
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use multihash_codetable::{Code, MultihashDigest as _};
    use proptest::prelude::*;

    use super::*;
    use crate::types::{Pin, PinOptions, Revision};

    const LIMITS: Limits = Limits { operations: 128, bytes: 1 << 20 };

    fn cid(number: u8) -> Cid {
        Cid::new_v1(0x55, Code::Sha2_256.digest(&[number]))
    }

    fn write(number: u8, seen: Option<u8>, now: Option<u8>) -> Write {
        let value = |byte: u8| Bytes::from(vec![byte]);
        Write { cid: cid(number), seen: seen.map(value), now: now.map(value) }
    }

    /// What etcd would do.
    fn run(op: &Op, key: &[u8], value: Option<Bytes>) -> Option<Bytes> {
        match op {
            Op::Put(put) => {
                assert_eq!(put.key.0, key);
                Some(put.value.0.clone())
            }
            Op::Delete(_) => None,
            Op::Range(_) => value,
            Op::Txn(txn) => {
                let holds = txn.compare.iter().all(|compare| {
                    matches!(compare, Compare::Value { value: wanted, .. } if Some(&wanted.0) == value.as_ref())
                });
                let ops = if holds { &txn.success } else { &txn.failure };
                ops.iter().fold(value, |value, op| run(op, key, value))
            }
        }
    }

    proptest! {
        #[test]
        fn a_chunk_does_what_its_writes_do_one_after_the_other(
            start in proptest::option::of(0u8..4),
            writes in proptest::collection::vec(
                (proptest::option::of(0u8..4), proptest::option::of(0u8..4)), 0..12),
        ) {
            let writes: Vec<Write> = writes.into_iter().map(|(seen, now)| write(1, seen, now)).collect();
            let start = start.map(|byte| Bytes::from(vec![byte]));
            let mut expected = start.clone();
            for write in &writes {
                if write.seen.is_none() || write.seen == expected {
                    expected = write.now.clone();
                }
            }
            let mut value = start;
            let mut rest = &writes[..];
            let keys = Keys::below("/c");
            while !rest.is_empty() {
                let mut chunk = Chunk::new(LIMITS);
                let taken = rest.iter().take_while(|write| chunk.push(write)).count();
                rest = &rest[taken..];
                for (cid, op) in chunk.ops(&keys) {
                    value = run(&op, &keys.pin(&cid), value);
                }
            }
            prop_assert_eq!(value, expected);
        }

        #[test]
        fn parts_read_back_whole(
            writes in proptest::collection::vec(
                (0u8..9, proptest::option::of(0u8..4), proptest::option::of(0u8..4)), 0..40),
            bytes in 1usize..2000,
        ) {
            let writes: Vec<Write> = writes.into_iter().map(|(cid, seen, now)| write(cid, seen, now)).collect();
            let mut read = Vec::new();
            for part in parts(&writes, bytes) {
                prop_assert!(part.len() <= bytes.max(2 * WRITE_BYTES));
                read.extend(read_part(part.into()).unwrap());
            }
            prop_assert_eq!(read, writes);
        }

        #[test]
        fn a_part_of_anybody_is_read_or_refused(part in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_part(part.into());
        }
    }

    #[test]
    fn entries_come_in_the_order_of_their_last_writes() {
        let mut chunk = Chunk::new(LIMITS);
        for write in [write(1, None, Some(1)), write(2, None, Some(2)), write(1, None, None)] {
            assert!(chunk.push(&write));
        }
        let order: Vec<Cid> = chunk.ops(&Keys::below("/c")).into_iter().map(|(cid, _)| cid).collect();
        assert_eq!(order, [cid(2), cid(1)]);
    }

    #[test]
    fn a_chunk_ends_where_etcd_would_refuse_it() {
        let writes: Vec<Write> = (0..=255).map(|number| write(number, None, None)).collect();
        let taken = |limits| {
            let mut chunk = Chunk::new(limits);
            writes.iter().take_while(|write| chunk.push(write)).count()
        };
        assert_eq!(taken(LIMITS), 116);
        assert_eq!(taken(Limits { bytes: 10 * WRITE_BYTES, ..LIMITS }), 10);
        // Progress is made in any case.
        assert_eq!(taken(Limits { operations: 0, bytes: 0 }), 1);
        assert!(fits(&writes[..116], LIMITS) && !fits(&writes[..117], LIMITS));
        let choices: Vec<Write> = (0..20).map(|value| write(1, Some(value), None)).collect();
        assert!(fits(&choices[..CHOICES_MAX], LIMITS) && !fits(&choices[..=CHOICES_MAX], LIMITS));
    }

    #[test]
    fn an_entry_that_no_request_holds_is_refused_with_the_way_out() {
        let mut pin = Pin::new(cid(1), PinOptions::default());
        check_size(&Write::of(&PinOperation::Pin(Arc::new(pin.clone()))), LIMITS).unwrap();
        pin.options.metadata.insert("k".into(), "x".repeat(LIMITS.bytes));
        for operation in
            [PinOperation::Pin(Arc::new(pin.clone())), PinOperation::Revise(Revision::remove(pin))]
        {
            let error = check_size(&Write::of(&operation), LIMITS).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains("max_request_bytes"), "{error}");
        }
    }
}
