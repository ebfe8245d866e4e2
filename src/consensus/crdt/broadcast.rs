//! What peers tell each other: the names of their heads.

use prost::Message;

use super::key;
use super::wire::{Field, Fields, corrupt};
use crate::error::Result;
use crate::types::Cid;

/// Most heads in one message.
pub(super) const BROADCAST_HEADS_MAX: usize = 4096;

/// The reference's `CRDTBroadcast`.
#[derive(Clone, PartialEq, Message)]
struct PbBroadcast {
    #[prost(message, repeated, tag = "1")]
    heads: Vec<PbHead>,
}

/// The reference's `Head`.
#[derive(Clone, PartialEq, Message)]
struct PbHead {
    #[prost(bytes = "vec", tag = "1")]
    cid: Vec<u8>,
}

/// A message for the topic.
pub(super) fn encode(heads: &[Cid]) -> Vec<u8> {
    let heads = heads.iter().map(|cid| PbHead { cid: cid.to_bytes() }).collect();
    PbBroadcast { heads }.encode_to_vec()
}

/// The heads in a message, in the order written.
///
/// # Errors
/// `Corrupt` for what is no such message (the one that peers sent before 2020 counts as none), for more than
/// [`BROADCAST_HEADS_MAX`] heads and for a head that cannot be a block of the DAG.
pub(super) fn decode(message: &[u8]) -> Result<Vec<Cid>> {
    let mut count = 0;
    let mut fields = Fields::of(message);
    while let Some(field) = fields.next()? {
        match field {
            Field::Bytes(1, _) => count += 1,
            _ => return Err(corrupt("a broadcast has a field that nobody knows")),
        }
    }
    if count > BROADCAST_HEADS_MAX {
        return Err(corrupt(format!(
            "a broadcast names {count} heads, but at most {BROADCAST_HEADS_MAX} are taken"
        )));
    }
    let message = PbBroadcast::decode(message)
        .map_err(|source| corrupt(format!("unreadable broadcast: {source}")).with_source(source))?;
    let cid = |head: &PbHead| {
        key::pin_of_bytes(&head.cid)
            .filter(|cid| key::block_digest(cid).is_some())
            .ok_or_else(|| corrupt("a broadcast names a head that is no block of the dag"))
    };
    message.heads.iter().map(cid).collect()
}

#[cfg(test)]
mod tests {
    use super::super::vectors;
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn broadcasts_are_read_and_written_as_the_reference_does() {
        let vectors: Vec<_> =
            vectors::group("crdt/").into_iter().filter(|vector| vector.name.contains("broadcast")).collect();
        assert_eq!(vectors.len(), 8);
        for vector in vectors {
            let heads = decode(&vector.bytes()).unwrap();
            let expected = match vector.decoded.as_array() {
                Some(list) => list.clone(),
                None => vec![vector.decoded["head"].clone()],
            };
            let texts: Vec<String> = heads.iter().map(Cid::to_string).collect();
            assert_eq!(expected, texts, "{}", vector.name);
            assert_eq!(hex::encode(encode(&heads)), vector.hex, "{}", vector.name);
        }
        assert_eq!(decode(&[]).unwrap(), []);
    }

    #[test]
    fn heads_of_other_kinds_and_too_many_are_refused() {
        let head = decode(&vectors::bytes("crdt/1-put/broadcast")).unwrap()[0];
        for bad in [
            encode(&[Cid::new_v1(0x55, *head.hash())]),
            encode(&vec![head; BROADCAST_HEADS_MAX + 1]),
            vec![0x0a, 0],
            vec![0x12, 1, 1],
            head.to_bytes(),
        ] {
            assert_eq!(decode(&bad).unwrap_err().kind(), ErrorKind::Corrupt);
        }
        assert_eq!(decode(&encode(&vec![head; BROADCAST_HEADS_MAX])).unwrap().len(), BROADCAST_HEADS_MAX);
    }
}
