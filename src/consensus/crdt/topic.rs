//! Where the peers of a cluster tell each other about new heads.

use ::cid::multibase::Base;
use md5::{Digest as _, Md5};

use crate::transport::Topic;

/// Multihash function 0xd5 (MD5) as a varint, and the length of its digest.
const MULTIHASH_PREFIX: [u8; 3] = [0xd5, 0x01, 0x10];

/// The topic of a cluster, which the reference derives from the cluster's name: base58 of its multihash. MD5 keeps
/// nothing secret here; it is only how the name is spelt.
pub(super) fn of_cluster(name: &str) -> Topic {
    let multihash = [&MULTIHASH_PREFIX[..], &Md5::digest(name.as_bytes())].concat();
    Topic::new(Base::Base58Btc.encode(multihash))
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;

    #[test]
    fn topics_are_the_references() {
        let vectors = vectors::group("topic/");
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let name = vector.decoded["cluster_name"].as_str().unwrap();
            assert_eq!(of_cluster(name).as_str().as_bytes(), vector.bytes(), "{}", vector.name);
        }
    }
}
