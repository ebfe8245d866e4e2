//! Blocks by CID between peers.

mod bitswap;
mod stream;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use crate::error::{Error, ErrorKind, Result};
use crate::types::{Block, Cid, PeerId};

#[cfg(feature = "testing")]
pub(crate) use bitswap::decoders as bitswap_decoders;
pub use bitswap::{BITSWAP_BLOCK_BYTES_MAX, BITSWAP_PROTOCOLS, BITSWAP_WANTS_MAX, Bitswap};
#[cfg(feature = "testing")]
pub(crate) use stream::decoders as stream_decoders;
pub use stream::{BLOCK_BYTES_MAX, BLOCKS_PROTOCOL, StreamExchange, WANTS_MAX};

/// The blocks this peer has and serves to others.
pub trait BlockSource: fmt::Debug + Send + Sync + 'static {
    /// A block of ours.
    ///
    /// # Errors
    /// `Io`, `Corrupt`, `ShutDown`.
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>>;
}

/// Gets blocks from other peers and serves ours.
///
/// A block that arrives is checked against its CID; one that does not fit is dropped and counts against its sender.
#[async_trait]
pub trait BlockExchange: fmt::Debug + Send + Sync + 'static {
    /// One block: ours if we have it, else asked of `hint` first and then of everybody. Waits until somebody has
    /// it: the caller brings the deadline. Cancel-safe: dropping it takes the want back.
    ///
    /// # Errors
    /// `ShutDown`; what the source says.
    async fn get(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block>;

    /// The same for a block that is known not to be ours, so it is not looked for there first. One that becomes ours
    /// meanwhile is given when it is announced.
    ///
    /// # Errors
    /// As [`BlockExchange::get`].
    async fn fetch(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block>;

    /// Many blocks, each once, in the order they arrive. Dropping the stream takes the open wants back.
    fn get_many(&self, cids: Vec<Cid>, hint: Option<PeerId>) -> BoxStream<'static, Result<Block>>;

    /// Says that the source now has these blocks, so that peers who asked for them get them.
    ///
    /// # Errors
    /// `ShutDown`.
    async fn announce(&self, cids: &[Cid]) -> Result<()>;

    /// Ends every want and stops serving. Idempotent; calls after it are `ShutDown`.
    async fn shutdown(&self) -> Result<()>;
}

type OpenExchange = dyn Fn(Arc<dyn BlockSource>) -> Result<Arc<dyn BlockExchange>> + Send + Sync;

/// Makes the exchange of a component that has blocks: it is the component that knows them, and the peer that knows how
/// they travel.
#[derive(Clone)]
pub struct ExchangeMaker(Arc<OpenExchange>);

impl ExchangeMaker {
    /// A maker.
    pub fn new(
        open: impl Fn(Arc<dyn BlockSource>) -> Result<Arc<dyn BlockExchange>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(open))
    }

    /// A maker for peers that exchange no blocks.
    pub fn none() -> Self {
        Self::new(|_| {
            Err(Error::new(ErrorKind::Unsupported, "this peer was made without a block exchange")
                .component("exchange"))
        })
    }

    /// An exchange that serves these blocks.
    ///
    /// # Errors
    /// `Conflict` when another exchange of this peer serves blocks already, `Unsupported` where there is none,
    /// `ShutDown`.
    pub fn open(&self, source: Arc<dyn BlockSource>) -> Result<Arc<dyn BlockExchange>> {
        (self.0)(source)
    }
}

impl fmt::Debug for ExchangeMaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExchangeMaker")
    }
}

impl<T: BlockSource + ?Sized> BlockSource for Arc<T> {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>> {
        (**self).get(cid)
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: BlockExchange + ?Sized> BlockExchange for Arc<T> {
    async fn get(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block> {
        (**self).get(cid, hint).await
    }
    async fn fetch(&self, cid: &Cid, hint: Option<PeerId>) -> Result<Block> {
        (**self).fetch(cid, hint).await
    }
    fn get_many(&self, cids: Vec<Cid>, hint: Option<PeerId>) -> BoxStream<'static, Result<Block>> {
        (**self).get_many(cids, hint)
    }
    async fn announce(&self, cids: &[Cid]) -> Result<()> {
        (**self).announce(cids).await
    }
    async fn shutdown(&self) -> Result<()> {
        (**self).shutdown().await
    }
}
