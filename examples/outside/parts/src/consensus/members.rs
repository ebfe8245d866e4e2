//! Who has joined, and who may not.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use ipfs_cluster::consensus::NoLongerMember;
use ipfs_cluster::types::PeerId;
use ipfs_cluster::{Error, ErrorKind, Result};

use super::COMPONENT;
use super::sequencer::Shared;

/// Most peers that are kept out; it is one record.
const REMOVED_PEERS_MAX: usize = 4096;

/// What the log knows of its peers.
#[derive(Debug, Default)]
pub(super) struct Members {
    /// With a number for each time that somebody joined, so that an end of long ago ends nothing new.
    joined: BTreeMap<PeerId, u64>,
    removed: BTreeSet<PeerId>,
    last: u64,
}

impl Members {
    /// Before anybody has joined.
    pub(super) fn without(removed: BTreeSet<PeerId>) -> Self {
        Self { removed, ..Self::default() }
    }

    pub(super) fn joined(&self) -> impl Iterator<Item = PeerId> {
        self.joined.keys().copied()
    }

    pub(super) fn has(&self, peer: &PeerId) -> bool {
        self.joined.contains_key(peer)
    }

    /// Those who are kept out once this peer is; the members stay as they are until [`Self::keep_out`].
    ///
    /// # Errors
    /// `Conflict` for the last member, and where too many are kept out.
    pub(super) fn removed_with(&self, peer: &PeerId) -> Result<BTreeSet<PeerId>> {
        let conflict = |text: &str| Err(Error::new(ErrorKind::Conflict, text).component(COMPONENT));
        if self.joined.keys().eq([peer]) {
            return conflict("the last member cannot be removed; stop the peer instead");
        }
        let mut removed = self.removed.clone();
        removed.insert(*peer);
        match removed.len() > REMOVED_PEERS_MAX {
            true => conflict("too many peers are kept out; add some of them again"),
            false => Ok(removed),
        }
    }

    /// Those who are kept out once this peer is not.
    pub(super) fn removed_without(&self, peer: &PeerId) -> BTreeSet<PeerId> {
        self.removed.iter().copied().filter(|other| other != peer).collect()
    }

    /// These may not join, and have not.
    pub(super) fn keep_out(&mut self, removed: BTreeSet<PeerId>) {
        self.joined.retain(|peer, _| !removed.contains(peer));
        self.removed = removed;
    }
}

/// That a peer has joined, for as long as this lives or until it is removed.
pub(super) struct Membership {
    shared: Arc<Shared>,
    peer: PeerId,
    number: u64,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Membership {
    pub(super) fn begin(shared: &Arc<Shared>, peer: PeerId) -> Result<Self> {
        let mut members = shared.members();
        if members.removed.contains(&peer) {
            return Err(removed(&peer));
        }
        if members.has(&peer) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("{peer} has joined this log already; shut it down first"),
            )
            .component(COMPONENT));
        }
        members.last += 1;
        let number = members.last;
        members.joined.insert(peer, number);
        Ok(Self { shared: Arc::clone(shared), peer, number })
    }

    /// # Errors
    /// `Conflict` where it was ended.
    pub(super) fn check(&self) -> Result<()> {
        match self.is_current() {
            true => Ok(()),
            false => Err(removed(&self.peer)),
        }
    }

    /// Ends it now, whoever still holds it.
    pub(super) fn end(&self) {
        let mut members = self.shared.members();
        if members.joined.get(&self.peer) == Some(&self.number) {
            members.joined.remove(&self.peer);
        }
    }

    fn is_current(&self) -> bool {
        self.shared.members().joined.get(&self.peer) == Some(&self.number)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.end();
    }
}

fn removed(peer: &PeerId) -> Error {
    let text = format!("this peer was removed from the log; add {peer} on another peer to let it in again");
    Error::new(ErrorKind::Conflict, text).component(COMPONENT).with_source(NoLongerMember)
}

/// The record of those who are kept out.
pub(super) fn encode(removed: &BTreeSet<PeerId>) -> Vec<u8> {
    removed.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").into_bytes()
}

/// # Errors
/// `Corrupt`.
pub(super) fn decode(record: &[u8]) -> Result<BTreeSet<PeerId>> {
    let read = || -> Option<BTreeSet<PeerId>> {
        let text = std::str::from_utf8(record).ok()?;
        text.lines().map(|line| line.parse().ok()).collect()
    };
    read().ok_or_else(|| {
        let text =
            "who was removed from the shared log is unreadable; put a backup of its store in its place";
        Error::new(ErrorKind::Corrupt, text).component(COMPONENT)
    })
}
