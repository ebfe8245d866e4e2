use proptest::prelude::*;

use super::*;
use crate::types::{Added, Block, Cid, PinMode, PinOptions, PinStatus, PinType, Timestamp, TrackerStatus};

fn cids() -> impl Strategy<Value = Cid> {
    (any::<[u8; 4]>(), any::<bool>()).prop_map(|(data, old)| {
        let cid = Block::raw(data.to_vec()).cid;
        if old { Cid::new_v0(*cid.hash()).unwrap() } else { cid }
    })
}

fn peer_ids() -> impl Strategy<Value = PeerId> {
    any::<[u8; 32]>().prop_map(|seed| {
        let key = libp2p_identity::Keypair::ed25519_from_bytes(seed).unwrap();
        key.public().to_peer_id()
    })
}

fn times() -> impl Strategy<Value = Option<Timestamp>> {
    proptest::option::of(any::<i64>().prop_map(Timestamp::from_unix_nanoseconds))
}

fn origins() -> impl Strategy<Value = Vec<Multiaddr>> {
    let address = (any::<[u8; 4]>(), any::<u16>(), peer_ids()).prop_map(|([a, b, c, d], port, peer)| {
        format!("/ip4/{a}.{b}.{c}.{d}/tcp/{port}/p2p/{peer}").parse().unwrap()
    });
    proptest::collection::vec(address, 0..2)
}

fn pairs() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map(any::<String>(), any::<String>(), 0..4)
}

fn pins() -> impl Strategy<Value = Pin> {
    let options = (
        any::<(i32, i32, String, bool, u64)>(),
        proptest::collection::vec(peer_ids(), 0..3),
        times(),
        pairs(),
        proptest::option::of(cids()),
        origins(),
    )
        .prop_map(
            |((min, max, name, direct, shard_size), user, expire_at, metadata, pin_update, origins)| {
                PinOptions {
                    replication_factor_min: min,
                    replication_factor_max: max,
                    name,
                    mode: if direct { PinMode::Direct } else { PinMode::Recursive },
                    shard_size,
                    user_allocations: user,
                    expire_at,
                    metadata,
                    pin_update,
                    origins,
                }
            },
        );
    let rest = (
        cids(),
        proptest::sample::select(PinType::ALL.to_vec()),
        proptest::collection::vec(peer_ids(), 0..4),
        any::<i32>(),
        proptest::option::of(cids()),
        times(),
    );
    (options, rest).prop_map(|(options, (cid, pin_type, allocations, max_depth, reference, timestamp))| Pin {
        cid,
        pin_type,
        allocations,
        max_depth,
        reference,
        timestamp,
        options,
    })
}

fn statuses() -> impl Strategy<Value = PinStatus> {
    (
        any::<(String, String, u32, bool)>(),
        proptest::option::of(peer_ids()),
        origins(),
        proptest::sample::select(TrackerStatus::ALL.to_vec()),
        times(),
    )
        .prop_map(
            |((peername, error, attempt_count, priority_pin), daemon, addresses, status, timestamp)| {
                PinStatus {
                    peername,
                    ipfs_peer_id: daemon,
                    ipfs_peer_addresses: addresses,
                    status,
                    timestamp,
                    error,
                    attempt_count,
                    priority_pin,
                }
            },
        )
}

fn infos() -> impl Strategy<Value = GlobalPinInfo> {
    (pins(), proptest::collection::btree_map(peer_ids(), statuses(), 0..3)).prop_map(|(pin, peer_map)| {
        GlobalPinInfo {
            cid: pin.cid,
            name: pin.options.name,
            allocations: pin.allocations,
            origins: pin.options.origins,
            created: pin.timestamp,
            metadata: pin.options.metadata,
            peer_map,
        }
    })
}

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

fn by_serde(value: &impl serde::Serialize) -> String {
    written(|out| super::value(out, value).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_pin_is_written_as_serde_writes_it(value in pins()) {
        prop_assert_eq!(written(|out| value.write(out)), by_serde(&value));
    }

    #[test]
    fn a_status_is_written_as_serde_writes_it(value in infos()) {
        prop_assert_eq!(written(|out| value.write(out)), by_serde(&value));
    }

    #[test]
    fn a_line_about_what_was_added_is_written_as_serde_writes_it(
        name: String,
        cid in proptest::option::of(cids()),
        bytes in prop_oneof![Just(0), any::<u64>()],
        size in prop_oneof![Just(0), any::<u64>()],
        allocations in proptest::collection::vec(peer_ids(), 0..3),
    ) {
        let value = Added { name, cid, bytes, size, allocations };
        prop_assert_eq!(written(|out| value.write(out)), by_serde(&value));
    }

    #[test]
    fn a_text_is_written_as_serde_writes_it(value: String) {
        prop_assert_eq!(written(|out| string(out, &value)), by_serde(&value));
    }

    #[test]
    fn a_number_is_written_as_serde_writes_it(value: i64) {
        prop_assert_eq!(written(|out| text::signed(out, value)), value.to_string());
        prop_assert_eq!(written(|out| text::unsigned(out, value as u64)), (value as u64).to_string());
    }
}

#[test]
fn what_html_and_scripts_mind_is_escaped_as_in_the_reference() {
    let text = "<a&b>\u{2028}\u{2029}\u{202a}\u{e2}";
    assert_eq!(by_serde(&text), "\"\\u003ca\\u0026b\\u003e\\u2028\\u2029\u{202a}\u{e2}\"");
    assert_eq!(written(|out| string(out, text)), by_serde(&text));
    assert_eq!(serde_json::from_str::<String>(&by_serde(&text)).unwrap(), text);
}

#[test]
fn every_ascii_character_is_escaped_as_serde_escapes_it() {
    let all: String = (0..128u8).map(char::from).collect();
    assert_eq!(written(|out| string(out, &all)), by_serde(&all));
}

#[test]
fn a_submitted_pin_differs_from_a_stored_one_in_what_is_empty() {
    let cid = "QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o".parse().unwrap();
    let value = Pin::new(cid, PinOptions::default());
    let stored = written(|out| pin(out, &value, Shape::Stored));
    let submitted = written(|out| pin(out, &value, Shape::Submitted));
    assert!(stored.contains(r#""metadata":null,"pin_update":null,"origins":[]"#), "{stored}");
    assert!(submitted.contains(r#""metadata":{},"pin_update":null,"origins":null"#), "{submitted}");
}

#[test]
fn what_the_reference_wrote_is_written_the_same_to_the_byte() {
    let submitted = r#"{"replication_factor_min":-1,"replication_factor_max":-1,"name":"","mode":"recursive","shard_size":0,"user_allocations":null,"expire_at":"0001-01-01T00:00:00Z","metadata":{},"pin_update":null,"origins":["/ip4/127.0.0.1/tcp/22013/p2p/12D3KooWFCexTNU4tpCXwRE7ounDXzhomCVk8UxZGi7L2fSgrcgE"],"cid":"QmaQfHEbjsLeCCSu6FFGXixBBatHuPBipt5EURwSHz9X8z","type":"pin","allocations":[],"max_depth":-1,"reference":null,"timestamp":"2026-11-20T23:16:36.714498433Z"}"#;
    let stored = r#"{"replication_factor_min":-1,"replication_factor_max":-1,"name":"first","mode":"recursive","shard_size":0,"user_allocations":null,"expire_at":"2026-11-21T23:16:36Z","metadata":{"kind":"text","owner":"me"},"pin_update":null,"origins":[],"cid":"QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o","type":"pin","allocations":[],"max_depth":-1,"reference":null,"timestamp":"2026-11-20T23:16:36Z"}"#;
    let status = r#"{"cid":"QmejyuFQTELqErBgDU7kLi7JVoWM5VifDRs1RPw3ajDSQz","name":"two words","allocations":["12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK"],"origins":[],"created":"2026-11-20T23:16:36Z","metadata":null,"peer_map":{"12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK":{"peername":"peerA","ipfs_peer_id":"12D3KooWFCexTNU4tpCXwRE7ounDXzhomCVk8UxZGi7L2fSgrcgE","status":"pinned","timestamp":"2026-11-20T23:16:36Z","error":"","attempt_count":0,"priority_pin":false}}}"#;
    let read: Pin = serde_json::from_str(submitted).unwrap();
    assert_eq!(written(|out| pin(out, &read, Shape::Submitted)), submitted);
    let read: Pin = serde_json::from_str(stored).unwrap();
    assert_eq!(written(|out| pin(out, &read, Shape::Stored)), stored);
    let read: GlobalPinInfo = serde_json::from_str(status).unwrap();
    assert_eq!(written(|out| global_pin_info(out, &read)), status);
}
