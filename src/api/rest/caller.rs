//! Who is at the other end of a connection.

use std::fmt;
use std::net::SocketAddr;

use crate::types::PeerId;

/// Who sent a request, as far as the connection tells. It says nothing about who they are allowed to be.
///
/// Shown as in the reference's access log: the IP address without its port, `@` for a caller on a Unix socket, the id
/// of a peer; `-` where it cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caller {
    /// Over TCP, with TLS or without.
    Tcp(SocketAddr),
    /// On this machine, over a Unix socket.
    Unix,
    /// Over a stream of libp2p, whose security vouches for the id.
    Peer(PeerId),
    /// On a server that is not ours and does not say.
    Unknown,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.ip().fmt(f),
            Self::Unix => f.write_str("@"),
            Self::Peer(peer) => peer.fmt(f),
            Self::Unknown => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_are_shown_as_the_reference_logs_them() {
        let peer = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
        for (caller, text) in [
            (Caller::Tcp("10.0.0.1:4000".parse().unwrap()), "10.0.0.1"),
            (Caller::Tcp("[::1]:4000".parse().unwrap()), "::1"),
            (Caller::Unix, "@"),
            (Caller::Peer(peer.parse().unwrap()), peer),
            (Caller::Unknown, "-"),
        ] {
            assert_eq!(caller.to_string(), text);
        }
    }
}
