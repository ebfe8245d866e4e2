//! A typed client of the REST API, the one that `ipfs-cluster-ctl` is made of.
//!
//! It talks to peers of this crate and to peers of the reference (Go ipfs-cluster 1.1.6) alike.
//!
//! ```no_run
//! use futures::TryStreamExt as _;
//! use ipfs_cluster::client::Client;
//! use ipfs_cluster::types::IpfsPath;
//! use ipfs_cluster::types::{PinOptions, PinTypeFilter};
//!
//! # async fn run() -> ipfs_cluster::Result<()> {
//! let client = Client::builder().host("/ip4/127.0.0.1/tcp/9094").build()?;
//!
//! let path: IpfsPath = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o".parse()?;
//! let pin = client.pin(path, &PinOptions { name: "readme".into(), ..Default::default() }).await?;
//!
//! let mut pins = client.allocations(PinTypeFilter::ALL);
//! while let Some(pin) = pins.try_next().await? {
//!     println!("{} {}", pin.cid, pin.options.name);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! A method fails in one of these ways, told apart by the kind and by [`ApiError::of`]:
//!
//! | what happened | [`kind`](crate::Error::kind) | [`ApiError::of`] |
//! |---|---|---|
//! | the peer refused, or answered with something else than asked | by code: `NotFound`, `InvalidInput`, `Unauthorized`, `Remote`, … | the code and message |
//! | no host answered, or an answer broke off | `Unavailable`, `Timeout` | none |
//! | a line of a listing is not what it must be, or too long | `Corrupt` | none |
//! | the input cannot be sent | `InvalidInput`, `Unsupported` | none |
//!
//! # Several hosts
//!
//! With more than one [`host`](ClientBuilder::host), a call goes to the first, and to the next only when no answer
//! came back, each once. A refusal is an answer. A call that was given up by a timeout may have happened; pinning
//! and unpinning twice is the same as once.
//!
//! # Listings
//!
//! Listings are streams of any length in constant memory. They send their request when first polled, end after
//! their first error, and may be dropped at any time, which closes the connection. A peer that finds out
//! half-way that it cannot go on says so behind the last item; that is then the last item of the stream, as an
//! [`ApiError`] with code 500. So a stream that ends without an error was complete.
//!
//! [`Client::add`] is one too: its items come while the content is still being sent.
//!
//! Every other method is cancel-safe in the sense that dropping it stops waiting, not the peer from acting.

mod add;
mod builder;
mod credentials;
mod error;
mod find;
mod host;
mod lines;
mod methods;
#[cfg(feature = "transport-libp2p")]
mod peers;
mod request;
#[cfg(test)]
mod tests;
mod transport;
mod watch;

use std::fmt;
use std::sync::Arc;

use futures::stream::BoxStream;
use serde::de::DeserializeOwned;

pub use self::add::{ResumableCar, Sent, Upload};
pub use self::builder::{ClientBuilder, DEFAULT_HOST, HOSTS_MAX};
pub use self::error::ApiError;
pub use self::find::{Find, Page};
pub use self::lines::Lines;
pub use self::request::Request;
use self::transport::Transport;
pub use self::watch::Watch;
use crate::error::Result;
pub use crate::types::Bandwidth;

/// A client of one cluster's REST API, over one or several of its peers.
///
/// Cheap to clone; clones share their connections. Needs a tokio runtime with time and I/O.
#[derive(Clone)]
pub struct Client {
    transport: Arc<Transport>,
}

impl Client {
    /// Settings for a new client.
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// Sends a request whose answer is one JSON document, and reads it as any type:
    /// `Box<serde_json::value::RawValue>` gives the text as it came.
    ///
    /// # Errors
    /// As in the [module documentation](self). An answer that is no such document is an [`ApiError`] with the
    /// status of the answer as its code, 200 for example.
    pub async fn fetch<T: DeserializeOwned>(&self, request: &Request) -> Result<T> {
        self.transport.fetch(request).await
    }

    /// Sends a request whose answer has no content worth reading.
    ///
    /// # Errors
    /// As in the [module documentation](self).
    pub async fn call(&self, request: &Request) -> Result<()> {
        self.transport.call(request).await
    }

    /// Sends requests whose answers are listings, one after the other, and reads their items as any type.
    /// Nothing is sent before the stream is polled.
    ///
    /// # Errors
    /// As in the [module documentation](self); the first one ends the stream.
    pub fn stream<T: DeserializeOwned + Send + 'static>(
        &self,
        requests: impl IntoIterator<Item = Request>,
    ) -> BoxStream<'static, Result<T>> {
        transport::stream(Arc::clone(&self.transport), requests.into_iter().collect())
    }

    /// As [`stream`](Self::stream), with the items that came together in one and not read yet: for those to whom the
    /// time or the allocations of each item matter.
    ///
    /// # Errors
    /// As in the [module documentation](self); the first one ends the stream. Items are checked when they are read.
    pub fn lines(&self, requests: impl IntoIterator<Item = Request>) -> BoxStream<'static, Result<Lines>> {
        transport::lines(Arc::clone(&self.transport), requests.into_iter().collect())
    }

    /// Asks for one page of a listing, made with [`Request::find`] and a limit, and reads its items as any type. A
    /// page is held in memory; a peer of the reference (1.1.6), which knows none, is found out when it gives more than
    /// the limit.
    ///
    /// # Errors
    /// As in the [module documentation](self), and `Unsupported` for more items than the limit (100,000 without one).
    pub async fn page<T: DeserializeOwned + Send + 'static>(&self, request: &Request) -> Result<Page<T>> {
        self.transport.page(request).await
    }
}

impl fmt::Debug for Client {
    // Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<_> =
            self.transport.endpoints.iter().map(|endpoint| endpoint.host.authority()).collect();
        f.debug_struct("Client")
            .field("hosts", &hosts)
            .field("timeout", &self.transport.timeout)
            .finish_non_exhaustive()
    }
}
