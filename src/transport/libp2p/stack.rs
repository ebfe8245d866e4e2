//! How bytes get from peer to peer: TCP and WebSocket, the private network, Noise or TLS, yamux.

use std::io;
use std::time::Duration;

use futures::future::Either;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OptionalTransport, OrTransport, Transport as _};
use libp2p::core::upgrade::Version;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::{dns, noise, relay, tcp, websocket, yamux};
use libp2p_identity::Keypair;
use tracing::warn;

use super::COMPONENT;
use crate::config::Secret;
use crate::error::{Error, Result};
use crate::types::PeerId;

/// How long a connection may take until both sides know who the other is. Half-open ones end then.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest WebSocket message; libp2p writes frames of 64 KiB.
const WEB_SOCKET_MESSAGE_BYTES_MAX: usize = 4 << 20;

pub(super) type Connections = Boxed<(PeerId, StreamMuxerBox)>;

/// The key is applied to whatever carries bytes, so on a WebSocket inside of its frames and on a relayed connection
/// inside of the relay's, as the reference does it.
pub(super) fn build(
    keypair: &Keypair,
    secret: &Secret,
    relayed: Option<relay::client::Transport>,
) -> Result<Connections> {
    let key = secret.as_bytes().map(|bytes| PnetConfig::new(PreSharedKey::new(*bytes)));
    let mut web_sockets = websocket::Config::new(sockets_and_names());
    web_sockets.set_max_data_size(WEB_SOCKET_MESSAGE_BYTES_MAX);
    let relayed = relayed.map_or_else(OptionalTransport::none, OptionalTransport::some);
    let carriers = relayed.or_transport(web_sockets).or_transport(sockets_and_names());
    let private = carriers.and_then(move |carrier, _| async move {
        Ok::<_, io::Error>(match key {
            Some(key) => Either::Left(key.handshake(carrier).await.map_err(io::Error::other)?),
            None => Either::Right(carrier),
        })
    });
    let noise = noise::Config::new(keypair).map_err(|source| {
        Error::internal("this identity cannot be used with Noise").component(COMPONENT).with_source(source)
    })?;
    #[cfg(feature = "tls")]
    let security = {
        let tls = libp2p::tls::Config::new(keypair).map_err(|source| {
            Error::internal("this identity cannot be used with TLS").component(COMPONENT).with_source(source)
        })?;
        super::security::Security::new(noise, tls)
    };
    #[cfg(not(feature = "tls"))]
    let security = noise;
    Ok(private
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex(yamux::Config::default())
        .timeout(HANDSHAKE_TIMEOUT)
        .boxed())
}

fn sockets() -> tcp::tokio::Transport {
    tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
}

/// Looks names up as the system does. Where that cannot be found out, addresses with names cannot be dialled.
fn sockets_and_names()
-> OrTransport<OptionalTransport<dns::tokio::Transport<tcp::tokio::Transport>>, tcp::tokio::Transport> {
    let names = match dns::tokio::Transport::system(sockets()) {
        Ok(names) => OptionalTransport::some(names),
        Err(error) => {
            warn!(%error, "names of peers cannot be looked up: the system's resolver settings cannot be read");
            OptionalTransport::none()
        }
    };
    names.or_transport(sockets())
}
