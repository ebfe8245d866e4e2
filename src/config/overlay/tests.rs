use std::time::Duration;

use serde_json::json;

use super::*;
use crate::config::testing::{assert_default_reads_back, changed, refusal, text_of, with};
use crate::config::{ClusterSection, Secret, SoloSection, StorageEngine};

#[test]
fn every_default_is_valid_and_reads_back_as_it_was_written() {
    assert_default_reads_back::<ClusterSection>();
    assert_default_reads_back::<SoloSection>();
}

#[test]
fn variables_of_nested_keys_lists_and_omitted_keys_are_laid_over() {
    let cluster = with::<ClusterSection>(
        Value::Null,
        &[
            ("CLUSTER_PEERNAME", "envname"),
            ("CLUSTER_SECRET", &"1".repeat(64)),
            ("CLUSTER_LEAVEONSHUTDOWN", "T"),
            ("CLUSTER_LISTENMULTIADDRESS", "/ip4/127.0.0.1/tcp/1, /ip4/127.0.0.1/tcp/2"),
            ("CLUSTER_CONNECTIONMANAGER_HIGHWATER", "177"),
            ("CLUSTER_PUBSUB_HEARTBEATINTERVAL", "3s"),
            ("CLUSTER_REPLICATIONFACTORMIN", "2"),
            ("CLUSTER_REPLICATIONFACTORMAX", "0x3"),
            ("CLUSTER_FOLLOWERMODE", "true"),
            ("CLUSTER_PEERSTOREFILE", "peers.txt"),
            ("CLUSTER_PEERADDRESSES", "/ip4/10.0.0.1/tcp/9096"),
            ("CLUSTER_IPFSSYNCINTERVAL", "0"),
        ],
    )
    .unwrap()
    .section;
    assert_eq!(cluster.peername, "envname");
    assert_eq!(cluster.secret, Secret::from_bytes([0x11; 32]));
    assert!(cluster.leave_on_shutdown && cluster.follower_mode);
    assert_eq!(cluster.listen_multiaddress.len(), 2);
    assert_eq!(cluster.connection_manager.high_water, 177);
    assert_eq!(cluster.connection_manager.low_water, 100, "its neighbours keep their values");
    assert_eq!(cluster.pubsub.heartbeat_interval, Duration::from_secs(3));
    assert_eq!(cluster.pubsub.d_factor, 4);
    assert_eq!((cluster.replication_factor_min, cluster.replication_factor_max), (2, 3));
    assert_eq!(cluster.peerstore_path("/x".as_ref()), std::path::Path::new("/x/peers.txt"));
    assert_eq!(cluster.peer_addresses.len(), 1);
    assert!(cluster.ipfs_sync_interval.is_zero());

    let solo = with::<SoloSection>(Value::Null, &[("CLUSTER_SOLO_STORAGE", "redb")]).unwrap().section;
    assert_eq!((solo.storage, solo.folder()), (StorageEngine::Redb, "redb"));
}

#[test]
fn a_nested_variable_works_where_the_file_lacks_the_object() {
    let file = json!({"listen_multiaddress": "/ip4/127.0.0.1/tcp/1"});
    let cluster =
        with::<ClusterSection>(file, &[("CLUSTER_CONNECTIONMANAGER_LOWWATER", "5")]).unwrap().section;
    assert_eq!((cluster.connection_manager.low_water, cluster.connection_manager.high_water), (5, 400));
}

#[test]
fn an_empty_variable_empties_lists_and_the_secret_and_leaves_text_alone() {
    let mut file = changed::<ClusterSection>("/secret", json!("1".repeat(64)));
    file["peer_addresses"] = json!(["/ip4/10.0.0.1/tcp/9096"]);
    file["peername"] = json!("mine");
    file["dial_peer_timeout"] = json!("9s");
    let empty = ["SECRET", "PEERADDRESSES", "PEERNAME", "DIALPEERTIMEOUT", "PEERSTOREFILE"];
    let names: Vec<String> = empty.iter().map(|name| format!("CLUSTER_{name}")).collect();
    let variables: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let cluster = with::<ClusterSection>(file, &variables).unwrap().section;
    assert!(!cluster.secret.is_set() && cluster.peer_addresses.is_empty());
    assert_eq!((cluster.peername.as_str(), cluster.dial_peer_timeout), ("mine", Duration::from_secs(9)));

    let number = with::<ClusterSection>(Value::Null, &[("CLUSTER_CONNECTIONMANAGER_HIGHWATER", "")]);
    assert!(text_of(number).contains("\"\" is not a whole number"));
}

#[test]
fn missing_null_and_empty_values_take_what_the_reference_takes() {
    let cluster = with::<ClusterSection>(
        json!({
            "listen_multiaddress": "/ip4/127.0.0.1/tcp/1",
            "dial_peer_timeout": "",
            "state_sync_interval": null,
            "connection_manager": null,
            "replication_factor_min": 0,
        }),
        &[],
    )
    .unwrap()
    .section;
    let default = ClusterSection::default();
    assert!(!cluster.enable_relay_hop && !cluster.disable_repinning, "a missing boolean is false");
    assert_eq!(cluster.dial_peer_timeout, default.dial_peer_timeout);
    assert_eq!(cluster.state_sync_interval, default.state_sync_interval);
    assert_eq!(cluster.connection_manager, default.connection_manager);
    assert_eq!(cluster.replication_factor_min, -1);
    assert_eq!(cluster.peername, default.peername);
}

#[test]
fn a_wrong_value_names_its_key_and_its_variable() {
    let file = |pointer, value| refusal::<ClusterSection>(changed::<ClusterSection>(pointer, value));
    let variable = |name, value| text_of(with::<ClusterSection>(Value::Null, &[(name, value)]));
    for (found, parts) in [
        (
            file("/dial_peer_timeout", json!("soon")),
            ["error parsing cluster.dial_peer_timeout: ", "\"soon\""],
        ),
        (file("/dial_peer_timeout", json!(5)), ["cluster.dial_peer_timeout: ", "integer `5`"]),
        (
            file("/connection_manager/high_water", json!("many")),
            ["cluster.connection_manager.high_water: ", "string \"many\""],
        ),
        (file("/leave_on_shutdown", json!("yes")), ["cluster.leave_on_shutdown: ", "\"yes\""]),
        (
            file("/replication_factor_min", json!(1u64 << 40)),
            ["cluster.replication_factor_min: ", "1099511627776"],
        ),
        (file("/pubsub", json!(1)), ["cluster.pubsub: ", "integer `1`"]),
        (
            file("/listen_multiaddress", json!(["foo"])),
            ["cluster.listen_multiaddress: ", "failed to parse multiaddr \"foo\": must begin with /"],
        ),
        (file("/peer_addresses", json!(["foo"])), ["cluster.peer_addresses: ", "\"foo\""]),
        (
            variable("CLUSTER_CONNECTIONMANAGER_HIGHWATER", "abc"),
            ["cluster.connection_manager.high_water: \"abc\"", "(from CLUSTER_CONNECTIONMANAGER_HIGHWATER)"],
        ),
        (
            variable("CLUSTER_LEAVEONSHUTDOWN", "maybe"),
            ["cluster.leave_on_shutdown: \"maybe\"", "(from CLUSTER_LEAVEONSHUTDOWN)"],
        ),
        (
            variable("CLUSTER_STATESYNCINTERVAL", "maybe"),
            ["error parsing cluster.state_sync_interval: time: invalid duration \"maybe\"", "(from CLUSTER_"],
        ),
        (
            variable("CLUSTER_LISTENMULTIADDRESS", "foo"),
            ["\"foo\": must begin with /", "(from CLUSTER_LISTEN"],
        ),
        (variable("CLUSTER_RESOURCEMANAGER_MEMORYLIMITBYTES", "-1"), ["memory_limit_bytes: ", "`-1`"]),
        (refusal::<ClusterSection>(json!("x")), ["error parsing cluster: ", "string \"x\""]),
        (
            refusal::<SoloSection>(json!({"storage": "x"})),
            ["consensus.solo.storage: ", "expected `fjall` or `redb`"],
        ),
    ] {
        for part in parts {
            assert!(found.contains(part), "{part} is not in: {found}");
        }
    }
}

#[test]
fn a_wrong_secret_has_exactly_the_text_of_the_reference() {
    for (secret, text) in [
        ("zz", "error loading cluster secret from config: encoding/hex: invalid byte: U+007A 'z'"),
        (
            "abcd",
            "error loading cluster secret from config: input secret is 2 bytes, cluster secret should be 32",
        ),
    ] {
        assert_eq!(text_of(with::<ClusterSection>(Value::Null, &[("CLUSTER_SECRET", secret)])), text);
        let file = changed::<ClusterSection>("/secret", json!(secret));
        assert_eq!(refusal::<ClusterSection>(file), text);
    }
}

#[test]
fn every_validation_has_the_text_of_the_reference() {
    let cluster = |pointer, value| refusal::<ClusterSection>(changed::<ClusterSection>(pointer, value));
    for (pointer, value, text) in [
        ("/listen_multiaddress", json!([]), "cluster.listen_multiaddress is empty"),
        ("/connection_manager/low_water", json!(0), "cluster.connection_manager.low_water is invalid"),
        ("/connection_manager", json!({}), "cluster.connection_manager.low_water is invalid"),
        ("/connection_manager/high_water", json!(-1), "cluster.connection_manager.high_water is invalid"),
        (
            "/connection_manager/low_water",
            json!(500),
            "cluster.connection_manager.low_water is greater than high_water",
        ),
        (
            "/connection_manager/grace_period",
            json!("0s"),
            "cluster.connection_manager.grace_period is invalid",
        ),
        (
            "/connection_manager",
            json!({"low_water": 1, "high_water": 2}),
            "cluster.connection_manager.grace_period is invalid",
        ),
        ("/pubsub/seen_messages_ttl", json!("0s"), "cluster.pubsub.seen_message_ttl is invalid"),
        ("/pubsub/heartbeat_interval", json!("0s"), "cluster.pubsub.heartbeat_interval is invalid"),
        ("/pubsub/d_factor", json!(0), "cluster.pubsub.d_factor is invalid"),
        ("/pubsub", json!({}), "cluster.pubsub.d_factor is invalid"),
        ("/pubsub/history_gossip", json!(0), "cluster.pubsub.history_gossip is invalid"),
        ("/pubsub/history_length", json!(0), "cluster.pubsub.history_length is invalid"),
        ("/dial_peer_timeout", json!("0s"), "cluster.dial_peer_timeout is invalid"),
        ("/state_sync_interval", json!("0s"), "cluster.state_sync_interval is invalid"),
        ("/pin_recover_interval", json!("0s"), "cluster.pin_recover_interval is invalid"),
        ("/monitor_ping_interval", json!("0s"), "cluster.monitoring_interval is invalid"),
        ("/peer_watch_interval", json!("0s"), "cluster.peer_watch_interval is invalid"),
        ("/replication_factor_min", json!(5), "cluster.replication_factor_min is larger than max"),
        ("/replication_factor_min", json!(-2), "cluster.replication_factor_min is wrong"),
        (
            "/replication_factor_max",
            json!(3),
            "cluster.replication_factor_min and max must be -1 when one of them is",
        ),
    ] {
        assert_eq!(cluster(pointer, value.clone()), text, "{pointer} {value}");
    }
    let mut both = changed::<ClusterSection>("/pin_only_on_trusted_peers", json!(true));
    both["pin_only_on_untrusted_peers"] = json!(true);
    assert_eq!(
        refusal::<ClusterSection>(both),
        "cluster.pin_only_on_trusted_peers and pin_only_on_untrusted_peers cannot both be true"
    );

    for number in [0, -1] {
        assert_eq!(
            refusal::<SoloSection>(json!({"max_batch_operations": number})),
            "solo.max_batch_operations is invalid"
        );
    }
}

#[test]
fn unknown_keys_are_named_with_their_full_path_and_old_ones_are_not() {
    let mut file = changed::<ClusterSection>("/leave_on_shutdown", json!(true));
    file["peer_name"] = json!("x");
    file["connection_manager"]["high_watre"] = json!(1);
    file["replication_factor"] = json!(1);
    file["bootstrap"] = json!([]);
    file["id"] = json!("x");
    let mut unknown = with::<ClusterSection>(file, &[]).unwrap().unknown_keys;
    unknown.sort();
    assert_eq!(unknown, ["cluster.connection_manager.high_watre", "cluster.peer_name"]);
}

#[test]
fn integers_are_read_as_in_go() {
    for (text, number) in [
        ("12", Some(12)),
        ("-12", Some(-12)),
        ("+7", Some(7)),
        ("0x1F", Some(31)),
        ("0o17", Some(15)),
        ("017", Some(15)),
        ("0b101", Some(5)),
        ("0", Some(0)),
        ("", None),
        ("-", None),
        ("--1", None),
        ("0x-1", None),
        ("08", None),
        ("1.5", None),
        (" 1", None),
    ] {
        assert_eq!(parse_integer(text), number, "{text}");
    }
}
