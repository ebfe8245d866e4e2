//! What the bytes between peers mean: calls, framed and encoded as in the reference (gorpc over Go's msgpack dialect).
//!
//! A call is one stream: a header that names service and method, then the argument; back come a header and the reply.
//! [`PeerClient`] makes calls, with a deadline each; [`RpcServer`] serves them through a [`RequestHandler`] after asking
//! its [`Authorizer`]. [`Method`] is the one table of names, access and shapes. Calls of this peer to itself do not
//! exist: those are method calls.
//!
//! What the reference lacks travels on a protocol of its own, [`EXTRA_PROTOCOL`].

mod client;
#[cfg(any(test, feature = "testing"))]
#[cfg_attr(not(feature = "testing"), allow(dead_code))]
pub(crate) mod decoders;
mod frame;
mod method;
mod msgpack;
mod request;
mod server;
mod wire;

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::error::Result;
use crate::types::{Block, PeerId};

pub use client::{
    BLOCKS_SILENCE_TIMEOUT, CALL_TIMEOUT, FAN_OUT_PEERS_MAX, LOG_TIMEOUT, PAGE_ITEMS_MAX, PeerClient,
    REPO_GC_TIMEOUT, fan_out,
};
pub use method::{Access, EXTRA_PROTOCOL, Method, RPC_PROTOCOL, STATUS_OF_CIDS_MAX, Shape};
pub use request::{Page, PinsetDigest, Reply, Request};
pub use server::{BLOCK_BYTES_MAX, OPEN_CALLS_MAX, REQUEST_TIMEOUT, RpcServer, TRUSTED_CALLS_MAX};
pub use wire::{decode_metric, encode_metric};
pub(crate) use wire::{decode_pin_info, encode_pin_info};

/// Says whom this peer trusts. Asked for every call, so it answers at once.
pub trait Authorizer: fmt::Debug + Send + Sync + 'static {
    /// Whether this peer may call what needs trust.
    fn is_trusted(&self, peer: &PeerId) -> bool;
}

/// Answers calls that passed the checks.
///
/// A call is dropped when its caller goes away. An error travels as its text alone; the reference knows no kinds.
#[async_trait]
pub trait RequestHandler: fmt::Debug + Send + Sync + 'static {
    /// Answers a call of shape [`Shape::Unary`], with the variant of [`Reply`] that stands at the request.
    async fn call(&self, from: PeerId, request: Request) -> Result<Reply>;

    /// Answers a call of shape [`Shape::Stream`] with pages of any size. The stream is pulled as fast as the caller
    /// reads, and dropped when the caller goes away; an error in it ends it.
    async fn stream(&self, from: PeerId, request: Request) -> Result<BoxStream<'static, Result<Page>>>;

    /// Stores blocks. Each was checked against its CID where its hash function is known here. They are read from the caller only as they are taken from the
    /// stream, so that whoever is slow here slows down the caller; an error in the stream is the caller's fault, or
    /// that it went away, and what came before it was complete.
    async fn put_blocks(&self, from: PeerId, blocks: BoxStream<'static, Result<Block>>) -> Result<()>;
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;
