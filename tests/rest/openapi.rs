//! Real answers of a running peer against the document that it serves.

use std::collections::BTreeSet;

use ipfs_cluster::api::rest::{Authentication, RestConfig, Security, hash_password};
use ipfs_cluster::types::PinOptions;
use jsonschema::Validator;
use serde_json::{Value, json};

use super::caller::{Caller, Received};
use super::{Peer, soon};

/// `ann:secret`
const ANN: &str = "Authorization: Basic YW5uOnNlY3JldA==\r\n";

/// The document of a peer, which lets nothing pass that it does not name.
struct Document {
    document: Value,
    /// Operations and statuses that were answered.
    seen: BTreeSet<(String, u16)>,
}

impl Document {
    async fn of(caller: &mut Caller, headers: &str) -> Self {
        let received = call(caller, "GET", "/openapi.json", headers, "").await;
        assert_eq!((received.status, received.header("content-type")), (200, Some("application/json")));
        let mut document = received.json();
        close(&mut document["components"]["schemas"]);
        Self { document, seen: BTreeSet::new() }
    }

    fn validator(&self, schema: &Value) -> Validator {
        let mut root = schema.clone();
        root["components"] = self.document["components"].clone();
        jsonschema::options().should_validate_formats(true).build(&root).unwrap()
    }

    /// What a reference stands for, or the thing itself.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(reference) => self.document.pointer(reference.trim_start_matches('#')).unwrap(),
            None => value,
        }
    }

    /// An answer of this operation is as the document says.
    fn check(&mut self, operation: &str, received: &Received) {
        let (method, path) = operation.split_once(' ').unwrap();
        let (status, text) = (received.status, received.text());
        let of = &self.document["paths"][path][method.to_ascii_lowercase()];
        assert!(of.is_object(), "{operation} is not described");
        let answer = self.resolve(&of["responses"][status.to_string()]).clone();
        assert!(answer.is_object(), "{operation}: {status} is not described: {text}");
        let headers = answer["headers"].as_object();
        for (name, header) in headers.into_iter().flatten() {
            match received.header(name) {
                Some(value) => {
                    assert!(self.validator(&header["schema"]).is_valid(&value.into()), "{name}: {value}")
                }
                None => assert_ne!(header["required"], true, "{operation}: {name}"),
            }
        }
        for name in ["trailer", "x-next-cursor", "location", "www-authenticate", "retry-after"] {
            let is_described =
                headers.is_some_and(|headers| headers.keys().any(|key| key.eq_ignore_ascii_case(name)));
            assert!(received.header(name).is_none() || is_described, "{operation}: {status} has {name}");
        }
        for (name, _) in &received.trailers {
            assert!(answer["x-trailers"][name].is_object(), "{operation}: {name}");
        }
        match answer["content"].as_object() {
            None => assert!(text.is_empty(), "{operation}: {text}"),
            Some(content) => {
                let content = &content[received.header("content-type").unwrap()];
                let (schema, documents) = match (&content["schema"], &content["x-itemSchema"]) {
                    (Value::Null, item) => (item, received.lines()),
                    (schema, _) => (schema, vec![received.json()]),
                };
                let validator = self.validator(schema);
                for document in &documents {
                    let errors: Vec<_> =
                        validator.iter_errors(document).map(|error| error.to_string()).collect();
                    assert!(errors.is_empty(), "{operation}: {errors:?}: {document}");
                }
            }
        }
        self.seen.insert((operation.to_owned(), status));
    }

    /// Every operation that the document has.
    fn operations(&self) -> BTreeSet<String> {
        let paths = self.document["paths"].as_object().unwrap();
        let methods = |(path, methods): (&String, &Value)| {
            let methods = methods.as_object().unwrap().keys();
            methods.map(|method| format!("{} {path}", method.to_ascii_uppercase())).collect::<Vec<_>>()
        };
        paths.iter().flat_map(methods).collect()
    }
}

/// Forbids members that a schema does not name.
fn close(schema: &mut Value) {
    if schema["properties"].is_object() && schema["additionalProperties"].is_null() {
        schema["additionalProperties"] = json!(false);
    }
    match schema {
        Value::Object(members) => members.values_mut().filter(|value| value.is_object()).for_each(close),
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

async fn call(caller: &mut Caller, method: &str, path: &str, headers: &str, body: &str) -> Received {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n");
    caller.send(head + body).await;
    soon(caller.answer()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_answers_as_the_document_says() {
    let peer = Peer::start().await;
    let mut caller = peer.caller().await;
    let mut document = Document::of(&mut caller, "").await;
    let me = peer.cluster.peer_id();
    let options = PinOptions { metadata: [("k".into(), "v".into())].into(), ..PinOptions::default() };
    let mut cids = Vec::new();
    for number in 0..5 {
        let cid = peer.ipfs.add_sample(format!("content {number}"));
        peer.cluster.pin(cid, options.clone()).await.unwrap();
        soon(peer.cluster.wait(cid).into_future()).await.unwrap();
        cids.push(cid);
    }
    let (cid, other) = (cids[0], peer.ipfs.add_sample("other"));
    let missing = peer.ipfs.add_sample("missing");
    // Nobody has it, so it goes on being pinned.
    let nowhere = ipfs_cluster::types::Block::raw("nowhere").cid;
    peer.cluster.pin(nowhere, PinOptions::default()).await.unwrap();
    let options = format!(
        "name=a%20b&mode=recursive&replication-min=1&replication-max=1&shard-size=7&user-allocations={me}\
         &expire-at=2100-01-01T00:00:00.5Z&meta-a=b&pin-update=&origins=/ip4/127.0.0.1/tcp/1/p2p/{me}"
    );
    let member = format!("{{\"peer_id\":\"{me}\"}}");
    for (operation, path, body, status) in [
        ("GET /id", "/id", "", 200),
        ("GET /version", "/version", "", 200),
        ("GET /version", "/version?a=%zz", "", 400),
        ("GET /health", "/health", "", 204),
        ("GET /openapi.json", "/openapi.json", "", 200),
        ("GET /peers", "/peers", "", 200),
        ("POST /peers", "/peers", &member, 200),
        ("POST /peers", "/peers", "{}", 400),
        ("POST /peers", "/peers", "", 400),
        ("DELETE /peers/{peer}", "/peers/nobody", "", 400),
        ("POST /add", "/add", "", if cfg!(feature = "add") { 400 } else { 501 }),
        ("GET /add/{key}", "/add/unknown", "", if cfg!(feature = "add") { 404 } else { 501 }),
        ("GET /leases", "/leases", "", 204),
        ("DELETE /leases/{cid}", &format!("/leases/{cid}"), "", 404),
        ("DELETE /leases/{cid}", "/leases/zzz", "", 400),
        ("GET /allocations", "/allocations", "", 200),
        ("GET /allocations", "/allocations?limit=2", "", 200),
        ("GET /allocations", "/allocations?limit=2&name=nothing", "", 204),
        ("GET /allocations", "/allocations?filter=shard-pin", "", 204),
        ("GET /allocations", "/allocations?filter=nope", "", 400),
        ("GET /allocations/{cid}", &format!("/allocations/{cid}"), "", 200),
        ("GET /allocations/{cid}", &format!("/allocations/{missing}"), "", 404),
        ("GET /allocations/{cid}", "/allocations/zzz", "", 400),
        ("GET /allocations/{cid}", "/allocations/a%2Fb", "", 404),
        ("GET /pins", "/pins", "", 200),
        ("GET /pins", "/pins?local=true&filter=pinning,queued", "", 200),
        ("GET /pins", &format!("/pins?cids={cid},{missing}"), "", 200),
        ("GET /pins", "/pins?sort=-created&limit=2", "", 200),
        ("GET /pins", "/pins?filter=unpinning", "", 204),
        ("GET /pins", "/pins?limit=0", "", 400),
        ("GET /pins/{cid}", &format!("/pins/{cid}"), "", 200),
        ("GET /pins/{cid}", &format!("/pins/{missing}?local=true"), "", 200),
        ("POST /pins/{cid}", &format!("/pins/{other}?{options}"), "", 200),
        ("POST /pins/{cid}", &format!("/pins/{missing}?expire-at=2001-01-01T00:00:00Z"), "", 500),
        ("POST /pins/{cid}", &format!("/pins/{missing}?replication-min=x"), "", 400),
        ("POST /pins/{cid}", &format!("/pins/{missing}?pin-update={missing}"), "", 200),
        ("POST /pins/{namespace}/{path}", &format!("/pins/ipfs/{cid}?name=c"), "", 200),
        ("POST /pins/{namespace}/{path}", "/pins/ipfs/zzz", "", 400),
        ("POST /pins/{namespace}/{path}", &format!("/pins/ipfs/{cid}/"), "", 307),
        ("POST /pins/{cid}/recover", &format!("/pins/{cid}/recover"), "", 200),
        ("POST /pins/{cid}/recover", &format!("/pins/{}/recover?local=true", cids[1]), "", 200),
        ("POST /pins/recover", "/pins/recover", "", 204),
        ("POST /pins/{cid}/sync", &format!("/pins/{cid}/sync"), "", 200),
        ("POST /pins/sync", "/pins/sync?local=true", "", 204),
        ("POST /pins/sync", "/pins/sync?local=1", "", 400),
        ("DELETE /pins/{namespace}/{path}", &format!("/pins/ipfs/{other}"), "", 200),
        ("DELETE /pins/{namespace}/{path}", &format!("/pins/ipfs/{other}"), "", 404),
        ("DELETE /pins/{cid}", &format!("/pins/{}", cids[2]), "", 200),
        ("DELETE /pins/{cid}", &format!("/pins/{}", cids[2]), "", 404),
        ("POST /ipfs/gc", "/ipfs/gc", "", 200),
        ("POST /ipfs/gc", "/ipfs/gc?local=true", "", 200),
        ("GET /health/graph", "/health/graph", "", 200),
        ("GET /health/alerts", "/health/alerts", "", 200),
        ("GET /health/bandwidth", "/health/bandwidth", "", 200),
        ("GET /monitor/metrics", "/monitor/metrics", "", 200),
        ("GET /monitor/metrics/{name}", "/monitor/metrics/ping", "", 200),
        ("GET /monitor/metrics/{name}", "/monitor/metrics/nothing", "", 200),
        ("POST /token", "/token", "", 401),
        ("DELETE /token", "/token", "", 401),
    ] {
        let (method, _) = operation.split_once(' ').unwrap();
        let received = call(&mut caller, method, path, "", body).await;
        assert_eq!(received.status, status, "{method} {path}: {}", received.text());
        document.check(operation, &received);
    }
    let member = call(&mut caller, "DELETE", &format!("/peers/{me}"), "", "").await;
    document.check("DELETE /peers/{peer}", &member);
    #[cfg(feature = "add")]
    for (query, has_trailer) in [("?progress=true", false), ("?chunker=nope", true)] {
        let mut caller = peer.caller().await;
        caller.send(super::add::request(query, &[super::add::part("dir%2Fa", b"content")])).await;
        let received = soon(caller.answer()).await;
        assert_eq!((received.status, received.trailers.is_empty()), (200, !has_trailer));
        document.check("POST /add", &received);
    }
    #[cfg(feature = "add")]
    {
        use ipfs_cluster::types::{Block, car_header, car_section_head};
        let block = Block::raw("in a car that is cut short");
        let mut car = car_header(&[block.cid]);
        car.extend(car_section_head(&block.cid, block.data.len()));
        car.extend_from_slice(&block.data);
        car.push(7);
        for (query, operation, status) in [
            ("?format=car&resume=k", "POST /add", 200),
            ("?format=car&resume=k&offset=1", "POST /add", 409),
            ("?resume=k", "POST /add", 400),
        ] {
            let mut caller = peer.caller().await;
            caller.send(super::add::request(query, &[super::add::part("x.car", &car)])).await;
            let received = soon(caller.answer()).await;
            assert_eq!(received.status, status);
            document.check(operation, &received);
        }
        let leases = call(&mut caller, "GET", "/leases", "", "").await;
        document.check("GET /leases", &leases);
        let lease = leases.lines().into_iter().find(|lease| lease["state"] == "waiting").unwrap();
        let known = call(&mut caller, "GET", "/add/k", "", "").await;
        assert_eq!((known.status, known.json()["blocks"].as_u64()), (200, Some(1)));
        document.check("GET /add/{key}", &known);
        let lease = format!("/leases/{}", lease["cid"].as_str().unwrap());
        document.check("DELETE /leases/{cid}", &call(&mut caller, "DELETE", &lease, "", "").await);
    }
    let mut watcher = peer.caller().await;
    watcher.send("GET /events?heartbeat=true HTTP/1.1\r\nHost: x\r\n\r\n").await;
    soon(watcher.begun()).await;
    let watched = peer.ipfs.add_sample("watched");
    peer.cluster.pin(watched, PinOptions::default()).await.unwrap();
    soon(peer.cluster.wait(watched).into_future()).await.unwrap();
    peer.cluster.unpin(&watched).await.unwrap();
    // They come in their own time, and the end of the peer waits for none of them.
    for kind in ["pinned", "status", "unpinned"] {
        soon(watcher.until(&format!("\"type\":\"{kind}\""))).await;
    }
    peer.cluster.shutdown().await;
    let events = soon(watcher.answer()).await;
    document.check("GET /events", &events);
    let seen: BTreeSet<_> = document.seen.iter().map(|(operation, _)| operation.clone()).collect();
    assert_eq!(seen, document.operations());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_users_it_asks_for_credentials_and_says_so() {
    let hash = tokio::task::spawn_blocking(|| hash_password("secret").unwrap()).await.unwrap();
    let config = RestConfig {
        security: Security::Strict,
        authentication: Some(Authentication::new([("ann".to_owned(), hash)])),
        ..RestConfig::default()
    };
    let peer = Peer::with(config, |builder| builder).await;
    let mut caller = peer.caller().await;
    let mut document = Document::of(&mut caller, ANN).await;
    assert_eq!(document.document["security"], json!([{ "basic": [] }, { "bearer": [] }]));
    for operation in document.operations() {
        let (method, path) = operation.split_once(' ').unwrap();
        let received = call(&mut caller, method, &path.replace(['{', '}'], ""), "", "").await;
        assert_eq!(received.status, if path == "/health" { 204 } else { 401 }, "{operation}");
        document.check(&operation, &received);
    }
    let token = call(&mut caller, "POST", "/token", ANN, "").await;
    document.check("POST /token", &token);
    let bearer = format!("Authorization: Bearer {}\r\n", token.json()["token"].as_str().unwrap());
    for (query, headers, status) in [("", ANN, 400), ("", bearer.as_str(), 204), ("?all=true", ANN, 204)] {
        let received = call(&mut caller, "DELETE", &format!("/token{query}"), headers, "").await;
        assert_eq!(received.status, status);
        document.check("DELETE /token", &received);
    }
}
