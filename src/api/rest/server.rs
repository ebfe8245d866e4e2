//! Listening, and the end of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::caller::Caller;
use super::config::RestConfig;
use super::connection::{self, Limits};
use super::gate::Gate;
use super::handlers::Api;
use super::listen;
use crate::cluster::Cluster;
use crate::error::Result;

/// How long to wait before accepting again when the system could not give us a connection (no file descriptors).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

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
    shutdown_timeout: Duration,
    server: Arc<Server>,
}

#[derive(Debug)]
struct Server {
    api: Arc<Api>,
    limits: Limits,
    connections: Arc<Semaphore>,
    /// Connections end after the request in hand.
    stop: CancellationToken,
    /// Connections end.
    kill: CancellationToken,
    tasks: TaskTracker,
}

impl RestApi {
    /// Listens on every configured address, and answers requests in tasks of the current runtime.
    ///
    /// # Errors
    /// `InvalidInput` and `Unsupported` for a configuration that cannot work, naming the setting; `Unavailable` for a
    /// name that does not resolve; `Io` for an address that cannot be listened on. Nothing listens then.
    pub async fn bind(config: RestConfig, cluster: Cluster) -> Result<Self> {
        config.validate()?;
        let mut listeners = Vec::new();
        for address in &config.http_listen_multiaddress {
            listeners.extend(listen::listen(address).await?);
        }
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<_>>().map_err(
                |error| crate::Error::io("asking for the REST API's address", error).component("restapi"),
            )?;
        let exposed = addresses.iter().find(|address: &&SocketAddr| !address.ip().is_loopback());
        if let Some(address) = exposed {
            config.check_exposed(address)?;
        }
        for risk in config.risks(exposed.is_some()) {
            warn!(
                "the REST API is as safe as its configuration: {risk}; set restapi.security to \"strict\" in service.json \
                 for safer ways"
            );
        }
        let of_gate = config.clone();
        let gate = tokio::task::spawn_blocking(move || Gate::open(&of_gate)).await.map_err(|source| {
            crate::Error::internal("opening the files of the REST API did not finish").with_source(source)
        })??;
        let server = Arc::new(Server {
            api: Arc::new(Api::new(cluster, config.body_limits(), gate)),
            limits: config.limits(),
            connections: Arc::new(Semaphore::new(config.connections_max)),
            stop: CancellationToken::new(),
            kill: CancellationToken::new(),
            tasks: TaskTracker::new(),
        });
        for listener in listeners {
            server.tasks.spawn(accept(listener, Arc::clone(&server)));
        }
        Ok(Self { addresses, shutdown_timeout: config.shutdown_timeout, server })
    }

    /// Where it listens, with the ports that the system chose for port 0.
    pub fn local_addresses(&self) -> &[SocketAddr] {
        &self.addresses
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
        self.server.api.gate().log().close().await;
    }
}

impl Drop for RestApi {
    fn drop(&mut self) {
        self.server.stop.cancel();
        self.server.kill.cancel();
    }
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    loop {
        let accepted = async {
            // Callers beyond the limit wait in the system's queue.
            let permit = Arc::clone(&server.connections).acquire_owned().await;
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            biased;
            () = server.stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                let server_of_task = Arc::clone(&server);
                server.tasks.spawn(async move {
                    serve_connection(stream, Caller::Tcp(address), &server_of_task).await;
                    drop(permit);
                });
            }
            Err(error) if of_the_caller(&error) => debug!(%error, "a caller was gone before it was accepted"),
            Err(error) => {
                warn!(%error, "cannot accept connections; trying again");
                tokio::select! {
                    biased;
                    () = server.stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_RETRY) => {}
                }
            }
        }
    }
}

async fn serve_connection(stream: TcpStream, caller: Caller, server: &Server) {
    // Answers are written in one piece, so waiting for more to send only delays them.
    let _ = stream.set_nodelay(true);
    // A token of its own, so that connections do not meet at one lock each time they look.
    let stop = server.stop.child_token();
    tokio::select! {
        biased;
        () = server.kill.cancelled() => {}
        () = connection::serve(stream, caller, Arc::clone(&server.api), server.limits, stop) => {}
    }
}

fn of_the_caller(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
