//! Replacing the whole pinset: sort what comes, load it beside the old one, then switch over in one write.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use tracing::warn;

use super::head::{Head, Spaces};
use super::index::{self, Index};
use super::sort::Sorter;
use super::store::Inner;
use super::{codec, sum};
use crate::error::Result;
use crate::storage::{self, Batch, Storage};
use crate::types::{Cid, Pin};

/// Most memory for records that are being sorted, in bytes.
const RECORD_RUN_BYTES_MAX: usize = 32 << 20;
/// The same for the keys of each index.
const INDEX_RUN_BYTES_MAX: usize = 12 << 20;

pub(super) async fn replace(
    inner: Arc<Inner>,
    mut pins: BoxStream<'static, Result<Vec<Pin>>>,
    also: Batch,
    progress: Arc<dyn Fn(u64) + Send + Sync>,
) -> Result<u64> {
    let writing = inner.writer.clone().lock_owned().await;
    let mut records = sorter(&inner, RECORD_RUN_BYTES_MAX);
    let mut read = 0;
    while let Some(page) = pins.next().await {
        let page = page?;
        read += page.len() as u64;
        records = storage::run(inner.storage.clone(), move |_| {
            for pin in page {
                let pin = codec::normalise(pin);
                records.push(&pin.cid.to_bytes(), &codec::encode_record(&pin))?;
            }
            Ok(records)
        })
        .await?;
        progress(read);
    }
    storage::run(inner.storage.clone(), move |storage| {
        let _writing = writing;
        let old = inner.head_to_write(storage)?;
        let generation = old.generation.wrapping_add(1);
        let spaces = Spaces::of(generation);
        spaces.remove(storage)?;
        let (count, sum) = load(&inner, storage, spaces, records).inspect_err(|_| {
            if let Err(error) = spaces.remove(storage) {
                warn!(%error, "a pinset that could not be loaded takes room until the next start");
            }
        })?;
        inner.flip(storage, old, Head { generation, pins: count, sum }, also)?;
        Ok(count)
    })
    .await
}

fn sorter(inner: &Inner, run_bytes_max: usize) -> Sorter {
    let folder: &Path = &inner.spool_folder;
    if inner.storage.blocks() { Sorter::on_disk(folder, run_bytes_max) } else { Sorter::in_memory() }
}

/// Fills the spaces of a generation and returns how many pins there are, and their sum.
fn load(inner: &Inner, storage: &dyn Storage, spaces: Spaces, records: Sorter) -> Result<(u64, u128)> {
    let mut sum: u128 = 0;
    let mut keys = Index::ALL.map(|index| (index, sorter(inner, INDEX_RUN_BYTES_MAX)));
    let mut records = records.into_sorted()?.map(|entry| {
        let (key, record) = entry?;
        // Only now is it known which of several entries of a CID stays, so only now is it indexed.
        let cid = Cid::try_from(&key[..])
            .map_err(|source| crate::Error::internal("a sorted key is no cid").with_source(source))?;
        let pin = codec::decode_record(&cid, &key, &record)?;
        sum = sum.wrapping_add(sum::of_pin(&pin));
        for (index, key) in index::entries(&pin) {
            for (sorted, sorter) in &mut keys {
                if *sorted == index {
                    sorter.push(&key, &[])?;
                }
            }
        }
        Ok((key, record))
    });
    let count = storage.bulk_load(spaces.pins(), &mut records)?;
    drop(records);
    for (index, sorter) in keys {
        storage.bulk_load(spaces.index(index), &mut sorter.into_sorted()?)?;
    }
    Ok((count, sum))
}
