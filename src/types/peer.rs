//! Peer ids and addresses, parsed strictly.

pub use libp2p_identity::PeerId;
pub use multiaddr::Multiaddr;

use crate::error::{Error, Result};

/// Parses a peer id (`12D3KooW…`, `Qm…`).
///
/// # Errors
/// `InvalidInput` naming the text.
pub fn parse_peer(text: &str) -> Result<PeerId> {
    text.parse::<PeerId>().map_err(|source| {
        Error::invalid_input(format!("invalid peer id {text:?}: {source}")).with_source(source)
    })
}

/// Parses a multiaddress (`/ip4/127.0.0.1/tcp/9096`).
///
/// # Errors
/// `InvalidInput` with the reference's text `failed to parse multiaddr "…": …`.
pub fn parse_multiaddr(text: &str) -> Result<Multiaddr> {
    if !text.starts_with('/') {
        return Err(Error::invalid_input(format!("failed to parse multiaddr {text:?}: must begin with /")));
    }
    text.parse::<Multiaddr>().map_err(|source| {
        Error::invalid_input(format!("failed to parse multiaddr {text:?}: {source}")).with_source(source)
    })
}
