//! What was recorded of a Go peer, asked of ours: the same requests in the same order, and the answers compared.
//!
//! A recording is in `tests/data/rest-vectors.json`. Every one is replayed unless it is in one of the tables below.

use std::sync::Mutex;

use ipfs_cluster::api::rest::{RestApi, RestConfig};
use ipfs_cluster::cluster::{Cluster, presets};
use ipfs_cluster::informer::{Tags, TagsConfig};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::caller::{Caller, Received};
use super::daemon::RecordedIpfs;
use super::soon;

/// The recorded peer and its daemon.
const PEER: &str = "12D3KooWKqMeRxLjvowrtRFqBWaPALNyB3tJxAiubfhe9UdwgeBK";
const DAEMON: &str = "12D3KooWFCexTNU4tpCXwRE7ounDXzhomCVk8UxZGi7L2fSgrcgE";
const ABSENT: &str = "QmXFCHiN2nh6aWqtPcLcTrYkoYLfBvAz5YdzABAdTvH1KY";

const CORS: &str = "browsers from other origins are not served yet";
const PINNED_ANYWAY: &str = "the reference pins although it cannot read the query, and this pin is meant";
const DIRECT_UNSEEN: &str = "the reference does not see direct pins when it lists everything";
const OTHER_CONSENSUS: &str = "an answer of another consensus";
const SHARDS: &str = "about content that was added in shards";

/// Recordings that are not replayed, and why. So are all that add content, which this API does not do.
const NOT_REPLAYED: &[(&str, &str)] = &[
    ("cors-get", CORS),
    ("cors-preflight-get", CORS),
    ("cors-preflight-post", CORS),
    ("allocation-after-badquery", PINNED_ANYWAY),
    ("unpin-C9", PINNED_ANYWAY),
    ("status-filter-pinned", DIRECT_UNSEEN),
    ("status-filter-unexp", DIRECT_UNSEEN),
    ("recover-all", DIRECT_UNSEEN),
    ("recover-all-local", DIRECT_UNSEEN),
    ("recover-all-error", DIRECT_UNSEEN),
    ("peer-add-unknown", OTHER_CONSENSUS),
    ("peer-rm-crdt", OTHER_CONSENSUS),
    ("unpin-path", "the daemon had lost the directory"),
    ("old-sync-all", "this request is ours again"),
    ("old-sync-cid", "this request is ours again"),
    ("allocations-after-shard-meta", SHARDS),
    ("status-sharded", SHARDS),
    ("status-meta-pin", SHARDS),
    ("recover-meta-local", SHARDS),
    ("repin-meta-as-data", SHARDS),
    ("allocation-meta", SHARDS),
    ("unpin-clusterdag", SHARDS),
    ("allocations-shard", SHARDS),
    ("unpin-shard", SHARDS),
    ("unpin-meta", SHARDS),
    ("allocations-after-meta-unpin", SHARDS),
    ("status-filter-unexp-with-error", SHARDS),
    ("recover-all-error#2", SHARDS),
    ("status-pin-error-attempts", "counts the attempts of recover-all-error#2"),
    ("alloc-block-put", SHARDS),
];

/// Recordings whose request is changed, because the reference lets something wrong pass: the part of the path, what
/// replaces it, and what that changes in the answer.
const CHANGED: &[(&str, &str, &str, &str, &str)] = &[
    ("pin-ok-user-alloc-invalid-ignored", "&user-allocations=badpeer", "", "/user_allocations", "null"),
    ("pin-direct-by-cid", "mode=direct", "mode=recursive", "/mode", "\"recursive\""),
    ("pin-mode-unknown", "mode=weird", "mode=recursive", "", ""),
    ("allocations-filter-mixed-bad", "nope,", "", "", ""),
    ("status-filter-mixed-bad", "nope,", "", "", ""),
];

/// Texts of which only the beginning is the reference's: what follows is said by a parser.
const TEXT_BEGINNINGS: &[&str] = &[
    "error decoding Cid: invalid cid: ",
    "error decoding Peer ID: ",
    "error decoding update option parameter: invalid cid: ",
    "error decoding multiaddress: failed to parse multiaddr \"/bad/addr\": ",
    "error parsing path: invalid path \"/ipfs/badcid/a\": ",
    "expire-in cannot be parsed: time: invalid duration \"abc\"",
    "expire-at cannot be parsed: parsing time \"yesterday\"",
    "invalid filter value",
    "IPFS error (resolve?arg=%2Fipns%2Fnotexist.example). Code: 500. Message: DNSLink lookup for \
     \"notexist.example.\" failed",
];

#[derive(Debug, Deserialize)]
struct Recording {
    name: String,
    request: Request,
    response: Response,
}

#[derive(Debug, Deserialize)]
struct Request {
    method: String,
    path: String,
    #[serde(default)]
    headers: Map<String, Value>,
    body: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Response {
    status: u16,
    #[serde(default)]
    headers: Map<String, Value>,
    #[serde(default)]
    documents: Vec<Value>,
    text: Option<String>,
    #[serde(default)]
    trailers: Vec<(String, String)>,
}

#[tokio::test(flavor = "multi_thread")]
async fn our_answers_are_those_of_the_reference() {
    let recordings: Vec<Recording> = serde_json::from_str(include_str!("../data/rest-vectors.json")).unwrap();
    check_tables(&recordings);
    let ipfs = RecordedIpfs {
        id: DAEMON.parse().unwrap(),
        absent: vec![ABSENT.parse().unwrap()],
        pinned: Mutex::default(),
    };
    let cluster = Cluster::builder()
        .preset(presets::InMemory)
        .peer(PEER.parse().unwrap())
        .peername("peerA")
        .ipfs(ipfs)
        .informer_with(|cx| {
            let tags = [("group".to_owned(), "default".to_owned())].into();
            Tags::new(TagsConfig { tags, ..TagsConfig::default() }, cx)
        })
        .start()
        .await
        .unwrap();
    cluster.ready().await.unwrap();
    let config = RestConfig::default().listen(["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
    let api = RestApi::bind(config, cluster.clone()).await.unwrap();
    let mut caller = Caller::connect(api.local_addresses()[0]).await;
    soon(wait_for_metrics(&cluster)).await;

    let (mut replayed, mut wrong) = (0, Vec::new());
    for mut recording in recordings {
        let name = recording.name.clone();
        if why_not(&name).is_some() {
            continue;
        }
        change(&mut recording);
        let received = soon(send(&mut caller, &recording.request)).await;
        if let Err(difference) = compare(&recording, &received) {
            wrong.push(format!(
                "{name}: {} {}\n{difference}",
                recording.request.method, recording.request.path
            ));
        }
        if received.header("connection") == Some("close") {
            caller = Caller::connect(api.local_addresses()[0]).await;
        }
        if recording.request.method != "GET" {
            soon(settle(&mut caller)).await;
        }
        replayed += 1;
    }
    assert!(wrong.is_empty(), "{} of {replayed} differ\n\n{}", wrong.len(), wrong.join("\n\n"));
    assert!(replayed > 100, "only {replayed} were replayed");
}

/// A name in a table that no recording has would hide a mistake.
fn check_tables(recordings: &[Recording]) {
    let names = NOT_REPLAYED.iter().map(|(name, _)| name).chain(CHANGED.iter().map(|(name, ..)| name));
    for name in names {
        assert!(recordings.iter().any(|recording| recording.name == *name), "there is no recording {name}");
    }
}

fn why_not(name: &str) -> Option<&'static str> {
    if name.starts_with("add-") {
        return Some("adds content");
    }
    NOT_REPLAYED.iter().find(|(other, _)| *other == name).map(|(_, why)| *why)
}

fn change(recording: &mut Recording) {
    for (_, part, by, place, value) in CHANGED.iter().filter(|(name, ..)| *name == recording.name) {
        recording.request.path = recording.request.path.replacen(part, by, 1);
        if let Some(old) = recording.response.documents[..].iter_mut().find_map(|doc| doc.pointer_mut(place))
            && !place.is_empty()
        {
            *old = serde_json::from_str(value).unwrap();
        }
    }
}

async fn send(caller: &mut Caller, request: &Request) -> Received {
    let mut text = format!("{} {} HTTP/1.1\r\nHost: x\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        let value = value.as_str().unwrap();
        let value = if value == "10000 bytes" { "a".repeat(10_000) } else { value.to_owned() };
        text += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = &request.body {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    text += "\r\n";
    text += request.body.as_deref().unwrap_or_default();
    caller.send(text).await;
    caller.answer().await
}

/// Until nothing is on its way to the daemon: the recordings were taken that way.
async fn settle(caller: &mut Caller) {
    while caller.call("GET", "/pins?local=true&filter=queued,pinning,unpinning").await.status != 204 {
        tokio::task::yield_now().await;
    }
}

async fn wait_for_metrics(cluster: &Cluster) {
    while cluster.metric_names().len() < 4 {
        tokio::task::yield_now().await;
    }
}

fn compare(recording: &Recording, received: &Received) -> Result<(), String> {
    let expected = &recording.response;
    let same = |what: &str, ours: Value, theirs: Value| {
        if ours == theirs { Ok(()) } else { Err(format!("  {what}: {theirs}\n  ours: {ours}")) }
    };
    same("status", received.status.into(), expected.status.into())?;
    for name in ["Content-Type", "Vary", "Location", "Trailer", "Transfer-Encoding", "Connection"] {
        let theirs = expected.headers.get(name).cloned().unwrap_or(Value::Null);
        same(name, json!(received.header(name)), theirs)?;
    }
    same("trailers", json!(received.trailers), json!(expected.trailers))?;
    if let Some(text) = &expected.text {
        return same("text", received.text().into(), text.clone().into());
    }
    let theirs = match expected.documents.as_slice() {
        // The first says that the query cannot be read, and the second that it was done all the same.
        [first, _] if expected.status == 400 => vec![first.clone()],
        documents => documents.to_vec(),
    };
    same("documents", normal(received.lines()), normal(theirs))
}

/// Documents in order and without what differs by nature.
fn normal(mut documents: Vec<Value>) -> Value {
    documents.iter_mut().for_each(normalize);
    documents.sort_by_key(|document| document["cid"].to_string());
    documents.into()
}

fn normalize(value: &mut Value) {
    match value {
        Value::Array(items) => {
            items.iter_mut().for_each(normalize);
            if items.iter().any(|item| item == "pinqueue") {
                // Names of metrics come in any order.
                items.sort_by_key(ToString::to_string);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                match name.as_str() {
                    "timestamp" | "expire_at" | "created" => *field = kind_of_time(field),
                    "expire" | "received_at" => *field = json!(field.as_i64().is_some_and(|time| time > 0)),
                    // Of the recorded network, and of the recorded repository.
                    "addresses" | "keys" => *field = json!([]),
                    "message" => shorten(field),
                    // The ping's is a document of its own.
                    "value" => *field = serde_json::from_str(field.as_str().unwrap()).unwrap_or(field.take()),
                    _ => normalize(field),
                }
            }
            normalize_status(fields);
        }
        _ => {}
    }
}

/// In statuses the reference has `null` for some empty lists, and a time for pins that are none.
fn normalize_status(fields: &mut Map<String, Value>) {
    if !fields.contains_key("peer_map") || !fields.contains_key("cid") {
        return;
    }
    for name in ["allocations", "origins"] {
        if fields[name].is_null() {
            fields[name] = json!([]);
        }
    }
    if fields["created"] == "nanoseconds" {
        fields["created"] = json!("none");
    }
    // The one direct pin, which the reference sees when it is asked for alone.
    if fields["cid"] == "Qmdzc2UkTV5suoKe3mrJ1xcKkEEsSPwGm7v9jJdoRFeWX1" {
        let status = &mut fields["peer_map"][PEER];
        if status["status"] == "unexpectedly_unpinned" {
            status["status"] = json!("pinned");
            status["error"] = json!("");
        }
    }
}

/// Whether a time is none, in whole seconds, or finer.
fn kind_of_time(time: &Value) -> Value {
    let text = time.as_str().unwrap();
    if text.starts_with("0001-") {
        "none".into()
    } else if text.contains('.') {
        "nanoseconds".into()
    } else {
        "seconds".into()
    }
}

fn shorten(message: &mut Value) {
    let text = message.as_str().unwrap_or_default();
    if let Some(beginning) = TEXT_BEGINNINGS.iter().find(|beginning| text.starts_with(**beginning)) {
        *message = json!(format!("{beginning}…"));
    }
}
