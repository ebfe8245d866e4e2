//! Where a copy is, written down with it.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};

use super::COMPONENT;
use super::keys::Keys;
use super::wire::KeyValue;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{self, Batch, Space, Storage};

/// Where the place of the copy is written down.
const META: Space = Space::new("etcd");
const MARK: &[u8] = b"mark";
const MARK_VERSION: u8 = 2;
/// Longest key and value of a witness, in bytes.
const WITNESS_BYTES_MAX: usize = 2048;

/// Where a copy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Which etcd.
    pub(super) cluster: i64,
    /// Everything up to there is in the copy; 0 for a copy that is being replaced.
    pub(super) revision: i64,
    /// What says whether etcd has the history still that the copy was made from.
    pub(super) witness: Option<Witness>,
}

/// The last write of a lane that the copy saw. An etcd that was restored has the same id, and soon the same revision, but
/// not the same write of the same lane there: lanes belong to leases, and count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) key: Bytes,
    value: Bytes,
    pub(super) revision: i64,
}

impl Witness {
    pub(super) fn of(written: &KeyValue) -> Option<Self> {
        let (key, value) = (written.key.0.clone(), written.value.0.clone());
        let is_short = key.len() <= WITNESS_BYTES_MAX && value.len() <= WITNESS_BYTES_MAX;
        is_short.then_some(Self { key, value, revision: written.mod_revision.0 })
    }

    pub(super) fn is(&self, found: &KeyValue) -> bool {
        Self::of(found).as_ref() == Some(self)
    }
}

impl Mark {
    /// What the store says; none for one that no etcd was followed in. Another prefix is another etcd.
    ///
    /// # Errors
    /// As [`Storage::get`]; `Corrupt`, `Unsupported`.
    pub(super) async fn load(storage: Arc<dyn Storage>, keys: &Keys) -> Result<Option<Self>> {
        let record = storage::run(storage, |storage| storage.get(META, MARK)).await?;
        let Some(record) = record else { return Ok(None) };
        Self::read(record, keys).map(Some)
    }

    fn read(mut record: Bytes, keys: &Keys) -> Result<Self> {
        match record.try_get_u8() {
            Ok(MARK_VERSION) => {}
            Ok(version) if version > MARK_VERSION => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "the copy of etcd's pinset has version {version}, this program reads {MARK_VERSION}; run the newer \
                         one"
                    ),
                )
                .component(COMPONENT));
            }
            // One of an earlier version is made anew.
            Ok(1) => return Ok(Self::default()),
            _ => return Err(corrupt()),
        }
        let mut read = || -> Option<(Self, Bytes)> {
            let (cluster, revision) = (record.try_get_i64().ok()?, record.try_get_i64().ok()?);
            let at = record.try_get_i64().ok()?;
            let (key, value) = (text(&mut record)?, text(&mut record)?);
            let witness = (!key.is_empty()).then_some(Witness { key, value, revision: at });
            Some((Self { cluster, revision, witness }, record.clone()))
        };
        let (mark, prefix) = read().ok_or_else(corrupt)?;
        Ok(if prefix == keys.prefix().as_bytes() { mark } else { Self::default() })
    }

    pub(super) fn record(&self, keys: &Keys) -> Batch {
        let mut record = vec![MARK_VERSION];
        record.put_i64(self.cluster);
        record.put_i64(self.revision);
        record.put_i64(self.witness.as_ref().map_or(0, |witness| witness.revision));
        let (key, value) =
            self.witness.as_ref().map_or((&[][..], &[][..]), |witness| (&witness.key, &witness.value));
        for text in [key, value] {
            // No longer than two thousand bytes.
            record.put_u16(u16::try_from(text.len()).unwrap_or_default());
            record.put_slice(text);
        }
        record.extend(keys.prefix().as_bytes());
        let mut batch = Batch::new();
        batch.put(META, MARK, record);
        batch
    }
}

fn text(record: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(record.try_get_u16().ok()?);
    (length <= record.len()).then(|| record.split_to(length))
}

fn corrupt() -> Error {
    Error::new(
        ErrorKind::Corrupt,
        "where the copy of etcd's pinset is cannot be read; move the folder away, it is copied again",
    )
    .component(COMPONENT)
}

#[cfg(test)]
mod tests {
    use super::super::wire::Int;
    use super::*;

    fn lane(value: &'static str, revision: i64) -> KeyValue {
        KeyValue {
            key: Bytes::from_static(b"/a/lanes/1/2").into(),
            value: Bytes::from_static(value.as_bytes()).into(),
            mod_revision: Int(revision),
        }
    }

    #[test]
    fn a_place_reads_back_and_belongs_to_its_prefix() {
        let (keys, other) = (Keys::below("/a"), Keys::below("/b"));
        for witness in [None, Witness::of(&lane("7", 11))] {
            let mark = Mark { cluster: -7, revision: 12, witness };
            let batch = mark.record(&keys).into_operations();
            let record = batch[0].value.clone().unwrap();
            assert_eq!(Mark::read(record.clone(), &keys).unwrap(), mark);
            assert_eq!(Mark::read(record.clone(), &other).unwrap(), Mark::default());
            for end in 1..record.len() - keys.prefix().len() {
                let error = Mark::read(record.slice(..end), &keys).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Corrupt);
            }
        }
        let error = Mark::read(Bytes::from_static(&[3]), &keys).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn a_witness_knows_its_write_from_others() {
        let witness = Witness::of(&lane("7", 11)).unwrap();
        assert!(witness.is(&lane("7", 11)));
        assert!(!witness.is(&lane("8", 11)) && !witness.is(&lane("7", 12)));
    }
}
