//! Whose announcements count.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use super::COMPONENT;
use crate::error::{Error, ErrorKind, Result};
use crate::transport::PeerTransport;
use crate::types::PeerId;

/// Most peers that are trusted by name. Whoever needs more trusts everybody.
pub(super) const TRUSTED_PEERS_MAX: usize = 65_536;

/// The peers whose heads are taken. Only announcements are signed: whatever a trusted head links to is taken too,
/// from whoever has it.
#[derive(Debug)]
pub(super) struct Trust {
    own: PeerId,
    everybody: bool,
    peers: RwLock<BTreeSet<PeerId>>,
    connections: Connections,
}

/// Trusted peers keep their connections when there are too many.
struct Connections(Arc<dyn PeerTransport>);

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

impl Trust {
    /// Trusts ourselves, these peers, and everybody where the configuration says so (`"*"`).
    ///
    /// # Errors
    /// As [`Trust::trust`].
    pub(super) fn new(
        transport: Arc<dyn PeerTransport>,
        everybody: bool,
        peers: impl IntoIterator<Item = PeerId>,
    ) -> Result<Self> {
        let own = transport.local_peer();
        let trust = Self { own, everybody, peers: RwLock::default(), connections: Connections(transport) };
        peers.into_iter().try_for_each(|peer| trust.trust(&peer))?;
        Ok(trust)
    }

    /// Whether this peer may change our state.
    pub(super) fn is_trusted(&self, peer: &PeerId) -> bool {
        self.everybody
            || *peer == self.own
            || self.peers.read().unwrap_or_else(PoisonError::into_inner).contains(peer)
    }

    /// Trusts a peer from now on.
    ///
    /// # Errors
    /// `QueueFull` after [`TRUSTED_PEERS_MAX`].
    pub(super) fn trust(&self, peer: &PeerId) -> Result<()> {
        if *peer == self.own {
            return Ok(());
        }
        {
            let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
            if !peers.contains(peer) && peers.len() >= TRUSTED_PEERS_MAX {
                let text = format!("{TRUSTED_PEERS_MAX} peers are trusted already; trust everybody with \"*\"");
                return Err(Error::new(ErrorKind::QueueFull, text).component(COMPONENT));
            }
            peers.insert(*peer);
        }
        self.connections.0.protect(peer, true);
        Ok(())
    }

    /// Stops trusting a peer. Where everybody is trusted, that stays so, as in the reference.
    ///
    /// # Errors
    /// `InvalidInput` for ourselves.
    pub(super) fn distrust(&self, peer: &PeerId) -> Result<()> {
        if *peer == self.own {
            return Err(Error::invalid_input("a peer cannot stop trusting itself").component(COMPONENT));
        }
        let was_trusted = self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
        if was_trusted {
            self.connections.0.protect(peer, false);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::simulation::peer;
    use super::*;
    use crate::transport::MemoryNetwork;

    #[tokio::test]
    async fn only_we_and_those_named_are_trusted_until_told_otherwise() {
        let transport = Arc::new(MemoryNetwork::new(0).join(peer(1)).unwrap());
        let trust = Trust::new(transport.clone(), false, [peer(2)]).unwrap();
        assert_eq!([1, 2, 3].map(|number| trust.is_trusted(&peer(number))), [true, true, false]);
        trust.trust(&peer(3)).unwrap();
        trust.distrust(&peer(2)).unwrap();
        trust.distrust(&peer(9)).unwrap();
        assert_eq!([1, 2, 3].map(|number| trust.is_trusted(&peer(number))), [true, false, true]);
        assert_eq!(trust.distrust(&peer(1)).unwrap_err().kind(), ErrorKind::InvalidInput);
        let trust = Trust::new(transport, true, []).unwrap();
        assert!(trust.is_trusted(&peer(7)));
    }
}
