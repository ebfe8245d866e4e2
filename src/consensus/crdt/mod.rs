//! Many peers without a leader: the reference's Merkle-CRDT.

mod broadcast;
mod delta;
mod key;
mod ledger;
mod node;
mod topic;
#[cfg(test)]
mod vectors;
mod wire;

const COMPONENT: &str = "crdt consensus";
