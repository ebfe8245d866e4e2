//! Many peers without a leader: the reference's Merkle-CRDT.

mod announce;
mod broadcast;
mod delta;
mod frontier;
mod key;
mod ledger;
mod network;
mod node;
mod repair;
#[cfg(test)]
mod simulation;
mod topic;
mod trust;
#[cfg(test)]
mod vectors;
mod walk;
mod wire;

const COMPONENT: &str = "crdt consensus";
