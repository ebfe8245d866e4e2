//! Blocks that are kept for an add until their root is pinned.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Cid, PeerId, Timestamp, cid};

/// A lease: blocks that a peer's daemon keeps for an add although nothing that is pinned links to them yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The peer beside the daemon.
    pub peer: PeerId,
    /// What is pinned on the daemon: a block that links to those that are held.
    pub cid: Cid,
    /// When the stream that brought the blocks began.
    pub since: Timestamp,
    /// How many are held.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What it waits for.
    pub state: LeaseState,
}

impl Lease {
    /// A lease.
    pub fn new(peer: PeerId, cid: Cid, since: Timestamp, blocks: u64, bytes: u64, state: LeaseState) -> Self {
        Self { peer, cid, since, blocks, bytes, state }
    }
}

/// What a [`Lease`] waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseState {
    /// Blocks still come.
    Running,
    /// They have all come, or as many as came before an upload broke off that may go on; the roots are not pinned on this
    /// daemon yet.
    Waiting {
        /// Blocks that no other one of the stream links to.
        roots: Arc<[Cid]>,
    },
    /// The stream broke off; the daemon will be told to release it.
    Failed,
}

impl LeaseState {
    /// Its name: `running`, `waiting`, `failed`.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Waiting { .. } => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// The members in JSON.
#[derive(Serialize, Deserialize)]
struct Line {
    peer: PeerId,
    #[serde(with = "cid::text")]
    cid: Cid,
    since: Timestamp,
    blocks: u64,
    bytes: u64,
    state: std::borrow::Cow<'static, str>,
    roots: Vec<Root>,
}

#[derive(Serialize, Deserialize)]
struct Root(#[serde(with = "cid::text")] Cid);

impl Serialize for Lease {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let roots = match &self.state {
            LeaseState::Waiting { roots } => roots.iter().copied().map(Root).collect(),
            LeaseState::Running | LeaseState::Failed => Vec::new(),
        };
        let Self { peer, cid, since, blocks, bytes, ref state } = *self;
        Line { peer, cid, since, blocks, bytes, state: state.as_str().into(), roots }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Lease {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Line { peer, cid, since, blocks, bytes, state, roots } = Line::deserialize(deserializer)?;
        let state = match &*state {
            "running" => LeaseState::Running,
            "waiting" => LeaseState::Waiting { roots: roots.into_iter().map(|root| root.0).collect() },
            "failed" => LeaseState::Failed,
            other => {
                return Err(de::Error::unknown_variant(other, &["running", "waiting", "failed"]));
            }
        };
        Ok(Self { peer, cid, since, blocks, bytes, state })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Block;

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        let root = Block::raw("root").cid;
        for state in
            [LeaseState::Running, LeaseState::Waiting { roots: [root, root].into() }, LeaseState::Failed]
        {
            let cid = Block::raw("lease").cid;
            let lease = Lease::new(PeerId::random(), cid, Timestamp::from_unix_seconds(7), 3, 70, state);
            let json = serde_json::to_string(&lease).unwrap();
            assert_eq!(serde_json::from_str::<Lease>(&json).unwrap(), lease, "{json}");
        }
        assert!(serde_json::from_str::<Lease>("{}").is_err());
    }
}
