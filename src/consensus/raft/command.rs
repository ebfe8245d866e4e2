//! What is in an entry of the log: *parts*, each of which is what one peer asked for at a time.
//!
//! A part has a key: its peer, the *session* of that peer (a number that grows with each of its starts) and its sequence
//! within the session. A peer that does not know what became of a part asks for it again under the same key, and whoever
//! applies the log applies each key once. Below a *floor* the peer waits for nothing any more, so nothing has to be
//! remembered of what is below. Of a peer that does not vote any more nothing is remembered, and nothing that it asked for is
//! applied: it may have been applied while it voted.

use std::sync::Arc;

use bytes::Bytes;

use super::types::Answers;
use super::wire::{Reader, Writer, corrupt, read, written};
use super::{COMPONENT, OPERATIONS_MAX};
use crate::error::{Error, Result};
use crate::state::{decode_pin_protobuf, encode_pin_protobuf};
use crate::types::{Cid, PeerId, Pin, PinOperation, Revision};

/// Largest value of one pin, in bytes.
pub(super) const PIN_BYTES_MAX: usize = 1 << 20;
/// Largest part, in bytes.
pub(super) const PART_BYTES_MAX: usize = 32 << 20;
/// Parts of one entry.
pub(super) const PARTS_MAX: usize = 4096;
/// Parts of one peer that are under way at a time: what is remembered of it is at most that many.
pub(super) const WINDOW: u64 = 64;
/// Longest binary CID, in bytes.
const CID_BYTES_MAX: usize = 512;

const PIN: u8 = 0;
const UNPIN: u8 = 1;
const UNPIN_AND_TELL: u8 = 2;
const REVISE: u8 = 3;

/// What tells a part from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) origin: PeerId,
    pub(super) session: u64,
    pub(super) sequence: u64,
    pub(super) floor: u64,
}

/// One operation, and whether its caller wants to know what is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) operation: PinOperation,
    pub(super) tells: bool,
}

/// What one peer asked for at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) key: Key,
    pub(super) operations: Vec<Operation>,
}

/// The operations of a part, encoded by whoever asks, and how many.
#[derive(Clone, Debug, Default)]
pub(super) struct Operations {
    pub(super) bytes: Vec<u8>,
    pub(super) count: usize,
}

impl Operations {
    /// # Errors
    /// `InvalidInput` for a pin that is too large, and for too much at a time.
    pub(super) fn encode(operations: &[PinOperation], tells: bool) -> Result<Self> {
        let mut writer = Writer::with_capacity(operations.len() * 200);
        for operation in operations {
            match operation {
                PinOperation::Pin(pin) => {
                    writer.byte(PIN);
                    put_cid(&mut writer, &pin.cid);
                    put_value(&mut writer, pin)?;
                }
                PinOperation::Unpin(cid) => {
                    writer.byte(if tells { UNPIN_AND_TELL } else { UNPIN });
                    put_cid(&mut writer, cid);
                }
                PinOperation::Revise(revision) => {
                    writer.byte(REVISE);
                    put_cid(&mut writer, &revision.seen().cid);
                    put_value(&mut writer, revision.seen())?;
                    writer.flag(revision.now().is_some());
                    if let Some(now) = revision.now() {
                        put_value(&mut writer, now)?;
                    }
                }
            }
            if writer.0.len() > PART_BYTES_MAX {
                return Err(Error::invalid_input(format!(
                    "these operations take more than {PART_BYTES_MAX} bytes together; log them in parts"
                ))
                .component(COMPONENT));
            }
        }
        Ok(Self { bytes: writer.0, count: operations.len() })
    }

    /// A part of these.
    pub(super) fn into_part(self, key: Key) -> Bytes {
        let mut writer = Writer::with_capacity(self.bytes.len() + 128);
        writer.peer(&key.origin);
        writer.long(key.session);
        writer.long(key.sequence);
        writer.long(key.floor);
        writer.count(self.count);
        writer.raw(&self.bytes);
        writer.0.into()
    }
}

fn put_cid(writer: &mut Writer, cid: &Cid) {
    let bytes = cid.to_bytes();
    writer.short(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
    writer.raw(&bytes);
}

fn put_value(writer: &mut Writer, pin: &Pin) -> Result<()> {
    let value = encode_pin_protobuf(pin);
    if value.len() > PIN_BYTES_MAX {
        return Err(Error::invalid_input(format!(
            "the pin of {} takes {} bytes, but at most {PIN_BYTES_MAX} travel between peers; give it a shorter name, \
             less metadata or fewer origins",
            pin.cid,
            value.len()
        ))
        .component(COMPONENT));
    }
    writer.bytes(&value);
    Ok(())
}

fn cid(reader: &mut Reader) -> Result<Cid> {
    let length = reader.short()?.into();
    if length > CID_BYTES_MAX {
        return Err(corrupt("a cid is too long"));
    }
    let bytes = reader.take(length)?;
    Cid::try_from(&bytes[..]).map_err(|source| corrupt("a cid is unreadable").with_source(source))
}

fn value(reader: &mut Reader, cid: &Cid) -> Result<Pin> {
    let value = reader.bytes()?;
    if value.len() > PIN_BYTES_MAX {
        return Err(corrupt("a pin is too large"));
    }
    decode_pin_protobuf(cid, &value)
}

impl Part {
    /// # Errors
    /// `Corrupt`.
    pub(super) fn decode(bytes: Bytes) -> Result<Self> {
        read(bytes, |reader| {
            let key = Key {
                origin: reader.peer()?,
                session: reader.long()?,
                sequence: reader.long()?,
                floor: reader.long()?,
            };
            if key.sequence < key.floor || key.sequence - key.floor >= WINDOW {
                return Err(corrupt("a part is not within its window"));
            }
            let count = reader.count(OPERATIONS_MAX)?;
            let operations = (0..count).map(|_| Operation::read(reader)).collect::<Result<_>>()?;
            Ok(Self { key, operations })
        })
    }
}

impl Operation {
    fn read(reader: &mut Reader) -> Result<Self> {
        let kind = reader.byte()?;
        let cid = cid(reader)?;
        let operation = match kind {
            PIN => PinOperation::Pin(Arc::new(value(reader, &cid)?)),
            UNPIN | UNPIN_AND_TELL => PinOperation::Unpin(cid),
            REVISE => {
                let seen = value(reader, &cid)?;
                PinOperation::Revise(match reader.option(|reader| value(reader, &cid))? {
                    Some(now) => Revision::replace(seen, now),
                    None => Revision::remove(seen),
                })
            }
            kind => return Err(corrupt(format!("an operation of the unknown kind {kind}"))),
        };
        Ok(Self { operation, tells: kind == UNPIN_AND_TELL })
    }
}

/// The entry of some parts.
pub(super) fn join(parts: &[Bytes]) -> Bytes {
    let mut writer = Writer::with_capacity(parts.iter().map(|part| part.len() + 4).sum::<usize>() + 4);
    writer.count(parts.len());
    parts.iter().for_each(|part| writer.bytes(part));
    writer.0.into()
}

/// The parts of an entry.
pub(super) fn split(entry: Bytes) -> Result<Vec<Bytes>> {
    read(entry, |reader| (0..reader.count(PARTS_MAX)?).map(|_| reader.bytes()).collect())
}

/// Answers as they are stored and sent.
pub(super) fn encode_answers(answers: &Answers) -> Bytes {
    written(|writer| {
        writer.count(answers.len());
        answers.iter().for_each(|answer| writer.option(answer.as_ref(), |writer, value| writer.bytes(value)));
    })
}

pub(super) fn decode_answers(reader: &mut Reader) -> Result<Answers> {
    (0..reader.count(OPERATIONS_MAX)?).map(|_| reader.option(Reader::bytes)).collect()
}
