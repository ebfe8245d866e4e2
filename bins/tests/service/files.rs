//! Files that Go ipfs-cluster 1.1.6 wrote.

use ipfs_cluster::allocator::BalancedConfig;
use ipfs_cluster::api::rest::RestApiSection;
use ipfs_cluster::config::{ClusterSection, ConfigSection, ServiceJson};
use ipfs_cluster::consensus::{CrdtSection, RaftSection};
use ipfs_cluster::informer::{FreeSpaceConfig, PinQueueConfig, TagsConfig};
use ipfs_cluster::ipfs_connector::KuboConfig;
use ipfs_cluster::monitor::MonitorConfig;
use ipfs_cluster::tracker::StatelessConfig;

use super::*;

/// What `init` of Go writes, by its flags.
const GO_FILES: [(&str, &str); 6] = [
    ("crdt-pebble", include_str!("../data/service/go-crdt-pebble.json")),
    ("crdt-badger", include_str!("../data/service/go-crdt-badger.json")),
    ("crdt-badger3", include_str!("../data/service/go-crdt-badger3.json")),
    ("crdt-leveldb", include_str!("../data/service/go-crdt-leveldb.json")),
    ("crdt-randomports", include_str!("../data/service/go-crdt-randomports.json")),
    ("raft", include_str!("../data/service/go-raft.json")),
];

/// Reads a section and puts it back; nothing in it may be unknown.
fn rewrite<T: ConfigSection>(file: &mut ServiceJson) {
    let loaded = file.read::<T>(&|_| None).unwrap();
    assert!(loaded.unknown_keys.is_empty(), "{:?}", loaded.unknown_keys);
    file.write(&loaded.section).unwrap();
}

#[test]
fn every_file_of_the_reference_is_saved_as_it_was_also_section_by_section() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service.json");
    for (name, text) in GO_FILES {
        fs::write(&path, text).unwrap();
        let mut file = ServiceJson::load(&path).unwrap();
        file.save(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "{name}");

        rewrite::<ClusterSection>(&mut file);
        if name == "raft" {
            rewrite::<RaftSection>(&mut file);
        } else {
            rewrite::<CrdtSection>(&mut file);
        }
        rewrite::<RestApiSection>(&mut file);
        rewrite::<KuboConfig>(&mut file);
        rewrite::<StatelessConfig>(&mut file);
        rewrite::<MonitorConfig>(&mut file);
        rewrite::<BalancedConfig>(&mut file);
        rewrite::<FreeSpaceConfig>(&mut file);
        rewrite::<PinQueueConfig>(&mut file);
        rewrite::<TagsConfig>(&mut file);
        assert_eq!(file.to_text().unwrap(), text, "{name}");
    }
}

#[test]
fn every_file_of_the_reference_is_loaded_and_what_is_not_served_is_named_once() {
    for (name, text) in GO_FILES {
        let home = Home::initialized();
        fs::write(home.path("service.json"), text).unwrap();
        let ran = home.run(&["state", "export"]);
        assert_eq!(home.read("service.json"), text, "{name}");
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{name}: {}", ran.stderr);
        let file: Value = serde_json::from_str(text).unwrap();
        for (section, key) in
            [("ipfsproxy", "listen_multiaddress"), ("pinsvcapi", "http_listen_multiaddress")]
        {
            let port = file["api"][section][key].as_str().unwrap();
            let said =
                format!("api.{section} is kept but not served by this version: nothing listens on {port}");
            assert_eq!(ran.stderr.matches(&said).count(), 1, "{name}: {}", ran.stderr);
        }
        assert_eq!(ran.stderr.matches("\tWARN\t").count(), 2, "{name}: {}", ran.stderr);
    }
}

#[test]
fn our_init_writes_the_same_file_without_what_it_does_not_serve() {
    let variables = [("CLUSTER_PEERNAME", "peer1"), ("CLUSTER_SECRET", &"0".repeat(64))];
    for (name, text) in GO_FILES.iter().filter(|(name, _)| !matches!(*name, "raft" | "crdt-randomports")) {
        let store = name.strip_prefix("crdt-").unwrap();
        let home = Home::new();
        let ran = home.run_with(&["init", "--consensus", "crdt", "--datastore", store], &variables, "");
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.stderr.contains(&format!("datastore.{store} is for a Go peer")), "{}", ran.stderr);
        let mut ours = ServiceJson::parse(&home.read("service.json")).unwrap();
        let mut theirs: Vec<&str> = text.lines().collect();
        // Whole sections, from the line that opens one to the line that closes it.
        for (opens, closes) in [
            ("    \"ipfsproxy\": {", "    },"),
            ("    \"pinsvcapi\": {", "    },"),
            ("  \"observations\": {", "  },"),
        ] {
            let from = theirs.iter().position(|line| *line == opens).unwrap();
            let to = from + theirs[from..].iter().position(|line| *line == closes).unwrap();
            theirs.drain(from..=to);
        }
        assert_eq!(ours.section("api.restapi").unwrap().unwrap()["security"], "strict");
        ours.write(&RestApiSection::default()).unwrap();
        assert_eq!(ours.to_text().unwrap(), theirs.join("\n"), "{name}");
    }
}

#[test]
fn bad_values_are_errors_also_in_sections_that_are_not_served() {
    for (pointer, value, text) in [
        ("/cluster/replication_factor_min", json!("x"), "error parsing cluster.replication_factor_min"),
        ("/cluster/connection_manager/low_water", json!(1000), "low_water is greater than high_water"),
        ("/cluster/listen_multiaddress", json!(["x"]), "error parsing cluster.listen_multiaddress"),
        ("/cluster/secret", json!("abcd"), "input secret is 2 bytes, cluster secret should be 32"),
        ("/api/restapi/max_header_bytes", json!(1), "restapi.max_header_bytes must be not less then 4096"),
        ("/api/ipfsproxy/idle_timeout", json!("soon"), "error parsing api.ipfsproxy.idle_timeout"),
        ("/api/pinsvcapi/cors_max_age", json!(3), "error parsing api.pinsvcapi.cors_max_age: expected text"),
        (
            "/observations/metrics/prometheus_endpoint",
            json!("8888"),
            "metrics.prometheus_endpoint: failed to parse",
        ),
        ("/datastore/pebble/pebble_options/levels", json!({}), "pebble_options.levels: it is not a list"),
        ("/informer/disk/metric_type", json!("x"), "disk.metric_type"),
        ("/ipfs_connector/ipfshttp/node_multiaddress", json!("x"), "ipfshttp.node_multiaddress"),
    ] {
        let home = Home::initialized();
        let mut file: Value = serde_json::from_str(GO_FILES[0].1).unwrap();
        *file.pointer_mut(pointer).unwrap() = value;
        fs::write(home.path("service.json"), file.to_string()).unwrap();
        let ran = home.run(&["state", "export"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{pointer}");
        let starts = ran.stderr.starts_with("error loading configurations: ");
        assert!(starts && ran.stderr.contains(text) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    }
}

#[test]
fn bad_variables_are_errors_that_name_them() {
    let home = Home::initialized();
    fs::write(home.path("service.json"), GO_FILES[0].1).unwrap();
    for (variable, value) in [
        ("CLUSTER_LEAVEONSHUTDOWN", "maybe"),
        ("CLUSTER_LISTENMULTIADDRESS", "/ip4/127.0.0.1/tcp/1,x"),
        ("CLUSTER_DIALPEERTIMEOUT", "3"),
        ("CLUSTER_PUBSUB_DFACTOR", "-1x"),
        ("CLUSTER_RESOURCEMANAGER_MEMORYLIMITBYTES", "-1"),
        ("CLUSTER_CRDT_BATCHING_MAXBATCHAGE", "long"),
        ("CLUSTER_RESTAPI_READTIMEOUT", "x"),
        ("CLUSTER_RESTAPI_CORSALLOWCREDENTIALS", "x"),
        ("CLUSTER_IPFSHTTP_PINTIMEOUT", "x"),
        ("CLUSTER_STATELESS_CONCURRENTPINS", "many"),
        ("CLUSTER_PUBSUBMON_CHECKINTERVAL", "x"),
        ("CLUSTER_DISK_METRICTTL", "x"),
        ("CLUSTER_PINQUEUE_WEIGHTBUCKETSIZE", "x"),
        ("CLUSTER_TAGS_TAGS", "group"),
        ("CLUSTER_IPFSPROXY_LISTENMULTIADDRESS", "9095"),
        ("CLUSTER_METRICS_ENABLESTATS", "x"),
        ("CLUSTER_PEBBLE_PEBBLEOPTIONS_CACHESIZEBYTES", "1 GiB"),
    ] {
        let ran = home.run_with(&["state", "export"], &[(variable, value)], "");
        let text = ran.stderr.trim_end();
        assert!(ran.code == 1 && text.ends_with(&format!("(from {variable})")), "{variable}: {text}");
    }
    // A section that is not there is not looked at, as in the reference.
    assert_eq!(home.run_with(&["state", "export"], &[("CLUSTER_BADGER_GCINTERVAL", "x")], "").code, 0);
}
