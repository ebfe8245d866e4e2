use serde_json::json;

use super::*;
use crate::ErrorKind;
use crate::allocator::BalancedConfig;
#[cfg(feature = "api-rest")]
use crate::api::rest::RestApiSection;
use crate::config::testing::none;
use crate::config::{ClusterSection, SERVED_SECTIONS};
#[cfg(feature = "consensus-crdt")]
use crate::consensus::CrdtSection;
use crate::informer::{FreeSpaceConfig, PinQueueConfig, TagsConfig};
#[cfg(feature = "connector-kubo")]
use crate::ipfs_connector::KuboConfig;
use crate::monitor::MonitorConfig;
use crate::tracker::StatelessConfig;

/// Written by `ipfs-cluster-service init` of Go ipfs-cluster 1.1.6.
const GO_FILE: &str = include_str!("../testdata/go-1.1.6-service.json");

#[test]
fn a_go_file_loads_and_is_saved_byte_for_byte() {
    let file = ServiceJson::parse(GO_FILE).unwrap();
    assert_eq!(file.to_text().unwrap(), GO_FILE);
    assert_eq!(
        file.unserved(SERVED_SECTIONS),
        [
            #[cfg(not(feature = "consensus-crdt"))]
            "consensus.crdt",
            "api.ipfsproxy",
            "api.pinsvcapi",
            "observations.metrics",
            "observations.tracing",
            "datastore.pebble"
        ]
    );
    assert_eq!(file.consensus().unwrap(), "crdt");
}

#[test]
fn every_section_of_a_go_file_equals_our_default_and_has_no_unknown_key() {
    fn check<T: ConfigSection + PartialEq + std::fmt::Debug>(file: &ServiceJson) -> T {
        let loaded: Loaded<T> = file.read(&none).unwrap();
        assert!(loaded.unknown_keys.is_empty(), "{:?}", loaded.unknown_keys);
        loaded.section
    }
    let file = ServiceJson::parse(GO_FILE).unwrap();
    let cluster = check::<ClusterSection>(&file);
    assert_eq!(
        cluster,
        ClusterSection {
            peername: "peer-a".to_owned(),
            secret: "1".repeat(64).parse().unwrap(),
            ..Default::default()
        }
    );
    #[cfg(feature = "api-rest")]
    assert_eq!(check::<RestApiSection>(&file), RestApiSection::default());
    #[cfg(feature = "consensus-crdt")]
    assert_eq!(check::<CrdtSection>(&file), CrdtSection::default());
    #[cfg(feature = "connector-kubo")]
    assert_eq!(check::<KuboConfig>(&file), KuboConfig::default());
    assert_eq!(check::<StatelessConfig>(&file), StatelessConfig::default());
    assert_eq!(check::<MonitorConfig>(&file), MonitorConfig::default());
    assert_eq!(check::<BalancedConfig>(&file), BalancedConfig::default());
    assert_eq!(check::<FreeSpaceConfig>(&file), FreeSpaceConfig::default());
    assert_eq!(check::<PinQueueConfig>(&file), PinQueueConfig::default());
    assert_eq!(check::<TagsConfig>(&file), TagsConfig::default());
}

#[test]
fn our_sections_are_written_as_go_writes_them() {
    let mut file = ServiceJson::parse(GO_FILE).unwrap();
    let cluster: ClusterSection = file.read(&none).unwrap().section;
    file.write(&cluster).unwrap();
    #[cfg(feature = "api-rest")]
    file.write(&RestApiSection::default()).unwrap();
    #[cfg(feature = "connector-kubo")]
    file.write(&KuboConfig::default()).unwrap();
    file.write(&StatelessConfig::default()).unwrap();
    file.write(&MonitorConfig::default()).unwrap();
    file.write(&BalancedConfig::default()).unwrap();
    file.write(&FreeSpaceConfig::default()).unwrap();
    file.write(&PinQueueConfig::default()).unwrap();
    file.write(&TagsConfig::default()).unwrap();
    let ours = file.to_text().unwrap();
    assert_eq!(ours, GO_FILE);
}

#[test]
fn a_change_leaves_everything_else_in_its_place() {
    let text = r#"{"x":{"b":1.50,"a":[]},"informer":{"numpin":null,"disk":{"z":1}},"own":7}"#;
    let mut file = ServiceJson::parse(text).unwrap();
    assert!(file.contains("informer.disk") && !file.contains("informer.numpin") && !file.contains("api.x"));
    file.set("informer.disk", &json!({"y": 2})).unwrap();
    file.set("api.restapi", &json!({})).unwrap();
    let compact: String = file.to_text().unwrap().split_whitespace().collect();
    assert_eq!(
        compact,
        r#"{"x":{"b":1.50,"a":[]},"informer":{"numpin":null,"disk":{"y":2}},"own":7,"api":{"restapi":{}}}"#
    );
    assert_eq!(file.unserved(SERVED_SECTIONS), ["x", "own"]);
    assert!(file.set("own.x", &1).unwrap_err().to_string().contains("\"own\" is not an object"));
    assert!(file.read_if_present::<TagsConfig>(&none).unwrap().is_none());
    assert!(file.read_if_present::<FreeSpaceConfig>(&none).unwrap().is_some());
}

#[test]
fn exactly_one_consensus_component_is_needed() {
    let with = |consensus| ServiceJson::parse(&json!({"consensus": consensus}).to_string()).unwrap();
    assert_eq!(with(json!({"solo": {}})).consensus().unwrap(), "solo");
    assert_eq!(with(json!({"solo": {}, "raft": null})).consensus().unwrap(), "solo");
    for wrong in [json!({}), json!({"crdt": {}, "raft": {}}), json!({"solo": {}, "crdt": {}}), json!(1)] {
        assert_eq!(
            with(wrong).consensus().unwrap_err().to_string(),
            "could not determine the consensus component"
        );
    }
}

#[test]
fn a_source_is_written_alone_also_when_it_was_fetched_and_points_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service.json");
    let url = "http://127.0.0.1:22900/service.json";
    let mut file = ServiceJson::from_source(url).unwrap();
    file.set("cluster", &json!({"peername": "x"})).unwrap();
    file.save(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, format!("{{\n  \"source\": \"{url}\"\n}}"));

    let loaded = ServiceJson::load(&path).unwrap();
    assert_eq!(loaded.source().unwrap(), url);
    let fetched = loaded.with_fetched(GO_FILE).unwrap();
    assert_eq!(fetched.consensus().unwrap(), "crdt");
    fetched.save(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    let nested = loaded.with_fetched(&text).unwrap_err();
    assert_eq!(nested.to_string(), "a sourced configuration cannot point to another source");
    assert_eq!(loaded.with_fetched("<html>").unwrap_err().kind(), ErrorKind::InvalidInput);
    assert_eq!(ServiceJson::parse(r#"{"source": ""}"#).unwrap().source(), None);
}

#[test]
fn a_file_that_is_missing_or_no_configuration_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("service.json");
    assert_eq!(
        ServiceJson::load(&path).unwrap_err().to_string(),
        format!("open {}: no such file or directory", path.display())
    );
    for (text, part) in [("{", "EOF while parsing"), ("[]", "not an object"), ("", "EOF")] {
        std::fs::write(&path, text).unwrap();
        let error = ServiceJson::load(&path).unwrap_err().to_string();
        assert!(error.starts_with(&path.display().to_string()) && error.contains(part), "{error}");
    }
}
