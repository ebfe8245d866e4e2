use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::config::sections::*;
use crate::config::{ClusterConfig, Secret};

fn none(_: &str) -> Option<String> {
    None
}

/// Loads a section from a JSON value and variables.
fn with<T: ConfigSection>(file: Value, variables: &[(&str, &str)]) -> Result<Loaded<T>> {
    let lookup = |name: &str| {
        variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| (*value).to_owned())
    };
    load(Some(&file).filter(|file| !file.is_null()), &lookup)
}

/// The default of a section with one change.
fn changed<T: ConfigSection>(pointer: &str, value: Value) -> Value {
    let mut section = serde_json::to_value(T::default()).unwrap();
    *section.pointer_mut(pointer).unwrap() = value;
    section
}

fn text_of<T: ConfigSection + std::fmt::Debug>(result: Result<Loaded<T>>) -> String {
    result.unwrap_err().to_string()
}

fn reads_back<T: ConfigSection + PartialEq + std::fmt::Debug>() {
    let written = serde_json::to_value(T::default()).unwrap();
    let loaded: Loaded<T> = load(Some(&written), &none).unwrap();
    assert_eq!(loaded.section, T::default(), "{}", T::PATH);
    assert!(loaded.unknown_keys.is_empty());
    let missing: Loaded<T> = load(None, &none).unwrap();
    assert_eq!(missing.section, T::default(), "{}", T::PATH);
}

#[test]
fn every_default_is_valid_and_reads_back_as_it_was_written() {
    reads_back::<ClusterConfig>();
    reads_back::<SoloSection>();
    reads_back::<RestApiSection>();
    reads_back::<IpfsHttpSection>();
    reads_back::<StatelessSection>();
    reads_back::<PubsubMonSection>();
    reads_back::<BalancedSection>();
    reads_back::<DiskSection>();
    reads_back::<PinQueueSection>();
    reads_back::<TagsSection>();
    reads_back::<NumPinSection>();
}

#[test]
fn variables_of_nested_keys_lists_maps_and_omitted_keys_are_laid_over() {
    let cluster = with::<ClusterConfig>(
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

    let rest = with::<RestApiSection>(
        json!({"http_listen_multiaddress": "/ip4/127.0.0.1/tcp/9094", "headers": {"A": ["b"]}}),
        &[("CLUSTER_RESTAPI_BASICAUTHCREDENTIALS", "a:b,c:d"), ("CLUSTER_RESTAPI_CORSALLOWEDORIGINS", "x,y")],
    )
    .unwrap()
    .section;
    let users = BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), "d".to_owned())]);
    assert_eq!(rest.basic_auth_credentials.as_ref().unwrap().0, users);
    assert!(!format!("{rest:?}").contains("\"d\""), "passwords do not show");
    assert_eq!(rest.cors_allowed_origins, ["x", "y"]);
    assert_eq!(rest.headers["A"], ["b"]);

    let tags = with::<TagsSection>(Value::Null, &[("CLUSTER_TAGS_TAGS", "group:g1,region:eu")]).unwrap();
    assert_eq!(tags.section.tags["region"], "eu");
    let balanced = with::<BalancedSection>(Value::Null, &[("CLUSTER_BALANCED_ALLOCATEBY", "freespace")]);
    assert_eq!(balanced.unwrap().section.allocate_by, ["freespace"]);
    let tracker = with::<StatelessSection>(json!({}), &[("CLUSTER_STATELESS_MAXPINQUEUESIZE", "7")]);
    assert_eq!(tracker.unwrap().section.max_pin_queue_size, 7, "a key that the default does not write");
    let solo = with::<SoloSection>(Value::Null, &[("CLUSTER_SOLO_STORAGE", "redb")]).unwrap().section;
    assert_eq!((solo.storage, solo.folder()), (StorageEngine::Redb, "redb"));
}

#[test]
fn a_nested_variable_works_where_the_file_lacks_the_object() {
    let file = json!({"listen_multiaddress": "/ip4/127.0.0.1/tcp/1"});
    let cluster =
        with::<ClusterConfig>(file, &[("CLUSTER_CONNECTIONMANAGER_LOWWATER", "5")]).unwrap().section;
    assert_eq!((cluster.connection_manager.low_water, cluster.connection_manager.high_water), (5, 400));
}

#[test]
fn an_empty_variable_empties_lists_and_the_secret_and_leaves_text_alone() {
    let mut file = changed::<ClusterConfig>("/secret", json!("1".repeat(64)));
    file["peer_addresses"] = json!(["/ip4/10.0.0.1/tcp/9096"]);
    file["peername"] = json!("mine");
    file["dial_peer_timeout"] = json!("9s");
    let empty = ["SECRET", "PEERADDRESSES", "PEERNAME", "DIALPEERTIMEOUT", "PEERSTOREFILE"];
    let names: Vec<String> = empty.iter().map(|name| format!("CLUSTER_{name}")).collect();
    let variables: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
    let cluster = with::<ClusterConfig>(file, &variables).unwrap().section;
    assert!(!cluster.secret.is_set() && cluster.peer_addresses.is_empty());
    assert_eq!((cluster.peername.as_str(), cluster.dial_peer_timeout), ("mine", Duration::from_secs(9)));

    let number = with::<ClusterConfig>(Value::Null, &[("CLUSTER_CONNECTIONMANAGER_HIGHWATER", "")]);
    assert!(text_of(number).contains("\"\" is not a whole number"));
}

#[test]
fn missing_null_and_empty_values_take_what_the_reference_takes() {
    let cluster = with::<ClusterConfig>(
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
    let default = ClusterConfig::default();
    assert!(!cluster.enable_relay_hop && !cluster.disable_repinning, "a missing boolean is false");
    assert_eq!(cluster.dial_peer_timeout, default.dial_peer_timeout);
    assert_eq!(cluster.state_sync_interval, default.state_sync_interval);
    assert_eq!(cluster.connection_manager, default.connection_manager);
    assert_eq!(cluster.replication_factor_min, -1);
    assert_eq!(cluster.peername, default.peername);

    let rest = with::<RestApiSection>(json!({"max_header_bytes": 0, "http_listen_multiaddress": []}), &[]);
    let rest = rest.unwrap().section;
    assert_eq!(rest.max_header_bytes, 4096);
    assert_eq!(rest.http_listen_multiaddress, RestApiSection::default().http_listen_multiaddress);
    assert!(rest.cors_allowed_origins.is_empty() && !rest.cors_allow_credentials);
    assert_eq!(rest.idle_timeout, Duration::from_secs(120));

    let zeros = json!({"max_pin_queue_size": 0, "concurrent_pins": 0, "priority_pin_max_retries": 0});
    assert_eq!(with::<StatelessSection>(zeros, &[]).unwrap().section, StatelessSection::default());
    assert!(with::<TagsSection>(json!({}), &[]).unwrap().section.tags.is_empty());
    assert_eq!(with::<PinQueueSection>(json!({}), &[]).unwrap().section.weight_bucket_size, 0);
    assert_eq!(
        with::<BalancedSection>(json!({"allocate_by": []}), &[]).unwrap().section.allocate_by.len(),
        2
    );
}

#[test]
fn a_wrong_value_names_its_key_and_its_variable() {
    let file = |pointer, value| text_of(with::<ClusterConfig>(changed::<ClusterConfig>(pointer, value), &[]));
    let variable = |name, value| text_of(with::<ClusterConfig>(Value::Null, &[(name, value)]));
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
        (text_of(with::<ClusterConfig>(json!("x"), &[])), ["error parsing cluster: ", "string \"x\""]),
        (
            text_of(with::<TagsSection>(Value::Null, &[("CLUSTER_TAGS_TAGS", "foo")])),
            ["error parsing informer.tags.tags: invalid map item 1", "(from CLUSTER_TAGS_TAGS)"],
        ),
        (
            text_of(with::<DiskSection>(json!({"metric_type": "x"}), &[])),
            ["disk.metric_type is invalid", "freespace or reposize"],
        ),
        (
            text_of(with::<SoloSection>(json!({"storage": "x"}), &[])),
            ["consensus.solo.storage: ", "expected `fjall` or `redb`"],
        ),
        (
            text_of(with::<IpfsHttpSection>(json!({"node_multiaddress": "x"}), &[])),
            ["ipfs_connector.ipfshttp.node_multiaddress: ", "\"x\": must begin with /"],
        ),
    ] {
        for part in parts {
            assert!(found.contains(part), "{part} is not in: {found}");
        }
    }
}

#[test]
fn credentials_stay_out_of_errors() {
    let found = with::<RestApiSection>(
        Value::Null,
        &[("CLUSTER_RESTAPI_BASICAUTHCREDENTIALS", "u:p,root:hunter2:x")],
    );
    let found = text_of(found);
    assert!(found.contains("invalid map item 2") && !found.contains("hunter2"), "{found}");
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
        assert_eq!(text_of(with::<ClusterConfig>(Value::Null, &[("CLUSTER_SECRET", secret)])), text);
        let file = changed::<ClusterConfig>("/secret", json!(secret));
        assert_eq!(text_of(with::<ClusterConfig>(file, &[])), text);
    }
}

#[test]
fn every_validation_has_the_text_of_the_reference() {
    let cluster =
        |pointer, value| text_of(with::<ClusterConfig>(changed::<ClusterConfig>(pointer, value), &[]));
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
    let mut both = changed::<ClusterConfig>("/pin_only_on_trusted_peers", json!(true));
    both["pin_only_on_untrusted_peers"] = json!(true);
    assert_eq!(
        text_of(with::<ClusterConfig>(both, &[])),
        "cluster.pin_only_on_trusted_peers and pin_only_on_untrusted_peers cannot both be true"
    );

    for (found, text) in [
        (
            text_of(with::<RestApiSection>(json!({"max_header_bytes": 10}), &[])),
            "restapi.max_header_bytes must be not less then 4096",
        ),
        (
            text_of(with::<RestApiSection>(json!({"basic_auth_credentials": {}}), &[])),
            "restapi.basic_auth_creds should be null or have at least one entry",
        ),
        (
            text_of(with::<RestApiSection>(json!({"ssl_cert_file": "x"}), &[])),
            "restapi: missing TLS configuration",
        ),
        (
            text_of(with::<RestApiSection>(json!({"id": "x"}), &[])),
            "all ID, private_key and libp2p_listen_multiaddress should be set",
        ),
        (text_of(with::<IpfsHttpSection>(json!({}), &[])), "ipfshttp.node_multiaddress not set"),
        (
            text_of(with::<IpfsHttpSection>(
                changed::<IpfsHttpSection>("/informer_trigger_interval", json!(-1)),
                &[],
            )),
            "ipfshttp.informer_trigger_interval is invalid",
        ),
        (
            text_of(with::<StatelessSection>(json!({"max_pin_queue_size": -1}), &[])),
            "statelesstracker.max_pin_queue_size too low",
        ),
        (
            text_of(with::<StatelessSection>(json!({"concurrent_pins": -1}), &[])),
            "statelesstracker.concurrent_pins is too low",
        ),
        (
            text_of(with::<StatelessSection>(json!({"priority_pin_max_age": "0s"}), &[])),
            "statelesstracker.priority_pin_max_age is too low",
        ),
        (
            text_of(with::<StatelessSection>(json!({"priority_pin_max_retries": -1}), &[])),
            "statelesstracker.priority_pin_max_retries is too low",
        ),
        (
            text_of(with::<PubsubMonSection>(json!({"check_interval": "0s"}), &[])),
            "pubsubmon.check_interval too low",
        ),
        (text_of(with::<DiskSection>(json!({"metric_ttl": "0s"}), &[])), "disk.metric_ttl is invalid"),
        (
            text_of(with::<PinQueueSection>(json!({"metric_ttl": "0s"}), &[])),
            "pinqueue.metric_ttl is invalid",
        ),
        (
            text_of(with::<PinQueueSection>(json!({"weight_bucket_size": -1}), &[])),
            "pinqueue.WeightBucketSize is invalid",
        ),
        (text_of(with::<TagsSection>(json!({"metric_ttl": "0s"}), &[])), "tags.metric_ttl is invalid"),
        (text_of(with::<NumPinSection>(json!({"metric_ttl": "0s"}), &[])), "disk.metric_ttl is invalid"),
        (
            text_of(with::<SoloSection>(json!({"max_batch_operations": 0}), &[])),
            "solo.max_batch_operations is invalid",
        ),
    ] {
        assert_eq!(found, text);
    }
}

#[test]
fn unknown_keys_are_named_with_their_full_path_and_old_ones_are_not() {
    let mut file = changed::<ClusterConfig>("/leave_on_shutdown", json!(true));
    file["peer_name"] = json!("x");
    file["connection_manager"]["high_watre"] = json!(1);
    file["replication_factor"] = json!(1);
    file["bootstrap"] = json!([]);
    file["id"] = json!("x");
    let mut unknown = with::<ClusterConfig>(file, &[]).unwrap().unknown_keys;
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
