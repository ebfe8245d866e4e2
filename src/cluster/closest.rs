//! Which peer does what one peer is enough for: unpinning what expired, pinning anew what a dead peer held.
//!
//! As in the reference: the peer whose id is closest to the CID, by the exclusive or of their blake2b-256 hashes. Every
//! peer decides that for itself, without a word; of two that disagree about who lives both act, which is harmless.

use multihash_codetable::{Code, MultihashDigest as _};

use crate::tracker::key::CidKey;
use crate::types::{Cid, PeerId};

type Hash = [u8; 32];

/// Peers that could do something, seen from one of them.
#[derive(Debug)]
pub(super) struct Closest {
    own: Hash,
    others: Vec<Hash>,
}

impl Closest {
    /// `others` are those that this peer trusts and that live; this peer among them is passed over.
    pub(super) fn new(own: &PeerId, others: impl IntoIterator<Item = PeerId>) -> Self {
        let others = others.into_iter().filter(|peer| peer != own);
        Self { own: hash(&own.to_bytes()), others: others.map(|peer| hash(&peer.to_bytes())).collect() }
    }

    /// Whether nobody is closer to the CID than this peer.
    pub(super) fn is_own(&self, cid: &Cid) -> bool {
        let cid = hash(CidKey::from(cid).as_bytes());
        let own = distance(&self.own, &cid);
        self.others.iter().all(|other| own <= distance(other, &cid))
    }
}

fn hash(bytes: &[u8]) -> Hash {
    let mut hash = Hash::default();
    // The digest has exactly these 32 bytes.
    hash.iter_mut().zip(Code::Blake2b256.digest(bytes).digest()).for_each(|(to, from)| *to = *from);
    hash
}

fn distance(one: &Hash, other: &Hash) -> Hash {
    std::array::from_fn(|index| one[index] ^ other[index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Block, parse_cid};

    /// The peer whose hash the vector `distance/peer-1` is (`identity/peer-id-1`).
    fn vectors() -> Vec<serde_json::Value> {
        let text = include_str!("../../tests/data/wire-vectors.json");
        match serde_json::from_str(text).unwrap() {
            serde_json::Value::Array(vectors) => vectors,
            mut file => serde_json::from_value(file["vectors"].take()).unwrap(),
        }
    }

    #[test]
    fn hashes_are_those_of_the_references_vectors() {
        let vectors = vectors();
        let bytes_of = |vector: &serde_json::Value| hex::decode(vector["hex"].as_str().unwrap()).unwrap();
        let mut visited = 0;
        for vector in &vectors {
            let name = vector["name"].as_str().unwrap();
            let Some(name) = name.strip_prefix("distance/") else { continue };
            let hashed = match name {
                "peer-1" => {
                    let peer = vectors.iter().find(|vector| vector["name"] == "identity/peer-id-1").unwrap();
                    hash(&PeerId::from_bytes(&bytes_of(peer)).unwrap().to_bytes())
                }
                "cid-v1" => hash(&parse_cid(vector["decoded"].as_str().unwrap()).unwrap().to_bytes()),
                unknown => panic!("no test for distance/{unknown}"),
            };
            assert_eq!(hashed.as_slice(), bytes_of(vector), "{name}");
            visited += 1;
        }
        assert_eq!(visited, 2);
    }

    #[test]
    fn exactly_one_of_several_peers_is_the_closest_and_all_agree() {
        let peers: Vec<_> = (0..5).map(|_| PeerId::random()).collect();
        let mut chosen = [0; 5];
        for number in 0..200u8 {
            let cid = Block::raw(vec![number]).cid;
            let closest: Vec<_> =
                (0..5).filter(|own| Closest::new(&peers[*own], peers.iter().copied()).is_own(&cid)).collect();
            assert_eq!(closest.len(), 1, "{cid}");
            chosen[closest[0]] += 1;
            // Without it, another one takes its place.
            let rest: Vec<_> = peers.iter().copied().filter(|peer| *peer != peers[closest[0]]).collect();
            let next = rest.iter().filter(|own| Closest::new(own, rest.iter().copied()).is_own(&cid));
            assert_eq!(next.count(), 1);
        }
        assert!(chosen.iter().all(|count| *count > 0), "{chosen:?}");
    }

    #[test]
    fn a_peer_alone_is_the_closest() {
        let own = PeerId::random();
        assert!(Closest::new(&own, [own]).is_own(&Block::raw("x").cid));
    }
}
