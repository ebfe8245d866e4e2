//! The pinset: what all peers agree on.
//!
//! [`StateReader`] is what everybody may ask, [`State`] what a consensus implementation writes to. The pinset is
//! never held in memory: listings are streams of pages.

mod codec;
#[cfg(feature = "testing")]
pub(crate) mod decoders;
mod head;
mod index;
pub mod lines;
mod list;
mod query;
mod replace;
pub(crate) mod sort;
mod store;
mod sum;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::storage::{Batch, Durability, KeyRange, Page, Snapshot};
use crate::types::{Cid, Pin, PinOperation};

pub use codec::{decode_pin_protobuf, encode_pin_protobuf};
pub use list::{PAGE_LIMIT_MAX, SNAPSHOT_LIFETIME};
pub(crate) use query::salt;
pub use query::{CURSOR_TEXT_BYTES_MAX, Selection, StateCursor, StateOrder, StatePage, StateQuery};
pub use store::StoreState;

/// Most items in one page of a listing.
pub const PAGE_ITEMS_MAX: usize = 1024;

/// Bytes of a name that take part in the order by name (a zero byte or a byte 1 counts twice). Names that agree
/// in all of them are listed in an order that is stable, but not that of the names.
pub const NAME_ORDER_BYTES_MAX: usize = 1024;

/// Numbers that are kept with every write instead of counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StateCounts {
    /// Entries of the pinset.
    pub pins: u64,
    /// The sum, modulo 2^128, of a hash of each entry: two pinsets with the same number of entries and the same sum are
    /// equal, but for a chance nobody meets. It does not depend on order, history or the version of the store. It is
    /// no proof against somebody who makes entries to fit. The hash of an entry is the first 16 bytes, big-endian,
    /// of the SHA-256 of its binary CID followed by [`encode_pin_protobuf`].
    pub sum: u128,
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateChange {
    /// The entry is there now, in its stored form.
    Pinned(Arc<Pin>),
    /// The entry, as it was, is gone.
    Unpinned(Arc<Pin>),
    /// There was nothing to remove.
    Unchanged,
    /// Every entry may be another: who keeps something about entries has to compare. Only [`State::settle`] gives it.
    Replaced,
}

/// Reading the pinset.
#[async_trait]
pub trait StateReader: fmt::Debug + Send + Sync + 'static {
    /// One entry; one look-up, no scan.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `ShutDown`.
    async fn get(&self, cid: &Cid) -> Result<Option<Pin>>;

    /// Entries as a stream of pages of 1 to [`PAGE_ITEMS_MAX`], each a consistent snapshot. An entry that is
    /// there during the whole listing is listed once; one that changes meanwhile may be listed as it was.
    /// Memory does not depend on the number of entries. The stream ends after its first error.
    fn list(&self, query: StateQuery) -> BoxStream<'static, Result<Vec<Pin>>>;

    /// At most `limit` entries (0 counts as 1, more than [`PAGE_LIMIT_MAX`] as that), as one consistent snapshot, and
    /// where the next page begins. The work is bounded: where few of many entries belong to the query, a page may have
    /// fewer entries than asked for, or none, and still not be the last; the last is the one without a cursor. An entry
    /// that is there while all pages are read is in one of them, whatever else comes and goes between them.
    ///
    /// # Errors
    /// `InvalidInput` for a cursor of another query; `Io`, `Corrupt`, `ShutDown`.
    async fn page(&self, query: StateQuery, limit: usize) -> Result<StatePage>;

    /// The maintained numbers, without I/O.
    fn counts(&self) -> StateCounts;
}

/// Writing the pinset, for consensus implementations.
#[async_trait]
pub trait State: StateReader {
    /// Applies operations in order, with their index entries and counters and with `also`, in one atomic batch
    /// that is on disk when this returns. Visible to readers no later than that. One change for each operation.
    /// Calls must not run concurrently; the one writer is the consensus component.
    ///
    /// Not cancel-safe: a dropped call may still be applied.
    ///
    /// # Errors
    /// `InvalidInput` for a pin too large to be stored: nothing of the batch is written, now or later. `StorageFull`,
    /// `Io`, `Corrupt`, `ShutDown`: it is unknown whether the batch is there. Call [`State::settle`] before anything else
    /// is written.
    async fn apply(&self, operations: Vec<PinOperation>, also: Batch) -> Result<Vec<StateChange>> {
        self.apply_with(operations, also, Durability::Synced).await
    }

    /// As [`State::apply`], for a component that could apply the operations again: with [`Durability::Buffered`] a power cut
    /// may take the batch back, with everything written to the store after it.
    ///
    /// # Errors
    /// As [`State::apply`].
    async fn apply_with(
        &self,
        operations: Vec<PinOperation>,
        also: Batch,
        durability: Durability,
    ) -> Result<Vec<StateChange>>;

    /// After an error of [`State::apply`], [`State::replace`] or [`State::clear`]: makes whatever is there durable, brings
    /// the counts up to it, and gives the changes of what failed if it turned out to be there, of which nobody was told:
    /// [`StateChange::Replaced`] for the other two, and where something was written before this was called. None when
    /// nothing failed, and for a second call.
    ///
    /// # Errors
    /// `StorageFull`, `Io`, `Corrupt`, `ShutDown`: the store still does not work, call it again later.
    async fn settle(&self) -> Result<Vec<StateChange>>;

    /// A frozen view of the store of this pinset that no power cut can take back: what others are told from must be on
    /// disk, so what was only buffered is synced first. Waits for a write that is under way, but not for a replacement.
    ///
    /// # Errors
    /// `Unavailable` after an error of [`State::apply`], [`State::replace`] or [`State::clear`] whose outcome is unknown,
    /// until [`State::settle`] or another write worked; `Io`, `ShutDown`.
    async fn durable_snapshot(&self) -> Result<Arc<dyn Snapshot>>;

    /// Replaces the whole pinset by these pins (a later one of the same CID wins) and returns how many entries
    /// there are. All or nothing: until it returns, and after any error or crash, the old pinset is there, but for the
    /// error of the very last write, which switches over: then either is, and [`State::settle`] finds out which.
    /// Memory does not depend on the number of pins; `progress` is told the number read so far. Nothing is told of
    /// single entries: who calls it tells everybody to compare.
    ///
    /// # Errors
    /// The stream's first error; `StorageFull`, `Io`, `ShutDown`.
    async fn replace(
        &self,
        pins: BoxStream<'static, Result<Vec<Pin>>>,
        progress: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<u64> {
        self.replace_with(pins, Batch::new(), progress).await
    }

    /// As [`State::replace`], with `also` in the last write, the one that switches over.
    ///
    /// # Errors
    /// As [`State::replace`].
    async fn replace_with(
        &self,
        pins: BoxStream<'static, Result<Vec<Pin>>>,
        also: Batch,
        progress: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<u64>;

    /// Removes every entry. On disk when it returns. Who calls it tells everybody to compare.
    ///
    /// # Errors
    /// `StorageFull`, `Io`, `ShutDown`: [`State::settle`] finds out whether they are gone.
    async fn clear(&self) -> Result<()>;

    /// Entries as a frozen view of the store of this pinset shows them, by binary CID, in order: what
    /// [`encode_pin_protobuf`] gives for each, without decoding it. At most `limit`. Blocks the calling thread.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `Unsupported` for a record of a later version.
    fn values(&self, snapshot: &dyn Snapshot, range: KeyRange, limit: usize) -> Result<Page>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: StateReader + ?Sized> StateReader for Arc<T> {
    async fn get(&self, cid: &Cid) -> Result<Option<Pin>> {
        (**self).get(cid).await
    }
    fn list(&self, query: StateQuery) -> BoxStream<'static, Result<Vec<Pin>>> {
        (**self).list(query)
    }
    async fn page(&self, query: StateQuery, limit: usize) -> Result<StatePage> {
        (**self).page(query, limit).await
    }
    fn counts(&self) -> StateCounts {
        (**self).counts()
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: State + ?Sized> State for Arc<T> {
    async fn apply(&self, operations: Vec<PinOperation>, also: Batch) -> Result<Vec<StateChange>> {
        (**self).apply(operations, also).await
    }
    async fn apply_with(
        &self,
        operations: Vec<PinOperation>,
        also: Batch,
        durability: Durability,
    ) -> Result<Vec<StateChange>> {
        (**self).apply_with(operations, also, durability).await
    }
    async fn settle(&self) -> Result<Vec<StateChange>> {
        (**self).settle().await
    }

    async fn durable_snapshot(&self) -> Result<Arc<dyn Snapshot>> {
        (**self).durable_snapshot().await
    }
    async fn replace(
        &self,
        pins: BoxStream<'static, Result<Vec<Pin>>>,
        progress: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<u64> {
        (**self).replace(pins, progress).await
    }
    async fn replace_with(
        &self,
        pins: BoxStream<'static, Result<Vec<Pin>>>,
        also: Batch,
        progress: Arc<dyn Fn(u64) + Send + Sync>,
    ) -> Result<u64> {
        (**self).replace_with(pins, also, progress).await
    }
    async fn clear(&self) -> Result<()> {
        (**self).clear().await
    }
    fn values(&self, snapshot: &dyn Snapshot, range: KeyRange, limit: usize) -> Result<Page> {
        (**self).values(snapshot, range, limit)
    }
}
