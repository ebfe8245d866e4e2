//! Uploads that break off and go on, and what is kept for them meanwhile, over real sockets and several peers.

use ipfs_cluster::api::rest::{RestApi, RestConfig};
use ipfs_cluster::ipfs_connector::{IpfsConnector as _, sample_file_with_chunks};
use ipfs_cluster::testing::TestCluster;
use ipfs_cluster::types::{Block, Cid, PinMode};
use serde_json::Value;

use super::add::{part, request};
use super::caller::{Caller, Received};
use super::soon;

const CHUNK_BYTES: usize = 250_000;

/// A CAR as exports are, the root first, and where its items end.
struct Car {
    root: Cid,
    blocks: Vec<Block>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

fn car(chunks: u32) -> Car {
    let bytes = (0..chunks * CHUNK_BYTES as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect::<Vec<_>>();
    let (root, mut blocks) = sample_file_with_chunks(bytes, CHUNK_BYTES);
    blocks.rotate_right(1);
    let (bytes, ends) = ipfs_cluster::testing::car(root, &blocks);
    Car { root, blocks, bytes, ends }
}

/// Peers that know each other, each with an API.
struct Served {
    peers: TestCluster,
    apis: Vec<RestApi>,
}

impl Served {
    async fn start(count: usize) -> Self {
        let peers = TestCluster::start(count).await.unwrap();
        let known = async |peers: &TestCluster| {
            peers.running().all(|(_, peer)| peer.metrics("freespace").len() == count)
        };
        soon(peers.wait_until("all metrics are known", known)).await.unwrap();
        let mut apis = Vec::new();
        for (_, peer) in peers.running() {
            let config = RestConfig::default().listen(["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
            apis.push(RestApi::bind(config, peer.clone()).await.unwrap());
        }
        Self { peers, apis }
    }

    async fn caller(&self, index: usize) -> Caller {
        Caller::connect(self.apis[index].local_addresses()[0]).await
    }

    async fn call(&self, index: usize, method: &str, path: &str) -> Received {
        soon(self.caller(index).await.call(method, path)).await
    }

    /// Sends an upload, of which so many bytes go on their way, and hears nothing of it.
    async fn break_off(&self, request: &[u8], sent: usize) {
        let mut caller = self.caller(0).await;
        caller.send(&request[..sent]).await;
        soon(caller.begun()).await;
    }

    /// Where an upload goes on, as soon as that is known.
    async fn known(&self, key: &str) -> Value {
        let asking = async {
            loop {
                let received = self.call(0, "GET", &format!("/add/{key}")).await;
                match received.status {
                    200 => return received.json(),
                    // It has not ended, or not even begun.
                    404 | 409 => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
                    _ => panic!("{}", received.text()),
                }
            }
        };
        soon(asking).await
    }

    async fn leases(&self, index: usize) -> Vec<Value> {
        self.call(index, "GET", "/leases").await.lines()
    }
}

fn add(key: &str, offset: usize, bytes: &[u8], more: &str) -> Vec<u8> {
    request(&format!("?format=car&resume={key}&offset={offset}{more}"), &[part("x.car", bytes)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_goes_on_with_the_rest_alone() {
    let served = Served::start(3).await;
    let car = car(40);
    let whole = add("k", 0, &car.bytes, "");
    let head = whole.len() - car.bytes.len();
    // Until the 30th block is not quite there.
    served.break_off(&whole, head + car.ends[30] - 99).await;
    let known = served.known("k").await;
    let offset = known["offset"].as_u64().unwrap() as usize;
    // What was on its way when the connection broke may be lost.
    assert!(car.ends[..30].contains(&offset), "{known}");
    assert_eq!(known["root"], car.root.to_string());
    assert_eq!(known["allocations"].as_array().unwrap().len(), 3);
    for index in 0..3 {
        let leases = served.leases(index).await;
        let blocks: u64 = leases.iter().map(|lease| lease["blocks"].as_u64().unwrap()).sum();
        assert_eq!(blocks, known["blocks"].as_u64().unwrap(), "peer {index}");
        assert!(leases.iter().all(|lease| lease["state"] == "waiting"), "{leases:?}");
        assert!(leases.iter().all(|lease| lease["peer"] == served.peers.id(index).to_string()));
    }

    let mut caller = served.caller(0).await;
    caller.send(add("k", offset, &car.bytes[offset..], "&name=named")).await;
    let received = soon(caller.answer()).await;
    assert!(received.trailers.is_empty(), "{:?}", received.trailers);
    let [line] = &received.lines()[..] else { panic!("{}", received.text()) };
    let bytes: usize = car.blocks.iter().map(|block| block.data.len()).sum();
    assert_eq!(
        (line["cid"].as_str(), line["bytes"].as_u64()),
        (Some(&*car.root.to_string()), Some(bytes as u64))
    );
    soon(served.peers.wait_pinned(&car.root)).await.unwrap();
    assert_eq!(served.peers.peer(0).pin_get(&car.root).await.unwrap().options.name, "named");
    for index in 0..3 {
        let daemon = served.peers.daemon(index).ipfs();
        assert!(car.blocks.iter().all(|block| daemon.has_block(&block.cid)), "peer {index}");
        assert!(daemon.is_pinned(&car.root, PinMode::Recursive).await.unwrap());
    }
    let released = async |peers: &TestCluster| peers.running().all(|(_, peer)| peer.leases().is_empty());
    soon(served.peers.wait_until("all leases are released", released)).await.unwrap();
    assert_eq!(served.call(0, "GET", "/leases").await.status, 204);
    assert_eq!(served.call(0, "GET", "/add/k").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_on_is_refused_before_anything_is_read() {
    let served = Served::start(1).await;
    let car = car(3);
    let broken = add("k", 0, &car.bytes[..car.ends[2] + 5], "");
    let mut caller = served.caller(0).await;
    caller.send(broken).await;
    assert_eq!(soon(caller.answer()).await.stream_errors(), ["unexpected EOF"]);
    // Who has heard of the error can go on at once.
    let known = served.call(0, "GET", "/add/k").await;
    let offset = known.json()["offset"].as_u64().unwrap();
    assert_eq!((known.status, offset), (200, car.ends[2] as u64));

    let refused = async |query: &str| {
        let mut caller = served.caller(0).await;
        caller.send(request(query, &[part("x.car", b"x")])).await;
        let received = soon(caller.answer()).await;
        (received.status, received.json()["message"].as_str().unwrap().to_owned())
    };
    for (query, status, text) in [
        ("?format=car&resume=k&offset=7".to_owned(), 409, "add k goes on at offset"),
        ("?format=car&resume=other&offset=7".to_owned(), 409, "no add other that broke off is known"),
        (
            format!("?format=car&resume=k&offset={offset}&local=true"),
            409,
            "began with other replication factors",
        ),
        (format!("?format=car&resume=k&offset={offset}&shard=true"), 400, "what is sharded cannot"),
        ("?resume=k".to_owned(), 400, "only a CAR (format=car) can"),
        ("?format=car&resume=a%20b".to_owned(), 400, "invalid resume key"),
        ("?format=car&offset=7".to_owned(), 400, "offset means nothing without resume"),
        ("?format=car&resume=k&offset=-7".to_owned(), 400, "parameter offset invalid"),
    ] {
        let (found, message) = refused(&query).await;
        assert!(found == status && message.contains(text), "{query}: {found} {message}");
    }
    let bad = served.call(0, "GET", "/add/a%20b").await;
    assert_eq!(bad.status, 400);

    // While one runs, nobody else does.
    let whole = add("k", 0, &car.bytes, "");
    let mut running = served.caller(0).await;
    running.send(&whole[..whole.len() - car.bytes.len() / 2]).await;
    soon(running.begun()).await;
    // The head of an answer comes before the add begins.
    let runs = async |peers: &TestCluster| peers.peer(0).interrupted_add(&"k".parse().unwrap()).is_err();
    soon(served.peers.wait_until("the upload runs", runs)).await.unwrap();
    let (status, message) = refused("?format=car&resume=k").await;
    assert!(status == 409 && message.contains("add k is running"), "{message}");
    assert_eq!(served.call(0, "GET", "/add/k").await.status, 409);
    drop(running);
    let offset = served.known("k").await["offset"].as_u64().unwrap() as usize;
    let mut caller = served.caller(0).await;
    caller.send(add("k", offset, &car.bytes[offset..], "")).await;
    assert!(soon(caller.answer()).await.trailers.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_released_by_hand_unless_its_add_runs() {
    let served = Served::start(1).await;
    let car = car(3);
    let mut caller = served.caller(0).await;
    caller.send(add("k", 0, &car.bytes[..car.bytes.len() - 5], "")).await;
    assert_eq!(soon(caller.answer()).await.stream_errors(), ["unexpected EOF"]);
    let [lease] = &served.leases(0).await[..] else { panic!("one segment") };
    assert_eq!(lease["roots"], serde_json::json!([car.root.to_string()]));
    let path = format!("/leases/{}", lease["cid"].as_str().unwrap());
    assert_eq!(served.call(0, "DELETE", &path).await.status, 204);
    let again = served.call(0, "DELETE", &path).await;
    assert!(again.status == 404 && again.text().contains("there is no lease"), "{}", again.text());
    assert_eq!(served.call(0, "DELETE", "/leases/zzz").await.status, 400);
    let daemon = served.peers.daemon(0).ipfs();
    let collected = daemon.repo_gc();
    let _: Vec<_> = futures::StreamExt::collect(collected).await;
    assert!(!car.blocks.iter().any(|block| daemon.has_block(&block.cid)));

    // More than a segment, and then silence.
    let large = self::car(60);
    let whole = add("large", 0, &large.bytes, "");
    let mut running = served.caller(0).await;
    running.send(&whole[..whole.len() - 300_000]).await;
    let held = async |peers: &TestCluster| !peers.peer(0).leases().is_empty();
    soon(served.peers.wait_until("a segment is held", held)).await.unwrap();
    let leases = served.leases(0).await;
    assert_eq!(leases[0]["state"], "running");
    let refused = served.call(0, "DELETE", &format!("/leases/{}", leases[0]["cid"].as_str().unwrap())).await;
    assert!(
        refused.status == 409 && refused.text().contains("of an add that is running"),
        "{}",
        refused.text()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_on_after_its_peer_was_restarted() {
    let mut served = Served::start(2).await;
    let car = car(60);
    let whole = add("k", 0, &car.bytes, "");
    let mut running = served.caller(0).await;
    running.send(&whole[..whole.len() - car.bytes.len() + car.ends[50] + 50]).await;
    soon(running.begun()).await;
    // A segment, so that it is known that much of it is on its way.
    let held = async |peers: &TestCluster| !peers.peer(1).leases().is_empty();
    soon(served.peers.wait_until("a segment has arrived", held)).await.unwrap();
    // As a service stops: its API first.
    soon(served.apis.remove(0).shutdown()).await;
    served.peers.stop(0).await.unwrap();
    served.peers.restart(0).await.unwrap();
    let config = RestConfig::default().listen(["/ip4/127.0.0.1/tcp/0".parse().unwrap()]);
    served.apis.insert(0, RestApi::bind(config, served.peers.peer(0).clone()).await.unwrap());
    let known = served.call(0, "GET", "/add/k").await;
    assert_eq!(known.status, 200, "{}", known.text());
    let offset = known.json()["offset"].as_u64().unwrap() as usize;
    assert!(car.ends[1..=50].contains(&offset));
    let mut caller = served.caller(0).await;
    caller.send(add("k", offset, &car.bytes[offset..], "")).await;
    let received = soon(caller.answer()).await;
    assert!(received.trailers.is_empty(), "{:?}", received.trailers);
    soon(served.peers.wait_pinned(&car.root)).await.unwrap();
    for index in 0..2 {
        let daemon = served.peers.daemon(index).ipfs();
        assert!(car.blocks.iter().all(|block| daemon.has_block(&block.cid)), "peer {index}");
    }
}
