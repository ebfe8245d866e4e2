use std::collections::{BTreeMap, BTreeSet};

use hyper::{Method, Request};

use super::super::caller::Caller;
use super::super::config::RestConfig;
use super::super::gate::Gate;
use super::super::handlers::Api;
use super::super::query::READ;
use super::super::routes::{Endpoint, Target, target};
use super::schemas::{CID, PEER};
use super::*;
use crate::cluster::{Cluster, presets};
use crate::ipfs_connector::MemoryIpfs;

fn read(has_users: bool) -> Value {
    serde_json::from_slice(&document(has_users)).unwrap()
}

/// Every operation of a document.
fn operations(document: &Value) -> Vec<(Method, String, Value)> {
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method = method.to_ascii_uppercase().parse().unwrap();
            operations.push((method, path.clone(), operation.clone()));
        }
    }
    operations
}

/// A value that a parameter takes.
fn sample(schema: &Value) -> String {
    if let Some(first) = schema["enum"].get(0) {
        return first.as_str().unwrap().to_owned();
    }
    let reference = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
    let kind = reference.or(schema["format"].as_str()).or(schema["type"].as_str());
    match kind.unwrap() {
        "Cid" => CID.to_owned(),
        // Only the path of a CID is not resolved, which takes as long as the daemon does.
        "ipfs-path" => CID.to_owned(),
        "PeerId" => PEER.to_owned(),
        "Multiaddr" => format!("/ip4/127.0.0.1/tcp/1/p2p/{PEER}"),
        "date-time" => "2100-01-01T00:00:00Z".to_owned(),
        "go-duration" => "36h".to_owned(),
        "boolean" => "true".to_owned(),
        "array" => sample(&schema["items"]),
        "integer" | "int32" | "int64" => "1".to_owned(),
        "string" | "cursor" | "event-cursor" | "ResumeKey" => "x".to_owned(),
        other => panic!("no sample of {other}"),
    }
}

fn named<'a>(operation: &'a Value, place: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    let parameters = operation["parameters"].as_array().unwrap().iter();
    parameters
        .filter(move |parameter| parameter["in"] == place)
        .map(|parameter| (parameter["name"].as_str().unwrap(), &parameter["schema"]))
}

fn filled(path: &str, operation: &Value) -> String {
    let mut path = path.to_owned();
    for (name, schema) in named(operation, "path") {
        assert!(path.contains(&format!("{{{name}}}")), "{path} has no {name}");
        path = path.replace(&format!("{{{name}}}"), &sample(schema));
    }
    assert!(!path.contains('{'), "{path}");
    path
}

#[test]
fn the_document_describes_every_route_and_nothing_else() {
    for has_users in [false, true] {
        let operations = operations(&read(has_users));
        assert_eq!(operations.len(), routes::all().count());
        let mut found = Vec::new();
        let mut ids = BTreeSet::new();
        for (method, path, operation) in &operations {
            let path = filled(path, operation);
            let Target::Endpoint(endpoint, _) = target(method, &path) else { panic!("{method} {path}") };
            assert!(!found.contains(&endpoint), "{endpoint:?} is there twice");
            found.push(endpoint);
            assert!(ids.insert(operation["operationId"].to_string()));
            assert!(!operation["summary"].as_str().unwrap().is_empty());
        }
        assert!(routes::all().all(|(_, _, endpoint)| found.contains(&endpoint)));
    }
}

#[test]
fn only_health_is_open_where_there_are_users_and_everything_where_there_are_none() {
    let (open, asked) = (read(false), read(true));
    assert_eq!(open["security"], json!([]));
    assert_eq!(asked["security"], json!([{ "basic": [] }, { "bearer": [] }]));
    for (method, path, operation) in operations(&asked) {
        let is_open = operation["security"] == json!([]);
        assert_eq!(is_open, path == "/health", "{method} {path}");
        assert_eq!(is_open, operation["responses"]["401"].is_null(), "{method} {path}");
    }
}

#[test]
fn references_lead_somewhere_and_no_part_is_left_over() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = read(true);
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    let mut parts = BTreeSet::new();
    for kind in ["schemas", "responses"] {
        let named = document["components"][kind].as_object().unwrap();
        parts.extend(named.keys().map(|name| format!("#/components/{kind}/{name}")));
    }
    // What other peers answer who add content.
    #[cfg(not(feature = "add"))]
    found.insert("#/components/schemas/AddedOutput".to_owned());
    assert_eq!(found, parts);
}

#[tokio::test]
async fn the_parameters_that_a_handler_reads_are_those_that_are_described() {
    let cluster = Cluster::builder().preset(presets::InMemory).ipfs(MemoryIpfs::new()).start().await.unwrap();
    let api = Api::new(cluster.clone(), RestConfig::default().body_limits(), Gate::plain());
    let mut read_by = BTreeMap::new();
    let mut described_for = BTreeMap::new();
    for (method, path, operation) in operations(&read(false)) {
        let path = filled(&path, &operation);
        let described: BTreeMap<_, _> = named(&operation, "query").collect();
        // Some are read only where others are there, or are not.
        let mut queries = vec![String::new()];
        queries.extend(described.iter().map(|(name, schema)| match *name {
            parameters::METADATA => "meta-key=value".to_owned(),
            name => format!("{name}={}", sample(schema)),
        }));
        READ.take();
        for query in queries {
            let uri = format!("{path}?{query}");
            // Without it nobody looks at the parameters of what takes a form.
            let form = "multipart/form-data; boundary=B";
            let request = Request::builder().method(&method).uri(&uri).header("content-type", form);
            let request = request.body(axum::body::Body::empty()).unwrap();
            let answer = api.answer(request, &Caller::Unknown).await;
            let status = answer.status().as_u16().to_string();
            assert!(!operation["responses"][&status].is_null(), "{method} {uri}: {status} is not described");
        }
        let route = format!("{method} {path}");
        read_by.insert(route.clone(), READ.take());
        described_for.insert(route, described.into_keys().map(str::to_owned).collect());
    }
    assert_eq!(read_by, described_for);
    assert!(read_by.values().map(BTreeSet::len).sum::<usize>() > 50, "the names were not kept");
    cluster.shutdown().await;
}

#[test]
fn an_endpoint_has_as_many_names_as_its_path_captures() {
    for (_, parts, endpoint) in routes::all() {
        let captures: usize = parts
            .iter()
            .map(|part| match part {
                routes::Part::Is(_) => 0,
                routes::Part::Any => 1,
                routes::Part::IpfsPath => 2,
            })
            .sum();
        assert_eq!(operation(endpoint).captured.len(), captures, "{endpoint:?}");
    }
    assert_eq!(operation(Endpoint::OpenApi).id, "openapi");
}
