//! Tests: the wire vectors.

use serde::Deserialize;
use serde_json::Value;

use super::delta::Delta;
use crate::types::PeerId;

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Vector {
    pub(super) name: String,
    pub(super) hex: String,
    pub(super) decoded: Value,
}

impl Vector {
    pub(super) fn bytes(&self) -> Vec<u8> {
        hex::decode(&self.hex).unwrap()
    }
}

#[derive(Deserialize)]
struct File {
    vectors: Vec<Value>,
}

/// The vectors whose name starts like this.
pub(super) fn group(prefix: &str) -> Vec<Vector> {
    let file: File = serde_json::from_str(include_str!("../../../tests/data/wire-vectors.json")).unwrap();
    let named = file
        .vectors
        .into_iter()
        .filter(|vector| vector["name"].as_str().is_some_and(|name| name.starts_with(prefix)));
    named.map(|vector| serde_json::from_value(vector).unwrap()).collect()
}

/// The bytes of one.
pub(super) fn bytes(name: &str) -> Vec<u8> {
    group(name).into_iter().find(|vector| vector.name == name).unwrap().bytes()
}

/// The delta of one.
pub(super) fn delta(name: &str) -> Delta {
    Delta::decode(bytes(name).into()).unwrap()
}

/// A peer, the same for the same number.
pub(super) fn peer(number: u8) -> PeerId {
    let key = libp2p_identity::Keypair::ed25519_from_bytes([number; 32]).unwrap();
    key.public().to_peer_id()
}
