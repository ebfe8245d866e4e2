//! The records that a batch touches, each read once.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use tracing::warn;

use super::super::delta::Element;
use super::super::key::{self, Digest};
use super::super::node::Node;
use super::super::records::{self, BLOCKS, BlockId, NUMBERS, SET, VALUES};
use super::super::set::{Elements, Number};
use super::super::wire::corrupt;
use super::{Named, READ_BLOCKS_MAX, Stage, Touched, missing};
use crate::error::{ErrorKind, Result};
use crate::storage::KeyRange;
use crate::types::Cid;

impl Stage<'_> {
    /// The elements of a pin; one look-up for each pin of a batch.
    pub(super) fn touch(&mut self, pin: &Cid) -> Result<&mut Touched> {
        use std::collections::btree_map::Entry;
        match self.pins.entry(*pin) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let record = self.storage.get(SET, &pin.to_bytes())?;
                let elements = record
                    .map(|record| Elements::decode(&record).map_err(|error| error.context(pin)))
                    .transpose()?
                    .unwrap_or_default();
                Ok(entry.insert(Touched::new(elements, self.memory.is_caught_up)))
            }
        }
    }

    /// The same for a pin that gets a new value. What was acknowledged has to be cut, so a damaged record is replaced: the
    /// new value is above whatever it said.
    pub(super) fn touch_or_replace(&mut self, pin: &Cid) -> Result<&mut Touched> {
        match self.touch(pin) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                warn!(cid = %pin, %error, "replacing a damaged record");
                let touched = Touched { is_changed: true, ..Touched::new(Elements::default(), false) };
                self.pins.insert(*pin, touched);
            }
            Err(error) => return Err(error),
        }
        self.touch(pin)
    }

    /// What stands for a block; a new number if nothing named it yet.
    pub(super) fn name(&mut self, digest: &Digest) -> Result<&mut Named> {
        use std::collections::btree_map::Entry;
        match self.names.entry(*digest) {
            Entry::Occupied(entry) => Ok(entry.into_mut()),
            Entry::Vacant(entry) => {
                let named = match records::block_id(self.storage, digest)? {
                    Some(id) => Named { id, is_new: false, is_changed: false },
                    None => {
                        let id = BlockId {
                            number: self.next_number,
                            height: 0,
                            is_processed: false,
                            is_lacking: false,
                        };
                        self.numbered.insert(id.number, *digest);
                        self.next_number += 1;
                        Named { id, is_new: true, is_changed: false }
                    }
                };
                Ok(entry.insert(named))
            }
        }
    }

    /// The block that a number stands for.
    pub(super) fn digest(&self, number: Number) -> Result<Digest> {
        if let Some(digest) = self.numbered.get(&number) {
            return Ok(*digest);
        }
        let digest = self.storage.get(NUMBERS, &records::number_key(number)?)?;
        digest.map_or_else(
            || Err(corrupt("an element belongs to a block that nobody knows")),
            |digest| records::digest_of(&digest),
        )
    }

    /// The value of an element.
    pub(super) fn value(&mut self, pin: &Cid, number: Number) -> Result<Bytes> {
        if let Some(touched) = self.pins.get(pin)
            && let Some((_, value)) = touched.values.iter().find(|(came_with, _)| *came_with == number)
        {
            return Ok(value.clone());
        }
        if !self.read.contains_key(&number) {
            let digest = self.digest(number)?;
            let Some(block) = self.storage.get(BLOCKS, &digest)? else {
                if let Some(value) = self.storage.get(VALUES, &records::value_key(pin, number)?)? {
                    return Ok(value);
                }
                return self.pinned_value(pin, number)?.ok_or_else(|| missing(pin));
            };
            let mut values: BTreeMap<Cid, Bytes> = BTreeMap::new();
            for Element { pin, value } in Node::parse(key::block_cid(&digest), block)?.delta.elements {
                let greatest = values.entry(pin).or_default();
                if value > *greatest {
                    *greatest = value;
                }
            }
            if self.read.len() >= READ_BLOCKS_MAX {
                self.read.pop_first();
            }
            self.read.insert(number, values);
        }
        self.read.get(&number).and_then(|values| values.get(pin)).cloned().ok_or_else(|| missing(pin))
    }

    /// The value of an element, if the pinset has it before this batch.
    pub(super) fn pinned_value(&mut self, pin: &Cid, number: Number) -> Result<Option<Bytes>> {
        if self.pins.get(pin).is_none_or(|touched| touched.stored != Some(number)) {
            return Ok(None);
        }
        self.stored_value(pin)
    }

    /// What the pinset has before this batch.
    pub(super) fn stored_value(&mut self, pin: &Cid) -> Result<Option<Bytes>> {
        let snapshot = match &self.snapshot {
            Some(snapshot) => snapshot.clone(),
            None => self.snapshot.insert(self.storage.snapshot()?).clone(),
        };
        let key = Bytes::from(pin.to_bytes());
        let range = KeyRange { start: Bound::Included(key.clone()), end: Bound::Included(key) };
        Ok(self.state.values(&*snapshot, range, 1)?.entries.pop().map(|(_, value)| value))
    }
}
