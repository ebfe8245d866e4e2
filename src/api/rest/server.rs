//! Listening, and the end of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::caller::Caller;
use super::config::RestConfig;
use super::connection::{self, Limits};
use super::handlers::Api;
use super::io::Io;
use super::libp2p_http::{self, Streams};
use super::listen::{self, Accepted, Listener};
use super::room::{Place, Room};
use super::tls::Tls;
use crate::cluster::Cluster;
use crate::error::Result;
use crate::transport::{PeerTransport, Protocol};
use crate::types::Multiaddr;

/// How long to wait before accepting again when the system could not give us a connection (no file descriptors).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often that is said, while it goes on.
const ACCEPT_WARNING: Duration = Duration::from_secs(60);

/// The REST API of a peer, on sockets of its own.
///
/// ```no_run
/// # async fn run(cluster: ipfs_cluster::Cluster) -> ipfs_cluster::Result<()> {
/// use ipfs_cluster::api::rest::{RestApi, RestConfig};
///
/// let api = RestApi::bind(RestConfig::default(), cluster).await?;
/// println!("listening on {:?}", api.local_addresses());
/// // …
/// api.shutdown().await;
/// # Ok(())
/// # }
/// ```
///
/// It holds a handle of the cluster, so the peer lives as long as it. Dropped, it ends its connections at once.
#[derive(Debug)]
pub struct RestApi {
    addresses: Vec<SocketAddr>,
    multiaddresses: Vec<Multiaddr>,
    shutdown_timeout: Duration,
    server: Arc<Server>,
    /// Our own host, where there is one.
    host: Option<Arc<dyn PeerTransport>>,
}

#[derive(Debug)]
pub(super) struct Server {
    api: Arc<Api>,
    limits: Limits,
    pub(super) room: Arc<Room>,
    /// Connections end after the request in hand.
    stop: CancellationToken,
    /// Connections end.
    kill: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl RestApi {
    /// Listens on every configured address, and answers requests in tasks of the current runtime.
    ///
    /// # Errors
    /// `InvalidInput` and `Unsupported` for a configuration that cannot work, naming the setting; `Unavailable` for a
    /// name that does not resolve; `Io` for an address that cannot be listened on, that and `NotFound` for files of the
    /// certificate that cannot be read. Nothing listens then.
    pub async fn bind(config: RestConfig, cluster: Cluster) -> Result<Self> {
        config.validate()?;
        let tls = match &config.tls {
            Some(files) => Some(Tls::load(files, config.read_header_timeout)?),
            None => None,
        };
        let mut listeners = Vec::new();
        for address in &config.http_listen_multiaddress {
            listeners.extend(listen::listen(address, tls.as_ref()).await?);
        }
        let addresses: Vec<SocketAddr> = listeners.iter().filter_map(Listener::socket_address).collect();
        let mut multiaddresses: Vec<_> = listeners.iter().map(Listener::multiaddress).collect();
        let stop = CancellationToken::new();
        let exposed = addresses.iter().find(|address: &&SocketAddr| !address.ip().is_loopback());
        if let Some(address) = exposed {
            config.check_exposed(address)?;
        }
        let risks = config.risks(exposed.is_some() || config.libp2p.is_some());
        if !risks.is_empty() {
            warn!(
                "the REST API is not as safe as it could be: {}; set restapi.security to \"strict\" in service.json to \
                 have it refuse that",
                risks.join("; ")
            );
        }
        let of_gate = config.clone();
        let gate = tokio::task::spawn_blocking(move || of_gate.open_gate()).await.map_err(|source| {
            crate::Error::internal("opening the files of the REST API did not finish").with_source(source)
        })??;
        let host = match &config.libp2p {
            Some(libp2p) => Some(libp2p.start().await?),
            None => None,
        };
        let server = Arc::new(Server {
            api: Arc::new(Api::new(cluster, config.body_limits(), gate)),
            limits: config.limits(),
            room: Room::new(config.connections_max, stop.clone()),
            stop,
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        if let Some(host) = &host {
            host.accept(Protocol::new(libp2p_http::PROTOCOL), Arc::new(Streams(Arc::downgrade(&server))))?;
            let peer = host.local_peer();
            multiaddresses.extend(
                host.listen_addresses()
                    .into_iter()
                    .map(|address| address.with(multiaddr::Protocol::P2p(peer))),
            );
        }
        for listener in listeners {
            server.tasks.spawn(accept(listener, Arc::clone(&server)));
        }
        Ok(Self { addresses, multiaddresses, shutdown_timeout: config.shutdown_timeout, server, host })
    }

    /// Where it listens for TCP, with the ports that the system chose for port 0.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Everywhere it listens: TCP, Unix sockets, and its own libp2p host, those with the host's id behind them.
    pub fn local_multiaddresses(&self) -> &[Multiaddr] {
        &self.multiaddresses
    }

    /// Serves the API also on streams that other peers open to this transport, under the protocol `/libp2p-http`, as
    /// long as this lives. They share all limits with the other listeners. The transport stays the caller's to stop; it
    /// refuses the protocol to a second API even after this one has stopped.
    ///
    /// # Errors
    /// `Conflict` when the transport serves the protocol already; `InvalidInput` when security is strict and nobody would
    /// be asked who they are; `ShutDown`.
    pub fn serve_on(&self, transport: &dyn PeerTransport) -> Result<()> {
        self.server.api.gate().check_exposed(&"streams of libp2p")?;
        if self.server.has_stopped() {
            return Err(crate::Error::shut_down("restapi"));
        }
        let streams = Streams(Arc::downgrade(&self.server));
        transport.accept(Protocol::new(libp2p_http::PROTOCOL), Arc::new(streams))
    }

    /// Stops: no new connections and requests; those in hand are answered, within the configured `shutdown_timeout`,
    /// and broken off after it. Idempotent, and every caller returns only when it has stopped.
    pub async fn shutdown(&self) {
        self.server.stop.cancel();
        self.server.tasks.close();
        if tokio::time::timeout(self.shutdown_timeout, self.server.tasks.wait()).await.is_err() {
            warn!(open = self.server.tasks.len(), "requests were not done in time and are broken off");
            self.server.kill.cancel();
            self.server.tasks.wait().await;
        }
        if let Some(host) = &self.host
            && let Err(error) = host.shutdown().await
        {
            debug!(%error, "the API's own host did not stop as it should");
        }
        self.server.api.gate().log().close().await;
    }
}

impl Drop for RestApi {
    fn drop(&mut self) {
        self.server.stop.cancel();
        self.server.kill.cancel();
    }
}

impl Server {
    pub(super) fn has_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(self: Arc<Self>, io: Io, caller: Caller, place: Place) {
        tokio::select! {
            biased;
            () = self.kill.cancelled() => {}
            () = connection::serve(io, caller, Arc::clone(&self.api), self.limits, &place) => {}
        }
    }

    /// Makes a connection of what was accepted, which takes a handshake where there is TLS, and serves it.
    async fn begin(self: Arc<Self>, accepted: Accepted, place: Place) {
        let begun = async {
            tokio::select! {
                biased;
                () = place.stop.cancelled() => None,
                begun = accepted.begin() => Some(begun),
            }
        };
        match begun.await {
            Some(Ok((io, caller))) => self.serve(io, caller, place).await,
            Some(Err(error)) => debug!(%error, "a connection was not made"),
            None => {}
        }
    }
}

async fn accept(listener: Listener, server: Arc<Server>) {
    let mut said: Option<Instant> = None;
    loop {
        let accepted = async {
            let accepted = listener.accept().await;
            // Callers beyond the limit, but for this one, wait in the system's queue. None of the places is taken while
            // nobody calls, since the listeners share them.
            (accepted, server.room.free().await)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            () = server.stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok(accepted) => {
                let place = server.room.enter(permit);
                server.tasks.spawn(Arc::clone(&server).begin(accepted, place));
            }
            Err(error) if of_the_caller(&error) => debug!(%error, "a caller was gone before it was accepted"),
            Err(error) => {
                if said.is_none_or(|said| said.elapsed() >= ACCEPT_WARNING) {
                    warn!(%error, "cannot accept connections; closing idle ones and trying again");
                    said = Some(Instant::now());
                }
                // They hold what there is too little of.
                server.room.make_way();
                tokio::select! {
                    biased;
                    () = server.stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_RETRY) => {}
                }
            }
        }
    }
}

fn of_the_caller(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
