//! What the reference wrote, read here, and what we write, read again; and the same, broken.
//!
//! Types that never leave a reference's peer (its closed methods) are declared here alone, to prove the dialect.

mod json;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use self::json::{Flag, Json, PeerList, Status, essence};
use super::decoders;
use super::method::{Found, Method, find};
use super::msgpack::{Empty, Input, List, Scan, Wire, decode, encode, wire_struct};
use super::request::{Reply, Request, encode_service};
use super::wire::*;
use crate::error::{ErrorKind, Result};
use crate::state::decode_pin_protobuf;
use crate::types::{self, Cid, Multiaddr, PeerId, PinType, StatusFilter, Timestamp, TrackerStatus};

wire_struct! {
    PinPath {
        "rn" replication_factor_min: i64;
        "rx" replication_factor_max: i64;
        "n" name: String;
        "o" mode: i64;
        "s" shard_size: u64;
        "ua" user_allocations: List<PeerId>;
        "e" expire_at: Option<Timestamp>;
        "m" metadata: BTreeMap<String, String>;
        "pu" pin_update: Option<Cid>;
        "g" origins: List<Multiaddr>;
        "path" path: String, always;
    }
}
wire_struct! {
    PinInfoShort {
        "pn" peername: String;
        "i" ipfs: Option<PeerId>;
        "ia" ipfs_addresses: List<Multiaddr>;
        "st" status: i64;
        "ts" timestamp: Option<Timestamp>;
        "e" error: String;
        "a" attempt_count: i64;
        "y" priority_pin: bool;
    }
}
wire_struct! {
    GlobalPinInfo {
        "c" cid: Option<Cid>, always;
        "n" name: String, always;
        "a" allocations: List<PeerId>;
        "g" origins: List<Multiaddr>;
        "t" created: Option<Timestamp>;
        "m" metadata: BTreeMap<String, String>;
        "pm" peer_map: BTreeMap<String, PinInfoShort>;
    }
}
wire_struct! {
    Alert {
        "n" name: String;
        "p" peer: Option<PeerId>;
        "v" value: String;
        "e" expire: i64;
        "d" valid: bool;
        "w" weight: i64;
        "o" partitionable: bool;
        "t" received_at: i64;
        "r" triggered_at: Option<Timestamp>;
    }
}
wire_struct! {
    ApiError {
        "o" code: i64;
        "m" message: String;
    }
}
wire_struct! {
    ConnectGraph {
        "id" cluster_id: Option<PeerId>, always;
        "ip" names: BTreeMap<String, String>;
        "il" ipfs_links: BTreeMap<String, PeerList>;
        "cl" cluster_links: BTreeMap<String, PeerList>;
        "ctl" trust: BTreeMap<String, Flag>;
        "ci" cluster_to_ipfs: BTreeMap<String, PeerId>;
    }
}
wire_struct! {
    GlobalRepoGc {
        "pm" peer_map: BTreeMap<String, RepoGc>;
    }
}
wire_struct! {
    IpfsPinInfo {
        "c" cid: Option<Cid>, always;
        "t" status: i64, always;
    }
}
wire_struct! {
    Bandwidth {
        "i" total_in: i64;
        "o" total_out: i64;
        "ri" rate_in: f64;
        "ro" rate_out: f64;
    }
}
wire_struct! {
    /// An entry of the snapshot of the state.
    Entry {
        "k" key: String, always;
        "v" value: Bytes, always;
    }
}
wire_struct! {
    LogOp {
        "s" span: Bytes;
        "t" tags: Bytes;
        "c" pin: Pin;
        "p" kind: i64;
    }
}

struct Vector {
    name: String,
    bytes: Vec<u8>,
    decoded: Value,
}

fn file() -> Value {
    serde_json::from_str(include_str!("../../tests/data/wire-vectors.json")).unwrap()
}

fn group(prefix: &str) -> Vec<Vector> {
    let file = file();
    let vectors = file["vectors"].as_array().unwrap().iter();
    let found: Vec<_> = vectors
        .filter(|vector| vector["name"].as_str().unwrap().starts_with(prefix))
        .map(|vector| Vector {
            name: vector["name"].as_str().unwrap()[prefix.len()..].to_owned(),
            bytes: hex::decode(vector["hex"].as_str().unwrap()).unwrap(),
            decoded: vector["decoded"].clone(),
        })
        .collect();
    assert!(!found.is_empty(), "{prefix}");
    found
}

/// The objects that bytes are made of.
fn objects(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut objects = Vec::new();
    while !bytes.is_empty() {
        let length = Scan::default().advance(bytes, usize::MAX).unwrap().expect("a whole object");
        let (object, rest) = bytes.split_at(length);
        objects.push(object);
        bytes = rest;
    }
    objects
}

/// Reads one object, compares it, writes it and reads it again.
fn check<T: Wire + Json + PartialEq + std::fmt::Debug>(vector: &Vector) -> T {
    assert_eq!(objects(&vector.bytes), [&vector.bytes[..]], "{}", vector.name);
    let value: T = decode(&vector.bytes).unwrap_or_else(|error| panic!("{}: {error}", vector.name));
    assert_eq!(essence(&value.json()), essence(&vector.decoded), "{}", vector.name);
    let again: T = decode(&encode(&value)).unwrap();
    assert_eq!(again, value, "{}", vector.name);
    value
}

/// The same, and what we write is what the reference writes, byte by byte.
fn check_bytes<T: Wire + Json + PartialEq + std::fmt::Debug>(vector: &Vector) -> T {
    let value: T = check(vector);
    assert_eq!(hex::encode(encode(&value)), hex::encode(&vector.bytes), "{}", vector.name);
    value
}

#[test]
fn every_object_of_the_reference_is_read_and_written() {
    for vector in group("msgpack/") {
        let name = vector.name.as_str();
        match name {
            "nil" | "empty-struct" => drop(check::<Empty>(&vector)),
            "string-short" | "string-40" | "protocol-id" => drop(check_bytes::<String>(&vector)),
            "bytes-5" | "bytes-40" | "bytes-300" | "bytes-nil" => {
                let bytes: Bytes = decode(&vector.bytes).unwrap();
                let expected = match name {
                    "bytes-5" => vec![1, 2, 3, 4, 5],
                    "bytes-40" => vec![0xab; 40],
                    "bytes-300" => vec![0xab; 300],
                    _ => vec![],
                };
                assert_eq!(bytes, expected, "{name}");
                if name != "bytes-nil" {
                    assert_eq!(encode(&bytes), vector.bytes, "{name}");
                }
            }
            _ if name.starts_with("int64_") => drop(check_bytes::<i64>(&vector)),
            _ if name.starts_with("uint64_") => drop(check_bytes::<u64>(&vector)),
            "float64-1.5" => drop(check_bytes::<f64>(&vector)),
            "time-zero" => {
                assert_eq!(decode::<Option<Timestamp>>(&vector.bytes).unwrap(), None);
                assert_eq!(vector.decoded, "zero");
            }
            _ if name.starts_with("time-") => drop(check_bytes::<Option<Timestamp>>(&vector)),
            _ if name.starts_with("cid-") => drop(check_bytes::<Option<Cid>>(&vector)),
            "peer-id" => drop(check_bytes::<Option<PeerId>>(&vector)),
            // The reference writes what it does not read itself. We write nil, and refuse it as the reference does.
            "peer-id-empty" => {
                assert!(decode::<Option<PeerId>>(&vector.bytes).is_err());
                assert_eq!(encode(&None::<PeerId>), [0xc0]);
            }
            "multiaddr" | "multiaddr-p2p" => drop(check_bytes::<Option<Multiaddr>>(&vector)),
            "peer-id-slice" | "peer-id-slice-empty" => drop(check_bytes::<List<PeerId>>(&vector)),
            "peer-id-slice-nil" => assert_eq!(decode::<List<PeerId>>(&vector.bytes).unwrap(), List(None)),
            _ if name.starts_with("trackerstatus-") => {
                let bits: u64 = decode(&vector.bytes).unwrap();
                assert_eq!(Status(bits as i64).json(), vector.decoded, "{name}");
                let filter = filter_from_bits(bits).unwrap();
                assert_eq!(u64::from(filter.bits()), bits);
                assert_eq!(Request::StatusAll(filter).encode_argument().unwrap(), vector.bytes, "{name}");
            }
            "ipfspinstatus-recursive" => assert_eq!(decode::<i64>(&vector.bytes).unwrap(), 3),
            "gorpc-serviceid" => drop(check_bytes::<ServiceId>(&vector)),
            _ if name.starts_with("gorpc-response-") => {
                // `Data` follows as an object of its own.
                let mut vector = Vector {
                    name: name.to_owned(),
                    bytes: vector.bytes.clone(),
                    decoded: vector.decoded.clone(),
                };
                vector.decoded.as_object_mut().unwrap().remove("Data").unwrap();
                check_bytes::<Response>(&vector);
            }
            "pin-zero" => assert!(types::Pin::try_from(check_bytes::<Pin>(&vector)).is_err()),
            "pinpath" => drop(check_bytes::<PinPath>(&vector)),
            _ if name.starts_with("pin-") => {
                let pin = types::Pin::try_from(check::<Pin>(&vector)).unwrap();
                let json = serde_json::to_value(&pin).unwrap();
                assert_eq!(essence(&json), essence(&vector.decoded), "{name}");
                let again: Pin = decode(&encode(&Pin::from(&pin))).unwrap();
                assert_eq!(types::Pin::try_from(again).unwrap(), pin, "{name}");
            }
            "pininfoshort" => drop(check::<PinInfoShort>(&vector)),
            "pininfo-full" => {
                let info = check::<PinInfo>(&vector);
                let asked = info.peer.unwrap();
                let ours = info.clone().said_by(asked).unwrap();
                assert_eq!(PinInfo::from(&ours), info);
                let json = serde_json::to_value(&ours.status).unwrap();
                for (key, value) in json.as_object().unwrap() {
                    assert_eq!(*value, vector.decoded[key], "{key}");
                }
            }
            "pininfo-zero" => assert!(check_bytes::<PinInfo>(&vector).said_by(other_peer()).is_err()),
            "globalpininfo" | "globalpininfo-zero" => drop(check::<GlobalPinInfo>(&vector)),
            "ipfsid" | "ipfsid-err" => drop(check_bytes::<IpfsId>(&vector)),
            "id-zero" => assert!(types::PeerInfo::try_from(check_bytes::<Peer>(&vector)).is_err()),
            "id-full" | "id-err" => {
                let peer = check_bytes::<Peer>(&vector);
                let ours = types::PeerInfo::try_from(peer.clone()).unwrap();
                assert_eq!(serde_json::to_value(&ours).unwrap(), vector.decoded, "{name}");
                assert_eq!(Peer::from(&ours), peer);
            }
            "metric-zero" => {
                check_bytes::<Metric>(&vector);
                assert_eq!(decode_metric(&vector.bytes).unwrap_err().kind(), ErrorKind::Corrupt);
            }
            _ if name.starts_with("metric-") => {
                check::<Metric>(&vector);
                let metric = decode_metric(&vector.bytes).unwrap();
                assert_eq!(serde_json::to_value(&metric).unwrap(), vector.decoded, "{name}");
                assert_eq!(decode_metric(&[&b"\x09/msgpack\n"[..], &vector.bytes].concat()).unwrap(), metric);
                let sent = decode_metric(&encode_metric(&metric)).unwrap();
                assert_eq!(sent, types::Metric { received_at: 0, ..metric }, "{name}");
                if sent.received_at == metric_received(&vector) {
                    assert_eq!(encode_metric(&sent), vector.bytes, "{name}");
                }
            }
            "alert" => drop(check_bytes::<Alert>(&vector)),
            "connectgraph" => drop(check_bytes::<ConnectGraph>(&vector)),
            "ipfsrepostat" | "ipfsrepostat-zero" => drop(check_bytes::<RepoStat>(&vector)),
            "repogc" => {
                let gc = check_bytes::<RepoGc>(&vector);
                let ours = gc.clone().said_by(gc.peer.unwrap());
                assert_eq!(serde_json::to_value(&ours).unwrap(), vector.decoded);
                assert_eq!(RepoGc::from(&ours), gc);
            }
            "globalrepogc" => drop(check_bytes::<GlobalRepoGc>(&vector)),
            "version" => drop(check_bytes::<Version>(&vector)),
            "nodewithmeta" => drop(check_bytes::<Node>(&vector)),
            "ipfspininfo" => drop(check_bytes::<IpfsPinInfo>(&vector)),
            "bandwidth" => drop(check_bytes::<BTreeMap<String, Bandwidth>>(&vector)),
            "error" => drop(check_bytes::<ApiError>(&vector)),
            _ => panic!("nobody reads msgpack/{name}"),
        }
    }
}

fn metric_received(vector: &Vector) -> i64 {
    vector.decoded["received_at"].as_i64().unwrap()
}

fn other_peer() -> PeerId {
    PeerId::from_bytes(&[0, 1, 7]).unwrap()
}

#[test]
fn every_call_of_the_reference_is_understood_and_written_alike() {
    for vector in group("rpc-request/") {
        let objects = objects(&vector.bytes);
        let id: ServiceId = decode(objects[0]).unwrap();
        assert_eq!(format!("{}.{}", id.service, id.method), vector.name);
        let Found::Method(method) = find(&id.service, &id.method, false) else { panic!("{}", vector.name) };
        assert_eq!(encode_service(method), objects[0], "{}", vector.name);
        if method == Method::BlockStream {
            let nodes: Vec<Node> = objects[1..].iter().map(|node| decode(node).unwrap()).collect();
            assert_eq!(nodes.len(), 2);
            let read: Vec<_> = nodes.iter().map(|node| (&node.data[..], node.cumulative_size)).collect();
            assert_eq!(read, [(&b"hello"[..], 5), (b"world!", 6)]);
            for (node, bytes) in nodes.iter().zip(&objects[1..]) {
                assert_eq!(encode(node), *bytes);
            }
            continue;
        }
        let request = Request::decode(method, objects.get(1).copied()).unwrap();
        assert_eq!(request.method(), method);
        assert_eq!(request.encode_argument().as_deref(), objects.get(1).copied(), "{}", vector.name);
        assert!(objects.len() <= 2);
    }
}

#[test]
fn every_answer_of_the_reference_is_understood() {
    for vector in group("rpc-response/") {
        let name = vector.name.as_str();
        let request = hex::decode(vector.decoded["request_hex"].as_str().unwrap()).unwrap();
        let request = objects(&request);
        let id: ServiceId = decode(request[0]).unwrap();
        let found = find(&id.service, &id.method, false);
        // The methods that the capturing server made up are not the reference's.
        if let Found::Method(method) = found {
            if method == Method::BlockStream {
                let node: Node = decode(request[1]).unwrap();
                assert_eq!((&node.data[..], node.cid.is_some()), (&b"hello"[..], true));
            } else {
                assert_eq!(Request::decode(method, request.get(1).copied()).unwrap().method(), method);
            }
        }
        let objects = objects(&vector.bytes);
        assert_eq!(objects.len() % 2, 0, "{name}: headers and bodies");
        let pairs: Vec<(Response, &[u8])> =
            objects.chunks(2).map(|pair| (decode(pair[0]).unwrap(), pair[1])).collect();
        for (header, _) in &pairs {
            assert_eq!(header.service, id, "{name}");
            let again: Response = decode(&encode(header)).unwrap();
            assert_eq!(again, *header);
        }
        let errors: Vec<(&str, i64)> =
            pairs.iter().map(|(header, _)| (header.error.as_str(), header.error_type)).collect();
        match name {
            "Cluster.Version"
            | "Cluster.Version-closed"
            | "Cluster.Version-nilarg"
            | "Cluster.Version-str8"
            | "Cluster.Version-array" => {
                assert_eq!(errors, [("", 0)]);
                let version: Version = decode(pairs[0].1).unwrap();
                assert_eq!(version.version, "1.1.6");
                let ours = Reply::Version(types::Version { version: version.version });
                assert_eq!(ours.encode(Method::Version).unwrap(), pairs[0].1);
            }
            "Cluster.PeerAdd" | "Cluster.PeerAdd-bin8" => {
                assert_eq!(errors, [("", 0)]);
                let peer = types::PeerInfo::try_from(decode::<Peer>(pairs[0].1).unwrap()).unwrap();
                assert_eq!(
                    Request::decode(Method::PeerAdd, Some(request[1])).unwrap(),
                    Request::PeerAdd(peer.id)
                );
                assert_eq!((peer.version.as_str(), peer.peername.as_str()), ("1.1.6", "x"));
            }
            "Cluster.PeerRemove" => {
                assert_eq!(errors, [("", 0)]);
                assert_eq!(Reply::Empty.encode(Method::PeerRemove).unwrap(), pairs[0].1);
            }
            "Cluster.Fail" => assert_eq!((errors, pairs[0].1), (vec![("it failed", 0)], &[0x80][..])),
            "Cluster.Forbidden" => {
                let text = "client does not have permissions to call Cluster.Forbidden";
                assert_eq!((errors, pairs[0].1), (vec![(text, 3)], &[0xc0][..]));
            }
            "Cluster.Nope" => {
                assert_eq!((errors, found), (vec![("rpc: can't find method Nope", 1)], Found::NoMethod));
            }
            "Nope.X" => {
                assert_eq!((errors, found), (vec![("rpc: can't find service Nope", 1)], Found::NoService));
            }
            "Cluster.IDStream" => {
                assert_eq!(errors, [("", 0); 2]);
                let names: Vec<String> =
                    pairs.iter().map(|(_, item)| decode::<Peer>(item).unwrap().peername).collect();
                assert_eq!(names, ["a", "b"]);
            }
            "Cluster.FailStream" => {
                assert_eq!(errors, [("", 0), ("stream failed", 0)]);
                assert_eq!(pairs[1].1, Reply::encode_zero(Method::IdStream));
            }
            "PinTracker.StatusAll" => {
                assert_eq!(errors, [("", 0)]);
                let info = decode::<PinInfo>(pairs[0].1).unwrap().said_by(other_peer()).unwrap();
                assert_eq!((info.name.as_str(), info.status.status), ("n", TrackerStatus::Pinned));
            }
            "IPFSConnector.BlockStream" | "IPFSConnector.BlockStream-bin" => assert!(pairs.is_empty()),
            _ => panic!("nobody reads rpc-response/{name}"),
        }
    }
}

#[test]
fn the_snapshot_of_a_raft_peer_and_an_entry_of_its_log_are_our_dialect_too() {
    for vector in group("state/dsstate-marshal") {
        let entry: Entry = decode(&vector.bytes).unwrap();
        let cid = types::parse_cid(vector.decoded["cid"].as_str().unwrap()).unwrap();
        let key = multibase_upper(&cid);
        assert_eq!(entry.key, key);
        let pin = decode_pin_protobuf(&cid, &entry.value).unwrap();
        assert_eq!(essence(&serde_json::to_value(&pin).unwrap()), essence(&vector.decoded));
        assert_eq!(encode(&entry), vector.bytes);
    }
    // Raft itself is not spoken: this only shows that nothing else hides in its log.
    for vector in group("raft/logop-pin") {
        let operation: LogOp = decode(&vector.bytes).unwrap();
        let pin = types::Pin::try_from(operation.pin).unwrap();
        assert_eq!((operation.kind, pin.max_depth), (1, -1));
    }
}

/// RFC 4648 base32 in upper case without padding.
fn multibase_upper(cid: &Cid) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bits: Vec<u8> =
        cid.to_bytes().iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)).collect();
    let letter = |five: &[u8]| {
        let value = (0..5).fold(0, |value, bit| value << 1 | usize::from(*five.get(bit).unwrap_or(&0)));
        char::from(ALPHABET[value])
    };
    bits.chunks(5).map(letter).collect()
}

#[test]
fn what_the_references_decoder_takes_and_refuses_we_take_and_refuse() {
    const PEER: &str = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5";
    let file = file();
    let cases = file["go_msgpack_decoder_leniency"].as_array().unwrap();
    assert_eq!(cases.len(), 34);
    for case in cases {
        let (name, expected) = (case["name"].as_str().unwrap(), case["result"].as_str().unwrap());
        let bytes = hex::decode(case["hex"].as_str().unwrap()).unwrap();
        fn shown<T: Wire>(bytes: &[u8], show: impl Fn(T) -> String) -> String {
            decode(bytes).map_or_else(|_| "ERROR".to_owned(), show)
        }
        let text = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
        let ours = match name.split(" from ").next().unwrap() {
            "peer.ID" => shown(&bytes, |peer: Option<PeerId>| text(peer.map(|peer| peer.to_string()))),
            "Cid" => shown(&bytes, |cid: Option<Cid>| text(cid.map(|cid| cid.to_string()))),
            "Multiaddr" => shown(&bytes, |at: Option<Multiaddr>| text(at.map(|at| at.to_string()))),
            "string" => shown(&bytes, |value: String| value),
            "[]byte" => shown(&bytes, |value: Bytes| {
                if name.contains("ints") {
                    hex::encode(value)
                } else {
                    String::from_utf8_lossy(&value).into()
                }
            }),
            "time" => shown(&bytes, |time: Option<Timestamp>| text(time.map(|time| time.to_string()))),
            "int" => shown(&bytes, |value: i64| value.to_string()),
            "bool" => shown(&bytes, |value: bool| value.to_string()),
            "struct" => shown(&bytes, |version: Version| format!("{{Version:{}}}", version.version)),
            "struct{}" => shown(&bytes, |_: Empty| "ok".to_owned()),
            "[]peer.ID" => shown(&bytes, |list: List<PeerId>| list.0.is_none().to_string()),
            "TrackerStatus" => shown(&bytes, |value: i64| value.to_string()),
            other => panic!("nobody reads {other}"),
        };
        let expected = match expected {
            // The reference takes the text for a multihash of an unknown kind. No such peer exists: an error is better.
            _ if name == "peer.ID from base58 text in str8" => "ERROR",
            _ if expected.starts_with("ERROR") => "ERROR",
            "empty=true" | "false" | "0001-01-01 00:00:00 +0000 UTC" => "none",
            "2023-11-14 22:13:20 +0000 UTC" => "2023-11-14T22:13:20Z",
            "2023-11-14 22:13:20.123456789 +0000 UTC" => "2023-11-14T22:13:20.123456789Z",
            other => other,
        };
        assert_eq!(ours, expected, "{name}");
        assert!(!name.starts_with("peer.ID from bin8") || ours == PEER);
    }
}

// ---- Broken on purpose.

/// Every decoder that bytes of others reach, and two of types that are declared here.
fn feed_all(bytes: &[u8]) {
    for decode in [
        decoders::objects,
        decoders::headers,
        decoders::requests,
        decoders::replies,
        decoders::blocks,
        decoders::metrics,
        decoders::values,
    ] {
        decode(bytes);
    }
    let _ = (decode::<GlobalPinInfo>(bytes), decode::<ConnectGraph>(bytes));
}

#[test]
fn lengths_that_lie_and_depths_without_end_take_nothing() {
    for (case, bytes) in [
        ("4 Gi elements", vec![0xdd, 0xff, 0xff, 0xff, 0xff]),
        ("4 Gi entries", vec![0xdf, 0xff, 0xff, 0xff, 0xff, 0xa1, 0x61]),
        ("4 GiB of text", vec![0xdb, 0xff, 0xff, 0xff, 0xff, 0x61]),
        ("4 GiB of extension", vec![0xc9, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("deep arrays", vec![0x91; 1 << 20]),
        ("deep maps", [0x81, 0xa1, 0x7a].repeat(1 << 18)),
        ("many nils", [&[0xdd, 0x00, 0x10, 0x00, 0x00][..], &vec![0xc0; 1 << 20]].concat()),
    ] {
        feed_all(&bytes);
        let whole = Scan::default().advance(&bytes, 1 << 20);
        assert!(matches!(whole, Err(_) | Ok(None)), "{case}: {whole:?}");
        assert!(decode::<List<PeerId>>(&bytes).is_err() && decode::<Peer>(&bytes).is_err(), "{case}");
    }
}

#[test]
fn a_cid_or_a_peer_id_with_something_after_it_is_none() {
    let cid = types::Block::raw("x").cid;
    for (bytes, good) in
        [(cid.to_bytes(), true), ([cid.to_bytes(), vec![0]].concat(), false), (vec![], false)]
    {
        assert_eq!(decode::<Option<Cid>>(&encode(&Bytes::from(bytes))).is_ok(), good);
    }
    let peer = other_peer().to_bytes();
    for (bytes, good) in [(peer.clone(), true), ([peer, vec![0]].concat(), false), (vec![], false)] {
        assert_eq!(decode::<Option<PeerId>>(&encode(&Bytes::from(bytes))).is_ok(), good);
    }
}

#[test]
fn an_object_in_pieces_is_found_where_it_ends() {
    for vector in group("msgpack/") {
        let bytes = [&vector.bytes[..], &[0x93, 0x01]].concat();
        let mut scan = Scan::default();
        for length in 0..vector.bytes.len() {
            assert_eq!(scan.advance(&bytes[..length], 1 << 20).unwrap(), None, "{} {length}", vector.name);
        }
        assert_eq!(scan.advance(&bytes, 1 << 20).unwrap(), Some(vector.bytes.len()), "{}", vector.name);
        let bounded = Scan::default().advance(&bytes, vector.bytes.len() - 1);
        assert!(bounded.is_err(), "{}: longer than it may be", vector.name);
    }
}
