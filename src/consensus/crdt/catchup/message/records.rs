//! Records of pins, written and read with the blocks that they name told once.

use std::collections::HashMap;

use bytes::Bytes;

use super::super::super::absorb::PinRecord;
use super::super::super::key::{self, Digest};
use super::super::super::wire::{corrupt, put_varint};
use super::{MESSAGE_BYTES, Message, NAMES_MAX, RECORD_NAMES_MAX, RECORD_PARTS_MAX, Reader, put_key};
use crate::error::Result;

/// Writes records for [`Message::Records`]. A block is named the first time, and is a number after that: many pins share
/// one.
#[derive(Debug, Default)]
pub(in super::super::super) struct RecordWriter {
    names: HashMap<Digest, u64>,
    records: Vec<u8>,
    /// Records, elements and tombstones since the last message.
    parts: usize,
}

impl RecordWriter {
    /// Puts a record, and gives messages that are full.
    pub(in super::super::super) fn put(&mut self, record: &PinRecord) -> Option<Message> {
        put_key(&mut self.records, &record.pin.to_bytes());
        put_varint(&mut self.records, record.elements.len() as u64);
        for (block, priority, value) in &record.elements {
            self.name(block);
            put_varint(&mut self.records, *priority);
            put_key(&mut self.records, value);
        }
        put_varint(&mut self.records, record.tombstones.len() as u64);
        for block in &record.tombstones {
            self.name(block);
        }
        self.parts += 1 + record.elements.len() + record.tombstones.len();
        let is_full =
            self.records.len() >= MESSAGE_BYTES || self.parts + 1 + 2 * RECORD_NAMES_MAX > RECORD_PARTS_MAX;
        if is_full { self.take() } else { None }
    }

    /// What was put since.
    pub(in super::super::super) fn take(&mut self) -> Option<Message> {
        self.parts = 0;
        let records = std::mem::take(&mut self.records);
        (!records.is_empty()).then(|| Message::Records(records.into()))
    }

    fn name(&mut self, block: &Digest) {
        if let Some(number) = self.names.get(block) {
            return put_varint(&mut self.records, number + 1);
        }
        if self.names.len() == NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(*block, self.names.len() as u64);
        self.records.push(0);
        self.records.extend_from_slice(block);
    }
}

/// Reads what a [`RecordWriter`] wrote, in the same order.
#[derive(Debug, Default)]
pub(in super::super::super) struct RecordReader {
    names: Vec<Digest>,
}

impl RecordReader {
    /// # Errors
    /// `Corrupt`.
    pub(in super::super::super) fn read(&mut self, message: &Bytes) -> Result<Vec<PinRecord>> {
        let mut from = Reader(message);
        let mut records = Vec::new();
        let mut parts = 0;
        while !from.0.is_empty() {
            let record = self.record(message, &mut from);
            let record = record.ok_or_else(|| corrupt("a record that cannot be read"))?;
            parts += 1 + record.elements.len() + record.tombstones.len();
            if parts > RECORD_PARTS_MAX {
                return Err(corrupt("too many records in a message"));
            }
            records.push(record);
        }
        Ok(records)
    }

    fn record(&mut self, message: &Bytes, from: &mut Reader<'_>) -> Option<PinRecord> {
        let pin = key::pin_of_bytes(from.bytes()?)?;
        let count = from.count(RECORD_NAMES_MAX, 3)?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            let (block, priority) = (self.name(from)?, from.height()?);
            elements.push((block, priority, message.slice_ref(from.bytes()?)));
        }
        let count = from.count(RECORD_NAMES_MAX, 1)?;
        let tombstones = (0..count).map(|_| self.name(from)).collect::<Option<Vec<_>>>()?;
        Some(PinRecord { pin, elements, tombstones })
    }

    fn name(&mut self, from: &mut Reader<'_>) -> Option<Digest> {
        if let Some(number) = from.varint()?.checked_sub(1) {
            return self.names.get(usize::try_from(number).ok()?).copied();
        }
        let digest = from.digest()?;
        if self.names.len() == NAMES_MAX {
            self.names.clear();
        }
        self.names.push(digest);
        Some(digest)
    }
}
