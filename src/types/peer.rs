//! Peer ids and addresses, parsed strictly.

pub use libp2p_identity::PeerId;
pub use multiaddr::Multiaddr;
use multiaddr::Protocol;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::error::{Error, Result};

/// Longest text of a peer id, in bytes: those of 64 bytes of hash take 91. Base 58 takes time by the square of the length.
const PEER_TEXT_BYTES_MAX: usize = 256;
/// Longest text of an address, in bytes: a relayed one with names and two peer ids takes about 800.
const ADDRESS_TEXT_BYTES_MAX: usize = 2048;

fn check_length(what: &str, text: &str, bytes_max: usize) -> Result<()> {
    if text.len() <= bytes_max {
        return Ok(());
    }
    let length = text.len();
    Err(Error::invalid_input(format!("{what}: it has {length} bytes, at most {bytes_max} are possible")))
}

/// Parses a peer id (`12D3KooW…`, `Qm…`).
///
/// # Errors
/// `InvalidInput` naming the text, unless that is too long for any peer id.
pub fn parse_peer(text: &str) -> Result<PeerId> {
    check_length("invalid peer id", text, PEER_TEXT_BYTES_MAX)?;
    text.parse::<PeerId>().map_err(|source| {
        Error::invalid_input(format!("invalid peer id {text:?}: {source}")).with_source(source)
    })
}

/// Parses a multiaddress (`/ip4/127.0.0.1/tcp/9096`). All that follows `/unix` is the path of a socket.
///
/// # Errors
/// `InvalidInput` with the reference's text `failed to parse multiaddr "…": …`.
pub fn parse_multiaddr(text: &str) -> Result<Multiaddr> {
    check_length("failed to parse multiaddr", text, ADDRESS_TEXT_BYTES_MAX)?;
    if !text.starts_with('/') {
        return Err(Error::invalid_input(format!("failed to parse multiaddr {text:?}: must begin with /")));
    }
    if let Some(path) = text.strip_prefix("/unix/") {
        if path.is_empty() {
            return Err(Error::invalid_input(format!(
                "failed to parse multiaddr {text:?}: there is no path"
            )));
        }
        // A path takes all that follows; the parser below would end it at its next slash.
        return Ok(Protocol::Unix(path.into()).into());
    }
    text.parse::<Multiaddr>().map_err(|source| {
        Error::invalid_input(format!("failed to parse multiaddr {text:?}: {source}")).with_source(source)
    })
}

/// What is read of text here.
pub(super) trait Text: Sized {
    fn parse_text(text: &str) -> Result<Self>;
}

impl Text for PeerId {
    fn parse_text(text: &str) -> Result<Self> {
        parse_peer(text)
    }
}

impl Text for Multiaddr {
    fn parse_text(text: &str) -> Result<Self> {
        parse_multiaddr(text)
    }
}

/// Reads a list of texts, or `null`. The types' own forms take texts of any length.
pub(super) fn optional_list<'de, T: Text, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    struct Item<T>(T);
    impl<'de, T: Text> Deserialize<'de> for Item<T> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
            T::parse_text(&text).map(Self).map_err(D::Error::custom)
        }
    }
    let items = Option::<Vec<Item<T>>>::deserialize(deserializer)?;
    Ok(items.map(|items| items.into_iter().map(|Item(value)| value).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_longer_than_any_are_refused_unread() {
        let long = "1".repeat(1 << 20);
        let error = parse_peer(&long).unwrap_err().to_string();
        assert_eq!(error, "invalid peer id: it has 1048576 bytes, at most 256 are possible");
        let error = parse_multiaddr(&format!("/p2p/{long}")).unwrap_err().to_string();
        assert_eq!(error, "failed to parse multiaddr: it has 1048581 bytes, at most 2048 are possible");
    }

    #[test]
    fn the_path_of_a_socket_is_all_that_follows() {
        for text in ["/unix/run/cluster/api.sock", "/unix/api.sock"] {
            let address = parse_multiaddr(text).unwrap();
            assert_eq!(address.to_string(), text);
            assert!(matches!(address.iter().next(), Some(Protocol::Unix(path)) if text[6..] == path));
        }
        assert!(parse_multiaddr("/unix/").is_err() && parse_multiaddr("/unix").is_err());
    }
}
