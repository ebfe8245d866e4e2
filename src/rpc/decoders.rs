//! What [`crate::rpc`] reads of other peers, for `testing::decoders`: each says whether the bytes were read, and panics
//! when what was read does not hold.

use std::fmt::Debug;

use bytes::Bytes;
use futures::FutureExt as _;
use tokio::io::AsyncReadExt as _;

use super::frame::ObjectReader;
use super::method::{Method, find};
use super::msgpack::{Empty, List, Scan, Wire, decode, encode};
use super::request::{Request, encode_block};
use super::wire::{Digest, Metric, Node, Peer, Pin, PinInfo, RepoGc, RepoStat, Response, ServiceId, Version};
use super::{PinsetDigest, decode_metric, encode_metric};
use crate::types::{self, Block, Cid, PeerId, StatusFilter};

/// Longest object that the streams here may carry, in bytes.
const OBJECT_BYTES_MAX: usize = 1 << 20;

/// The value, which says the same when it is written and read again.
fn read<T: Wire + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let value: T = decode(bytes).ok()?;
    assert_eq!(decode::<T>(&encode(&value)).ok().as_ref(), Some(&value), "written and read again");
    Some(value)
}

/// The lengths of the objects that a stream begins with, and whether that was all of it.
fn objects_in_pieces(first: &[u8], second: &[u8]) -> (Vec<usize>, bool) {
    let mut reader = ObjectReader::new(first.chain(second));
    let mut lengths = Vec::new();
    let mut rest = first.iter().chain(second);
    loop {
        match reader.next(OBJECT_BYTES_MAX).now_or_never() {
            Some(Ok(Some(object))) => {
                assert!((1..=OBJECT_BYTES_MAX).contains(&object.len()));
                assert!(object.iter().all(|byte| rest.next() == Some(byte)), "other bytes than there were");
                lengths.push(object.len());
            }
            Some(end) => {
                assert!(end.is_err() || rest.next().is_none(), "bytes were lost");
                return (lengths, end.is_ok());
            }
            None => panic!("bytes that are there were waited for"),
        }
    }
}

/// Objects on a stream.
pub(crate) fn objects(bytes: &[u8]) -> bool {
    let (lengths, all) = objects_in_pieces(bytes, &[]);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    assert_eq!(objects_in_pieces(first, second), (lengths, all), "in two pieces");
    all
}

/// The objects of a stream that is whole, for the other decoders.
pub(crate) fn cut(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut objects = Vec::new();
    while let Ok(Some(length)) = Scan::default().advance(bytes, OBJECT_BYTES_MAX) {
        let (object, rest) = bytes.split_at(length);
        objects.push(object.to_vec());
        bytes = rest;
    }
    objects
}

/// What comes before an argument, and before a reply.
pub(crate) fn headers(bytes: &[u8]) -> bool {
    let service = read::<ServiceId>(bytes);
    if let Some(service) = &service {
        let _ = find(&service.service, &service.method, false);
        let _ = find(&service.service, &service.method, true);
    }
    let response = read::<Response>(bytes);
    service.is_some() || response.is_some()
}

/// The argument of each method.
pub(crate) fn requests(bytes: &[u8]) -> bool {
    let mut any = false;
    for method in Method::ALL {
        if let Ok(request) = Request::decode(method, Some(bytes)) {
            assert_eq!(request.method(), method);
            let written = request.encode_argument();
            let again = Request::decode(method, written.as_deref()).ok();
            any |= written.is_some();
            assert_eq!(again, Some(request));
        }
    }
    any
}

/// Arguments that no vector has.
pub(crate) fn request_samples() -> Vec<Vec<u8>> {
    let cid = Block::raw("x").cid;
    let requests = [
        Request::StatusAll(StatusFilter::QUEUED),
        Request::StatusAllSorted { filter: StatusFilter::QUEUED, after: Some(cid) },
        Request::Status(cid),
        Request::StatusOf(vec![cid, cid]),
        Request::LogUnpin(cid),
    ];
    requests.iter().filter_map(Request::encode_argument).collect()
}

/// What a method answers, each kind of it.
pub(crate) fn replies(bytes: &[u8]) -> bool {
    let asked = asked();
    let mut any = false;
    if let Some(info) = read::<Peer>(bytes).and_then(|peer| types::PeerInfo::try_from(peer).ok()) {
        let again = types::PeerInfo::try_from(Peer::from(&info)).ok();
        // Of a daemon that nothing is said of, that is said.
        let again = again.map(|again| types::PeerInfo { ipfs: info.ipfs.clone(), ..again });
        assert_eq!(again, Some(info));
        any = true;
    }
    if let Some(info) = read::<PinInfo>(bytes).and_then(|info| info.said_by(asked).ok()) {
        assert_eq!(PinInfo::from(&info).said_by(asked).ok(), Some(info));
        any = true;
    }
    if let Some(pin) = read::<Pin>(bytes).and_then(|pin| types::Pin::try_from(pin).ok()) {
        assert_eq!(types::Pin::try_from(Pin::from(&pin)).ok(), Some(pin));
        any = true;
    }
    if let Some(digest) = read::<Digest>(bytes).and_then(|digest| PinsetDigest::try_from(digest).ok()) {
        assert_eq!(PinsetDigest::try_from(Digest::from(&digest)).ok(), Some(digest));
        any = true;
    }
    if let Some(gc) = read::<RepoGc>(bytes).map(|gc| gc.said_by(asked)) {
        assert_eq!(RepoGc::from(&gc).said_by(asked), gc);
        any = true;
    }
    any |= read::<Version>(bytes).is_some();
    any |= read::<RepoStat>(bytes).is_some();
    any |= read::<List<PeerId>>(bytes).is_some();
    any | read::<Empty>(bytes).is_some()
}

/// Answers that no vector has.
pub(crate) fn reply_samples() -> Vec<Vec<u8>> {
    let digest = PinsetDigest { count: 3, hash: [7; 16], heads: vec![(Block::raw("x").cid, 4)] };
    vec![encode(&Digest::from(&digest)), encode(&List::from(vec![asked()]))]
}

/// A block that another peer sends.
pub(crate) fn blocks(bytes: &[u8]) -> bool {
    let Some(node) = read::<Node>(bytes) else { return false };
    let Some(cid) = node.cid else { return false };
    if let Ok(block) = Block::verified(cid, node.data) {
        let again = decode::<Node>(&encode_block(&block)).ok().map(|node| (node.cid, node.data));
        assert_eq!(again, Some((Some(block.cid), block.data)));
    }
    true
}

/// Blocks that no vector has.
pub(crate) fn block_samples() -> Vec<Vec<u8>> {
    vec![encode_block(&Block::raw("x")).to_vec(), encode_block(&Block::raw(vec![7; 300])).to_vec()]
}

/// A metric from the topic.
pub(crate) fn metrics(bytes: &[u8]) -> bool {
    let _ = read::<Metric>(bytes);
    let Ok(metric) = decode_metric(bytes) else { return false };
    let expected = types::Metric { received_at: 0, ..metric };
    assert_eq!(decode_metric(&encode_metric(&expected)).ok(), Some(expected));
    true
}

/// Metrics with the prefix of old peers.
pub(crate) fn old_metric(bytes: &[u8]) -> Vec<u8> {
    [super::wire::LEGACY_METRIC_PREFIX, bytes].concat()
}

/// A CID, a peer id and an address, each alone.
pub(crate) fn values(bytes: &[u8]) -> bool {
    let cid = read::<Option<Cid>>(bytes).is_some();
    let peer = read::<Option<PeerId>>(bytes).is_some();
    let address = read::<Option<types::Multiaddr>>(bytes).is_some();
    let time = read::<Option<types::Timestamp>>(bytes).is_some();
    let (text, number) = (read::<String>(bytes).is_some(), read::<u64>(bytes).is_some());
    let (raw, signed) = (read::<Bytes>(bytes).is_some(), read::<i64>(bytes).is_some());
    cid || peer || address || time || text || number || raw || signed
}

/// Who was asked: it does not matter.
fn asked() -> PeerId {
    // A multihash of the kind "identity"; any bytes can stand in it.
    PeerId::from_bytes(&[0, 1, 7]).unwrap_or_else(|error| panic!("{error}"))
}
