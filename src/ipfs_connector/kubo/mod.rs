//! A Kubo daemon, over its RPC API.
//!
//! Everything is a `POST` to `<address>/api/v0/<command>`, as the reference sends it. Answers are read as they come and
//! with a bound. A daemon that is down is spared (after ten failed connections in a row one request a second), watched (one
//! small background question a second, until it answers), and told apart from one that refuses or hangs.

mod address;
mod answer;
mod backoff;
mod blocks;
mod car;
mod config;
mod health;
mod http;
mod limit;
mod listing;
mod pin;
mod reference;

use std::fmt;
use std::future::Future;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use serde::Deserialize;

pub use address::KuboAddress;
pub use config::KuboConfig;

use self::http::{Http, Judge};
use super::path::ContentPath;
use super::{Availability, IpfsConnector, IpfsPin, PinProgress, Reference, support};
use crate::config::ConfigSection as _;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{
    Block, Cid, IpfsId, Multiaddr, PeerId, Pin, PinMode, RepoGcKey, RepoStat, parse_multiaddr, parse_peer,
};

const COMPONENT: &str = "kubo";
/// Time between two attempts of [`IpfsConnector::ready`].
const READY_PAUSE: Duration = Duration::from_secs(1);
/// Attempts between two warnings that the daemon is not there.
const READY_WARNING_INTERVAL: u32 = 10;

/// A connector to a Kubo daemon. Clones are the same connector.
#[derive(Clone)]
pub struct KuboConnector {
    inner: Arc<Inner>,
}

struct Inner {
    config: KuboConfig,
    http: Arc<Http>,
}

#[derive(Deserialize)]
struct IdAnswer {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Addresses", default)]
    addresses: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct VersionAnswer {
    version: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ResolveAnswer {
    path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmPeersAnswer {
    #[serde(default)]
    peers: Option<Vec<SwarmPeer>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SwarmPeer {
    peer: String,
}

impl KuboConnector {
    /// A connector with the default timeouts to the daemon at an address: a multiaddress (`/ip4/127.0.0.1/tcp/5001`,
    /// `/unix/run/ipfs.sock`) or a URL (`http://127.0.0.1:5001`). Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidInput` when the address cannot be one of a daemon.
    pub fn new<A>(address: A) -> Result<Self>
    where
        A: TryInto<KuboAddress>,
        Error: From<A::Error>,
    {
        Self::with_config(KuboConfig::at(address.try_into()?))
    }

    /// A connector. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidInput` when the configuration cannot work; `Unsupported` when it names a unix socket where there are none.
    pub fn with_config(config: KuboConfig) -> Result<Self> {
        config.validate()?;
        let http = Arc::new(Http::new(&config)?);
        Ok(Self { inner: Arc::new(Inner { config, http }) })
    }

    /// The daemon's version, as it says it: `0.39.0`, `0.40.0-dev`.
    ///
    /// # Errors
    /// As the calls of [`IpfsConnector`].
    pub async fn version(&self) -> Result<String> {
        let timeout = self.inner.config.ipfs_request_timeout;
        let answer: VersionAnswer = self.inner.http.ask(timeout, "version", Judge::Latency).await?;
        Ok(answer.version)
    }

    /// A file of IPFS, by its path (`/ipfs/…`, `/ipns/…`), as a whole. Names are resolved, and blocks fetched, by the
    /// daemon.
    ///
    /// # Errors
    /// `InvalidInput` for what is no path; `Corrupt` for a file of more than `bytes_max` bytes; and as the calls of
    /// [`IpfsConnector`].
    pub async fn cat(&self, path: &str, bytes_max: usize) -> Result<Bytes> {
        let path = ContentPath::parse(path)?;
        let request = format!("cat?arg={}", query_escape(&path.text));
        let call =
            async { self.inner.http.post(&request, Judge::Nothing, None).await?.bytes(bytes_max).await };
        self.inner.within_request(&request, Judge::Nothing, call).await
    }

    /// What it was made from.
    pub fn config(&self) -> &KuboConfig {
        &self.inner.config
    }
}

impl fmt::Debug for KuboConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KuboConnector")
            .field("address", &self.inner.config.node_multiaddress.to_string())
            .finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The probe of a daemon that is down must not outlive the connector.
        self.http.stopped.cancel();
    }
}

impl Inner {
    /// Runs a short request with the time that short requests have.
    async fn within_request<T>(
        &self,
        path: &str,
        judge: Judge,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.http.within(self.config.ipfs_request_timeout, "ipfs_request_timeout", path, judge, call).await
    }

    fn read_id(body: &[u8]) -> Result<IpfsId> {
        let answer: IdAnswer = answer::parse("id", body)?;
        let id = parse_peer(&answer.id).map_err(|error| answer::corrupt("id", error.message()))?;
        let addresses = answer.addresses.unwrap_or_default().into_iter().filter_map(|text| {
            parse_multiaddr(&text)
                .inspect_err(|error| tracing::warn!(%error, "left out an address of the IPFS daemon"))
                .ok()
        });
        Ok(IpfsId { id: Some(id), addresses: Some(addresses.collect()), error: String::new() })
    }

    async fn ready(&self) -> Result<()> {
        let mut attempts = 0u32;
        loop {
            let answer = self.http.answers().await.and_then(|body| Self::read_id(&body));
            let error = match answer {
                Ok(_) => return Ok(()),
                Err(error) if http::is_no_daemon(&error) => return Err(error),
                Err(error) => error,
            };
            attempts += 1;
            if attempts.is_multiple_of(READY_WARNING_INTERVAL) {
                tracing::warn!(attempts, %error, "the IPFS daemon does not seem to be available");
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    async fn resolve(&self, path: &str) -> Result<Cid> {
        let path = ContentPath::parse(path)?;
        if let Some(cid) = path.as_cid() {
            return Ok(cid);
        }
        let request = format!("resolve?arg={}", query_escape(&path.text));
        let answer: ResolveAnswer =
            self.http.ask(self.config.ipfs_request_timeout, &request, Judge::Nothing).await?;
        let resolved =
            ContentPath::parse(&answer.path).map_err(|error| answer::corrupt(&request, error.message()))?;
        resolved.as_cid().ok_or_else(|| {
            Error::new(
                ErrorKind::Remote,
                format!("{} leads to {}, which is not a CID of its own", path.text, resolved.text),
            )
            .component(COMPONENT)
        })
    }

    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        let answer: SwarmPeersAnswer =
            self.http.ask(self.config.ipfs_request_timeout, "swarm/peers", Judge::Nothing).await?;
        let peers = answer.peers.unwrap_or_default();
        Ok(peers
            .iter()
            .filter_map(|peer| {
                parse_peer(&peer.peer)
                    .inspect_err(|error| tracing::warn!(%error, "left out a peer of the IPFS daemon"))
                    .ok()
            })
            .collect())
    }

    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()> {
        let path = format!("swarm/connect?arg={}", query_escape(&address.to_string()));
        let _: serde::de::IgnoredAny =
            self.http.ask(self.config.ipfs_request_timeout, &path, Judge::Nothing).await?;
        Ok(())
    }
}

/// Escapes a query value as Go does, so that paths in errors read as the reference's.
fn query_escape(text: &str) -> String {
    use fmt::Write as _;
    text.bytes().fold(String::with_capacity(text.len()), |mut escaped, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                escaped.push(char::from(byte))
            }
            b' ' => escaped.push('+'),
            _ => {
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
        escaped
    })
}

#[async_trait]
impl IpfsConnector for KuboConnector {
    async fn ready(&self) -> Result<()> {
        self.inner.http.open(self.inner.ready()).await?
    }

    async fn id(&self) -> Result<IpfsId> {
        let inner = &self.inner;
        let call = async {
            let answer = inner.http.post("id", Judge::Latency, None).await?;
            Inner::read_id(&answer.bytes(http::ANSWER_BYTES_MAX).await?)
        };
        inner.within_request("id", Judge::Latency, call).await
    }

    async fn pin(&self, pin: &Pin) -> Result<()> {
        self.inner.http.open(self.inner.pin(pin)).await?
    }

    async fn unpin(&self, cid: &Cid) -> Result<()> {
        self.inner.http.open(self.inner.unpin(cid)).await?
    }

    async fn is_pinned(&self, cid: &Cid, mode: PinMode) -> Result<bool> {
        self.inner.is_pinned(cid, mode).await
    }

    fn list_pins(&self, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        self.inner.list_pins(mode)
    }

    fn pin_concurrency(&self) -> Option<NonZeroUsize> {
        Some(self.inner.http.health.pin_concurrency())
    }

    fn pins_in_progress(&self) -> Vec<PinProgress> {
        self.inner.http.health.pins_in_progress()
    }

    async fn repo_stat(&self) -> Result<RepoStat> {
        let timeout = self.inner.config.ipfs_request_timeout;
        self.inner.http.ask(timeout, "repo/stat?size-only=true", Judge::Nothing).await
    }

    fn repo_gc(&self) -> BoxStream<'static, Result<RepoGcKey>> {
        self.inner.repo_gc()
    }

    async fn resolve(&self, path: &str) -> Result<Cid> {
        self.inner.http.open(self.inner.resolve(path)).await?
    }

    async fn put_blocks(&self, blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        self.inner.http.open(self.inner.put_blocks(blocks)).await?
    }

    async fn reference_root(&self) -> Result<Option<PathBuf>> {
        self.inner.reference_root().await
    }

    async fn put_reference(&self, file: &Reference, bytes: BoxStream<'static, Result<Bytes>>) -> Result<()> {
        self.inner.put_reference(file, bytes).await
    }

    async fn hold(&self, lease: Block) -> Result<()> {
        self.inner.hold(lease).await
    }

    async fn release(&self, leases: &[Cid]) -> Result<()> {
        for lease in leases {
            self.inner.remove_pin(lease).await?;
        }
        Ok(())
    }

    async fn get_block(&self, cid: &Cid) -> Result<Block> {
        self.inner.http.open(self.inner.get_block(cid)).await?
    }

    async fn swarm_peers(&self) -> Result<Vec<PeerId>> {
        self.inner.swarm_peers().await
    }

    async fn swarm_connect(&self, address: &Multiaddr) -> Result<()> {
        self.inner.swarm_connect(address).await
    }

    fn availability(&self) -> BoxStream<'static, Availability> {
        let changes = self.inner.http.health.availability();
        let known = support::availability_stream(changes, self.inner.http.stopped.clone());
        let http = Arc::clone(&self.inner.http);
        // Asked for only when somebody listens, and only if no request has told yet.
        stream::once(async move { http.learn_availability() })
            .flat_map(|()| stream::empty())
            .chain(known)
            .boxed()
    }

    async fn shutdown(&self) -> Result<()> {
        let http = &self.inner.http;
        http.stopped.cancel();
        http.tasks.close();
        http.tasks.wait().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_values_are_escaped_as_go_escapes_them() {
        assert_eq!(query_escape("/ipfs/Qm/a b+ü~"), "%2Fipfs%2FQm%2Fa+b%2B%C3%BC~");
    }

    #[test]
    fn a_connector_is_made_from_any_form_of_address() {
        for address in ["/ip4/127.0.0.1/tcp/5001", "http://localhost:5001", "/unix/run/ipfs.sock"] {
            KuboConnector::new(address).unwrap();
            KuboConnector::new(address.to_owned()).unwrap();
        }
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/5001".parse().unwrap();
        KuboConnector::new(address).unwrap();
        assert_eq!(KuboConnector::new("5001").unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
