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

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use futures::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, Cursor};
    use libp2p_identity::PublicKey;

    use super::*;
    use crate::config::Identity;

    fn vectors(group: &str) -> Vec<serde_json::Value> {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/data/wire-vectors.json")).unwrap();
        let vectors = file["vectors"].as_array().unwrap().iter();
        vectors.filter(|vector| vector["name"].as_str().unwrap().starts_with(group)).cloned().collect()
    }

    fn bytes(text: &serde_json::Value) -> Vec<u8> {
        hex::decode(text.as_str().unwrap()).unwrap()
    }

    /// The other side has said everything already and does not listen.
    struct Recorded(Cursor<Vec<u8>>);

    impl AsyncRead for Recorded {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Recorded {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buffer.len()))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn a_private_network_of_the_reference_is_understood() {
        let vectors = vectors("pnet/");
        for vector in &vectors {
            let decoded = &vector["decoded"];
            let key: [u8; 32] = bytes(&decoded["psk_hex"]).try_into().unwrap();
            let carrier = Recorded(Cursor::new(bytes(&vector["hex"])));
            let mut private = PnetConfig::new(PreSharedKey::new(key))
                .handshake(carrier)
                .await
                .map_err(io::Error::other)
                .unwrap();
            let mut text = String::new();
            private.read_to_string(&mut text).await.unwrap();
            let writes = decoded["plaintext_writes"].as_array().unwrap();
            assert_eq!(text, writes.iter().map(|write| write.as_str().unwrap()).collect::<String>());
        }
        assert_eq!(vectors.len(), 1);
    }

    #[test]
    fn identities_of_the_reference_are_understood() {
        let vectors = vectors("identity/");
        let seeded = |seed: u8| Keypair::ed25519_from_bytes([seed; 32]).unwrap();
        for vector in &vectors {
            let expected = bytes(&vector["hex"]);
            match vector["name"].as_str().unwrap() {
                "identity/privkey-protobuf" => {
                    let identity =
                        Identity::from_json(vector["decoded"]["identity_json"].as_str().unwrap()).unwrap();
                    assert_eq!(identity.keypair().to_protobuf_encoding().unwrap(), expected);
                    assert_eq!(seeded(1).to_protobuf_encoding().unwrap(), expected);
                    assert_eq!(identity.id(), seeded(1).public().to_peer_id());
                }
                "identity/pubkey-protobuf" => {
                    assert_eq!(seeded(1).public().encode_protobuf(), expected);
                    assert_eq!(PublicKey::try_decode_protobuf(&expected).unwrap(), seeded(1).public());
                }
                name => {
                    let seed = name.strip_prefix("identity/peer-id-").unwrap().parse().unwrap();
                    let peer = seeded(seed).public().to_peer_id();
                    assert_eq!(peer.to_bytes(), expected);
                    assert_eq!(peer.to_string(), vector["decoded"].as_str().unwrap());
                }
            }
        }
        assert_eq!(vectors.len(), 5);
    }
}
