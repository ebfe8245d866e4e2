use proptest::prelude::*;

use super::*;
use crate::types::{Block, Cid, PinMode, PinOptions, PinStatus, PinType, Timestamp, TrackerStatus};

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_pin_is_written_as_serde_writes_it(value in pins()) {
        prop_assert_eq!(written(|out| value.write(out)), serde_json::to_string(&value).unwrap());
    }

    #[test]
    fn a_status_is_written_as_serde_writes_it(value in infos()) {
        prop_assert_eq!(written(|out| value.write(out)), serde_json::to_string(&value).unwrap());
    }

    #[test]
    fn a_text_is_written_as_serde_writes_it(value: String) {
        prop_assert_eq!(written(|out| string(out, &value)), serde_json::to_string(&value).unwrap());
    }

    #[test]
    fn a_number_is_written_as_serde_writes_it(value: i64) {
        prop_assert_eq!(written(|out| text::signed(out, value)), value.to_string());
        prop_assert_eq!(written(|out| text::unsigned(out, value as u64)), (value as u64).to_string());
    }
}

#[test]
fn every_ascii_character_is_escaped_as_serde_escapes_it() {
    let all: String = (0..128u8).map(char::from).collect();
    assert_eq!(written(|out| string(out, &all)), serde_json::to_string(&all).unwrap());
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
