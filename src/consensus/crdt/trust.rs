//! Whose word counts.

use std::collections::BTreeSet;
use std::sync::{PoisonError, RwLock};

use crate::error::{Error, ErrorKind, Result};
use crate::types::PeerId;

/// Most peers that are trusted, or not trusted, by name.
pub(super) const TRUSTED_PEERS_MAX: usize = 65_536;

/// The peers whose announcements are followed and whose requests are served.
#[derive(Debug)]
pub(super) struct Trust {
    own: PeerId,
    /// Everybody but those that were named as not trusted.
    is_for_all: bool,
    named: RwLock<Named>,
}

#[derive(Clone, Debug, Default)]
struct Named {
    trusted: BTreeSet<PeerId>,
    distrusted: BTreeSet<PeerId>,
}

impl Trust {
    pub(super) fn new(own: PeerId, is_for_all: bool, trusted: impl IntoIterator<Item = PeerId>) -> Self {
        let named = Named { trusted: trusted.into_iter().collect(), distrusted: BTreeSet::new() };
        Self { own, is_for_all, named: RwLock::new(named) }
    }

    /// Whether this peer's word counts. Ours always does.
    pub(super) fn is_trusted(&self, peer: &PeerId) -> bool {
        if *peer == self.own {
            return true;
        }
        let named = self.named.read().unwrap_or_else(PoisonError::into_inner);
        named.trusted.contains(peer) || (self.is_for_all && !named.distrusted.contains(peer))
    }

    /// The peers trusted by name.
    pub(super) fn trusted(&self) -> Vec<PeerId> {
        self.named.read().unwrap_or_else(PoisonError::into_inner).trusted.iter().copied().collect()
    }

    /// Trusts from now on.
    ///
    /// # Errors
    /// `QueueFull` beyond [`TRUSTED_PEERS_MAX`].
    pub(super) fn trust(&self, peer: &PeerId) -> Result<()> {
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        named.distrusted.remove(peer);
        if *peer == self.own {
            return Ok(());
        }
        insert(&mut named.trusted, peer)
    }

    /// Stops trusting, also where everybody else is trusted.
    ///
    /// # Errors
    /// `InvalidInput` for ourselves; `QueueFull` beyond [`TRUSTED_PEERS_MAX`].
    pub(super) fn distrust(&self, peer: &PeerId) -> Result<()> {
        if *peer == self.own {
            return Err(
                Error::invalid_input("a peer cannot stop trusting itself").component(super::COMPONENT)
            );
        }
        let mut named = self.named.write().unwrap_or_else(PoisonError::into_inner);
        named.trusted.remove(peer);
        if self.is_for_all { insert(&mut named.distrusted, peer) } else { Ok(()) }
    }
}

fn insert(peers: &mut BTreeSet<PeerId>, peer: &PeerId) -> Result<()> {
    if peers.len() >= TRUSTED_PEERS_MAX && !peers.contains(peer) {
        let message =
            format!("{TRUSTED_PEERS_MAX} peers are named already; name fewer, or trust all of them");
        return Err(Error::new(ErrorKind::QueueFull, message).component(super::COMPONENT));
    }
    peers.insert(*peer);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::vectors::peer;
    use super::*;

    #[test]
    fn only_peers_that_are_named_are_trusted() {
        let trust = Trust::new(peer(1), false, [peer(2)]);
        assert!(trust.is_trusted(&peer(1)) && trust.is_trusted(&peer(2)) && !trust.is_trusted(&peer(3)));
        trust.trust(&peer(3)).unwrap();
        trust.distrust(&peer(2)).unwrap();
        assert!(!trust.is_trusted(&peer(2)) && trust.is_trusted(&peer(3)));
        assert_eq!(trust.trusted(), [peer(3)]);
        assert_eq!(trust.distrust(&peer(1)).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(trust.is_trusted(&peer(1)));
    }

    #[test]
    fn where_all_are_trusted_one_can_be_left_out_and_taken_back() {
        let trust = Trust::new(peer(1), true, []);
        assert!(trust.is_trusted(&peer(2)));
        trust.distrust(&peer(2)).unwrap();
        assert!(!trust.is_trusted(&peer(2)) && trust.is_trusted(&peer(3)));
        trust.trust(&peer(2)).unwrap();
        assert!(trust.is_trusted(&peer(2)));
    }
}
