//! Calls between peers of an in-memory network, on paused time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::msgpack::encode;
use super::*;
use crate::error::{Error, ErrorKind};
use crate::transport::{MemoryNetwork, MemoryTransport, PeerStream, PeerTransport, Protocol, StreamHandler};
use crate::types::*;

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes(&[0, 1, number]).unwrap()
}

fn cid(number: u32) -> Cid {
    Block::raw(number.to_be_bytes().to_vec()).cid
}

fn info(cid: Cid) -> PinInfo {
    PinInfo::of_cid(cid, peer(1), PinStatus::new(TrackerStatus::Pinned, Timestamp::UNIX_EPOCH))
}

fn peer_info(peer: PeerId) -> PeerInfo {
    PeerInfo {
        id: peer,
        addresses: Some(vec!["/ip4/10.0.0.1/tcp/9096".parse().unwrap()]),
        cluster_peers: Some(vec![peer]),
        cluster_peers_addresses: None,
        version: "1.1.6".to_owned(),
        commit: String::new(),
        rpc_protocol_version: RPC_PROTOCOL.to_owned(),
        error: String::new(),
        ipfs: IpfsId { id: None, addresses: None, error: "down".to_owned() },
        peername: "one".to_owned(),
        pinset: PinsetStanding::Unknown,
    }
}

/// How often it is being worked on, and that it no longer is.
#[derive(Debug, Default)]
struct Work {
    running: AtomicUsize,
    changed: Notify,
}

struct Working(Arc<Work>);

impl Work {
    fn begin(self: &Arc<Self>) -> Working {
        self.running.fetch_add(1, Ordering::SeqCst);
        self.changed.notify_waiters();
        Working(self.clone())
    }

    async fn wait(&self, running: usize) {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                if self.running.load(Ordering::SeqCst) == running {
                    return;
                }
                changed.await;
            }
        };
        timeout(Duration::from_secs(3600), reached).await.expect("this to happen");
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

/// Answers by what it is asked: see each request.
#[derive(Debug, Default)]
struct Handler {
    work: Arc<Work>,
    calls: Mutex<Vec<Request>>,
    blocks: Mutex<Vec<Block>>,
    taken: AtomicUsize,
}

const ITEMS: u32 = 3000;

#[async_trait]
impl RequestHandler for Handler {
    async fn call(&self, from: PeerId, request: Request) -> Result<Reply> {
        assert_eq!(request.method().shape(), Shape::Unary);
        self.calls.lock().unwrap().push(request.clone());
        match request {
            Request::Id => Ok(Reply::Peer(Box::new(peer_info(peer(1))))),
            Request::PeerAdd(id) => {
                assert!([peer(2), peer(3)].contains(&from));
                Ok(Reply::Peer(Box::new(peer_info(id))))
            }
            Request::PeerRemove(_) | Request::RecoverLocal(_) => Err(Error::internal("not here")),
            Request::Version => Ok(Reply::Version(Version { version: "1.1.6".to_owned() })),
            Request::Status(cid) | Request::Sync(cid) => Ok(Reply::Pin(Box::new(info(cid)))),
            Request::RepoStat => Err(Error::new(ErrorKind::Unavailable, "the daemon is down")),
            Request::RepoGcLocal => Ok(Reply::RepoGc(RepoGc {
                peer: peer(1),
                peername: "one".to_owned(),
                keys: vec![RepoGcKey { key: Some(cid(1)), error: String::new() }],
                error: String::new(),
            })),
            Request::SwarmPeers => Ok(Reply::Peers(vec![peer(5), peer(6)])),
            Request::PinsetDigest => {
                Ok(Reply::Digest(PinsetDigest { count: 7, hash: [9; 16], heads: vec![(cid(1), 300)] }))
            }
            Request::LogPin(_) | Request::LogUnpin(_) | Request::AddPeer(_) => Ok(Reply::Empty),
            // The answer of another call: a bug.
            Request::RmPeer(_) => Ok(Reply::Peers(vec![])),
            // Works for ever.
            Request::Recover(_) => {
                let _working = self.work.begin();
                std::future::pending().await
            }
            other => panic!("{other:?}"),
        }
    }

    async fn stream(&self, _: PeerId, request: Request) -> Result<BoxStream<'static, Result<Page>>> {
        assert_eq!(request.method().shape(), Shape::Stream);
        self.calls.lock().unwrap().push(request.clone());
        let pins =
            |range: std::ops::Range<u32>| Ok(Page::Pins(range.map(|number| info(cid(number))).collect()));
        match request {
            Request::IdStream => Ok(stream::iter([Ok(Page::Peers(vec![peer_info(peer(1))]))]).boxed()),
            Request::Peers => {
                let pages = [1, 2, 3].map(|number| Ok(Page::Peers(vec![peer_info(peer(number))])));
                Ok(stream::iter(pages).boxed())
            }
            // Three thousand items; with errors wanted an error after ten; with queued ones no end.
            Request::StatusAll(StatusFilter::ERROR) => {
                let pages = [pins(0..10), Err(Error::internal("it broke")), pins(10..20)];
                Ok(stream::iter(pages).boxed())
            }
            Request::StatusAll(StatusFilter::QUEUED) => {
                let working = self.work.begin();
                let pages = stream::iter(0u32..).map(move |page| {
                    let _ = &working;
                    pins(page * 100..page * 100 + 100)
                });
                Ok(pages.boxed())
            }
            Request::StatusAll(_) => Ok(stream::iter([pins(0..ITEMS / 2), pins(ITEMS / 2..ITEMS)]).boxed()),
            Request::StatusAllSorted { filter, after } => {
                let mut cids: Vec<_> = (0..ITEMS).map(cid).collect();
                cids.sort_by_key(Cid::to_bytes);
                cids.retain(|cid| after.is_none_or(|after| cid.to_bytes() > after.to_bytes()));
                if filter == StatusFilter::ERROR {
                    cids.swap(100, 101);
                }
                Ok(stream::iter([Ok(Page::Pins(cids.into_iter().map(info).collect()))]).boxed())
            }
            // Of three it leaves one out, of four it answers two in the other order, of five it gives one more.
            Request::StatusOf(mut cids) => {
                match cids.len() {
                    3 => drop(cids.pop()),
                    4 => cids.swap(1, 2),
                    5 => cids.push(cid(ITEMS)),
                    _ => {}
                }
                let infos: Vec<_> = cids.into_iter().map(info).collect();
                let (first, second) = infos.split_at(infos.len() / 2);
                Ok(stream::iter([first, second].map(|page| Ok(Page::Pins(page.to_vec()))).to_vec()).boxed())
            }
            // One page, then silence.
            Request::SyncAll => {
                let working = self.work.begin();
                let silence = stream::pending().map(move |page| {
                    let _ = &working;
                    page
                });
                Ok(stream::iter([pins(0..1)]).chain(silence).boxed())
            }
            Request::RecoverAllLocal => Err(Error::internal("not now")),
            other => panic!("{other:?}"),
        }
    }

    /// Takes blocks, one a second where they say `slow`, none after one that says `no`.
    async fn put_blocks(&self, _: PeerId, mut blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        let _working = self.work.begin();
        while let Some(block) = blocks.next().await {
            let block = block?;
            self.taken.fetch_add(1, Ordering::SeqCst);
            if block.data == "no" {
                return Err(Error::internal("the daemon is full"));
            }
            if block.data.starts_with(b"slow") {
                sleep(Duration::from_secs(1)).await;
            }
            self.blocks.lock().unwrap().push(block);
        }
        Ok(())
    }
}

/// Trusts peer 2 alone.
#[derive(Debug)]
struct TrustTwo;

impl Authorizer for TrustTwo {
    fn is_trusted(&self, caller: &PeerId) -> bool {
        *caller == peer(2)
    }
}

/// Peer 1 serves; 2 is trusted and 3 is not.
struct Peers {
    handler: Arc<Handler>,
    server: MemoryTransport,
    trusted: Arc<MemoryTransport>,
    stranger: Arc<MemoryTransport>,
}

fn peers() -> Peers {
    let network = MemoryNetwork::new(1);
    network.set_delay(Duration::from_millis(10));
    let [server, trusted, stranger] = [1, 2, 3].map(|number| network.join(peer(number)).unwrap());
    let handler = Arc::new(Handler::default());
    RpcServer::new(handler.clone(), Arc::new(TrustTwo)).accept_on(&server).unwrap();
    Peers { handler, server, trusted: Arc::new(trusted), stranger: Arc::new(stranger) }
}

impl Peers {
    fn client(&self) -> PeerClient {
        PeerClient::new(self.trusted.clone())
    }
}

async fn open(transport: &MemoryTransport) -> PeerStream {
    transport.open(&peer(1), &Protocol::new(RPC_PROTOCOL)).await.unwrap()
}

fn header(service: &str, method: &str) -> Vec<u8> {
    encode(&wire::ServiceId { service: service.to_owned(), method: method.to_owned() })
}

/// Writes, and reads to the end, keeping our half open.
async fn exchange(transport: &MemoryTransport, bytes: &[u8]) -> Vec<u8> {
    let mut stream = open(transport).await;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let ended = timeout(Duration::from_secs(700), stream.read_to_end(&mut answer)).await;
    let _ = ended.expect("an end");
    answer
}

fn answer(service: &str, method: &str, error: &str, error_type: i64, body: &[u8]) -> Vec<u8> {
    let service = wire::ServiceId { service: service.to_owned(), method: method.to_owned() };
    let mut bytes = encode(&wire::Response { service, error: error.to_owned(), error_type });
    bytes.extend_from_slice(body);
    bytes
}

async fn collect<T>(mut pages: BoxStream<'static, Result<Vec<T>>>) -> (Vec<T>, Option<Error>) {
    let mut items = Vec::new();
    while let Some(page) = pages.next().await {
        match page {
            Ok(page) => {
                assert!((1..=PAGE_ITEMS_MAX).contains(&page.len()));
                items.extend(page);
            }
            Err(error) => {
                assert!(pages.next().await.is_none(), "a stream ends after its first error");
                return (items, Some(error));
            }
        }
    }
    (items, None)
}

#[tokio::test(start_paused = true)]
async fn every_single_call_comes_back_with_its_answer() {
    let peers = peers();
    let (client, one) = (peers.client(), peer(1));
    assert_eq!(client.id(&one).await.unwrap(), peer_info(one));
    assert_eq!(client.id_stream(&one).await.unwrap(), peer_info(one));
    assert_eq!(client.peer_add(&one, &peer(2)).await.unwrap(), peer_info(peer(2)));
    assert_eq!(client.version(&one).await.unwrap().version, "1.1.6");
    assert_eq!(client.status(&one, &cid(4)).await.unwrap(), info(cid(4)));
    assert_eq!(client.sync(&one, &cid(4)).await.unwrap(), info(cid(4)));
    assert_eq!(client.repo_gc(&one).await.unwrap().keys[0].key, Some(cid(1)));
    assert_eq!(client.swarm_peers(&one).await.unwrap(), [peer(5), peer(6)]);
    let digest = client.pinset_digest(&one).await.unwrap();
    assert_eq!((digest.count, digest.hash, digest.heads), (7, [9; 16], vec![(cid(1), 300)]));
    let mut pin = Pin::new(cid(8), PinOptions { name: "ü".repeat(40), ..Default::default() });
    pin.options.metadata.insert("key".to_owned(), "value".to_owned());
    client.log_pin(&one, pin.clone()).await.unwrap();
    client.log_unpin(&one, &cid(8)).await.unwrap();
    client.add_peer(&one, &peer(9)).await.unwrap();
    let calls = peers.handler.calls.lock().unwrap();
    let last = calls.iter().rev().take(3).rev().cloned().collect::<Vec<_>>();
    assert_eq!(last, [Request::LogPin(Box::new(pin)), Request::LogUnpin(cid(8)), Request::AddPeer(peer(9))]);
}

#[tokio::test(start_paused = true)]
async fn listings_come_in_pages_and_end_where_they_break() {
    let peers = peers();
    let (client, one) = (peers.client(), peer(1));
    let (items, error) = collect(client.status_all(&one, TrackerStatus::Pinned.into())).await;
    assert_eq!((items.len(), error.is_none()), (ITEMS as usize, true));
    assert!(items.into_iter().enumerate().all(|(index, item)| item == info(cid(index as u32))));

    let (items, error) = collect(client.status_all(&one, StatusFilter::ERROR)).await;
    assert_eq!(items.len(), 10, "what came before the error counts");
    let error = error.unwrap();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Remote, "it broke"));

    let (items, error) = collect(client.recover_all_local(&one)).await;
    assert_eq!((items.len(), error.unwrap().message()), (0, "not now"));

    let members: Vec<_> = client.peers(&one).map(|item| item.unwrap().id).collect().await;
    assert_eq!(members, [peer(1), peer(2), peer(3)]);
}

#[tokio::test(start_paused = true)]
async fn a_sorted_listing_goes_on_where_it_stopped_and_must_be_sorted() {
    let peers = peers();
    let (client, one) = (peers.client(), peer(1));
    let (all, error) = collect(client.status_all_sorted(&one, StatusFilter::ALL, None)).await;
    assert_eq!((all.len(), error.is_none()), (ITEMS as usize, true));
    let (rest, _) = collect(client.status_all_sorted(&one, StatusFilter::ALL, Some(all[2000].cid))).await;
    assert_eq!(rest, all[2001..]);
    let (_, error) = collect(client.status_all_sorted(&one, StatusFilter::ERROR, None)).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Corrupt);
}

#[tokio::test(start_paused = true)]
async fn statuses_of_many_come_in_the_order_they_were_asked_for_or_not_at_all() {
    let peers = peers();
    let (client, one) = (peers.client(), peer(1));
    let asked = |count: u32| (0..count).rev().map(cid).collect::<Vec<_>>();
    for count in [0, 1, 2, STATUS_OF_CIDS_MAX as u32] {
        let (infos, error) = collect(client.status_of(&one, asked(count))).await;
        assert!(error.is_none(), "{count}: {error:?}");
        assert_eq!(infos.iter().map(|info| info.cid).collect::<Vec<_>>(), asked(count));
    }
    for count in [3, 4, 5] {
        let (_, error) = collect(client.status_of(&one, asked(count))).await;
        assert_eq!(error.unwrap().kind(), ErrorKind::Corrupt, "{count}");
    }
    let too_many = asked(STATUS_OF_CIDS_MAX as u32 + 1);
    let (_, error) = collect(client.status_of(&one, too_many)).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Remote);
}

#[tokio::test(start_paused = true)]
async fn errors_of_methods_arrive_as_their_text_and_are_followed_by_nothing_in_particular() {
    let peers = peers();
    let error = peers.client().repo_stat(&peer(1)).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Remote, "the daemon is down"));
    let raw = exchange(&peers.trusted, &[header("IPFSConnector", "RepoStat"), vec![0x80]].concat()).await;
    let zero = [0x81, 0xa1, b's', 0x00];
    assert_eq!(raw, answer("IPFSConnector", "RepoStat", "the daemon is down", 0, &zero));
    // A handler that answers something else is a bug here, and told as such.
    let error = peers.client().rm_peer(&peer(1), &peer(4)).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (ErrorKind::Remote, "internal error"));
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_cancels_its_method_on_the_other_side() {
    let peers = peers();
    let client = peers.client();
    let calling = tokio::spawn(async move { client.recover(&peer(1), &cid(1)).await });
    peers.handler.work.wait(1).await;
    let start = Instant::now();
    calling.abort();
    peers.handler.work.wait(0).await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());

    // A listing too, by what can no longer be written.
    let mut pages = peers.client().status_all(&peer(1), StatusFilter::QUEUED);
    pages.next().await.unwrap().unwrap();
    peers.handler.work.wait(1).await;
    drop(pages);
    peers.handler.work.wait(0).await;
}

#[tokio::test(start_paused = true)]
async fn an_endless_listing_is_taken_as_slowly_as_its_reader_reads() {
    let peers = peers();
    let mut pages = peers.client().status_all(&peer(1), StatusFilter::QUEUED);
    for _ in 0..10 {
        let page = pages.next().await.unwrap().unwrap();
        assert!(page.len() <= PAGE_ITEMS_MAX);
        // Longer than any silence may be: this side is silent, not the other.
        sleep(Duration::from_secs(60)).await;
    }
    drop(pages);
    peers.handler.work.wait(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_ends_its_half_has_left_unless_the_answer_is_there_already() {
    let peers = peers();
    for (service, method, argument, expected) in [
        ("Cluster", "Version", encode(&msgpack::Empty), None),
        ("PinTracker", "Recover", encode(&Some(cid(1))), Some("context canceled")),
    ] {
        let mut stream = open(&peers.trusted).await;
        stream.write_all(&[header(service, method), argument].concat()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        let response: wire::Response = msgpack::decode(&bytes).unwrap();
        assert_eq!(response.error, expected.unwrap_or_default(), "{method}");
        peers.handler.work.wait(0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_a_timeout_and_ends_the_work() {
    let peers = peers();
    let start = Instant::now();
    let error = peers.client().recover(&peer(1), &cid(1)).await.unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, CALL_TIMEOUT));
    assert!(error.message().contains("PinTracker.Recover"), "{error}");
    peers.handler.work.wait(0).await;

    let mut pages = peers.client().sync_all(&peer(1));
    assert_eq!(pages.next().await.unwrap().unwrap().len(), 1);
    let start = Instant::now();
    let error = pages.next().await.unwrap().unwrap_err();
    assert_eq!((error.kind(), start.elapsed()), (ErrorKind::Timeout, CALL_TIMEOUT));
    assert!(pages.next().await.is_none());
    peers.handler.work.wait(0).await;
}

#[tokio::test(start_paused = true)]
async fn who_is_not_trusted_is_refused_in_the_references_words_before_the_argument_is_read() {
    let peers = peers();
    let client = PeerClient::new(peers.stranger.clone());
    for method in Method::ALL.into_iter().filter(|method| !method.is_extra()) {
        let (service, name) = method.name();
        // An argument that nobody could read.
        let raw = exchange(&peers.stranger, &[header(service, name), vec![0xc1]].concat()).await;
        let refusal = format!("client does not have permissions to call {service}.{name}");
        let refused = answer(service, name, &refusal, 3, &[0xc0]);
        assert_eq!(raw == refused, method.access() == Access::Trusted, "{method}");
    }
    assert!(peers.handler.calls.lock().unwrap().iter().all(|call| call.access() == Access::Open));
    client.id(&peer(1)).await.unwrap();
    for error in [
        client.status(&peer(1), &cid(1)).await.unwrap_err(),
        client.pinset_digest(&peer(1)).await.unwrap_err(),
        collect(client.status_all(&peer(1), StatusFilter::ALL)).await.1.unwrap(),
        client.put_blocks(&peer(1), stream::pending().boxed()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
        assert!(error.message().starts_with("client does not have permissions to call "), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_closed_or_does_not_exist_is_told_in_the_references_words() {
    let peers = peers();
    for (service, method, error, error_type) in [
        ("Cluster", "Pin", "client does not have permissions to call Cluster.Pin", 3),
        ("PinTracker", "Track", "client does not have permissions to call PinTracker.Track", 3),
        ("Cluster", "Nope", "rpc: can't find method Nope", 1),
        ("PinTracker", "SyncAll", "rpc: can't find method SyncAll", 1),
        ("Nope", "X", "rpc: can't find service Nope", 1),
        ("", "", "rpc: can't find service ", 1),
    ] {
        let raw = exchange(&peers.trusted, &[header(service, method), vec![0x80]].concat()).await;
        assert_eq!(raw, answer(service, method, error, error_type, &[0xc0]), "{service}.{method}");
    }
    // What the peer does not serve to anybody.
    let network = MemoryNetwork::new(2);
    let (server, caller) = (network.join(peer(1)).unwrap(), network.join(peer(2)).unwrap());
    let refusing =
        RpcServer::refusing(Arc::new(Handler::default()), Arc::new(TrustTwo), [Method::RepoGcLocal]);
    refusing.accept_on(&server).unwrap();
    let client = PeerClient::new(Arc::new(caller));
    assert_eq!(client.repo_gc(&peer(1)).await.unwrap_err().kind(), ErrorKind::Unauthorized);
    client.status(&peer(1), &cid(1)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_lacks_our_calls_says_so_in_a_way_callers_can_tell() {
    let network = MemoryNetwork::new(3);
    let (server, caller) = (network.join(peer(1)).unwrap(), network.join(peer(2)).unwrap());
    let rpc = RpcServer::new(Arc::new(Handler::default()), Arc::new(TrustTwo));
    server.accept(Protocol::new(RPC_PROTOCOL), Arc::new(rpc)).unwrap();
    let client = PeerClient::new(Arc::new(caller));
    let (_, error) = collect(client.status_all_sorted(&peer(1), StatusFilter::ALL, None)).await;
    assert_eq!(error.unwrap().kind(), ErrorKind::Unsupported);
    assert_eq!(client.pinset_digest(&peer(1)).await.unwrap_err().kind(), ErrorKind::Unsupported);
    client.id(&peer(1)).await.unwrap();
    // Nobody there at all is another thing.
    assert_eq!(client.id(&peer(8)).await.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_call_ends_and_reaches_nobody() {
    let peers = peers();
    let claimed = |marker: u8| [vec![marker], vec![0xff; 4]].concat();
    let call = |method: &str, argument: &[u8]| [&header("Cluster", method)[..], argument].concat();
    for (case, bytes) in [
        ("nothing that means something", vec![0xc1]),
        ("text over 4 GiB", claimed(0xdb)),
        ("4 Gi entries", claimed(0xdf)),
        ("deep", vec![0x91; 4000]),
        ("a number", vec![7]),
        ("header over its limit", [vec![0xdb, 0, 0, 0x20, 0], vec![0; 0x2000]].concat()),
        ("argument over its limit", call("PeerAdd", &[0xda, 0xff, 0xff])),
        ("argument of garbage", call("PeerAdd", &[0xc1])),
    ] {
        let start = Instant::now();
        let raw = exchange(&peers.trusted, &bytes).await;
        assert!(raw.is_empty(), "{case}: {raw:?}");
        assert!(start.elapsed() < Duration::from_secs(1), "{case}");
    }
    for (case, argument) in [
        ("an empty peer id", vec![0xa0]),
        ("a number", vec![5]),
        ("nothing", vec![0xc0]),
        ("text", encode(&"12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5".to_owned())),
    ] {
        let raw = exchange(&peers.trusted, &call("PeerAdd", &argument)).await;
        let response: wire::Response = msgpack::decode(&raw).unwrap();
        assert_eq!(response.error_type, 1, "{case}");
        assert_eq!(raw.last(), Some(&0x80), "{case}: the zero value follows");
    }
    assert!(peers.handler.calls.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_get_on_with_it_is_cut_off() {
    let peers = peers();
    for bytes in [vec![], header("Cluster", "ID")[..5].to_vec(), header("Cluster", "ID")] {
        let start = Instant::now();
        let raw = exchange(&peers.trusted, &bytes).await;
        assert!(raw.is_empty(), "{raw:?}");
        assert!(start.elapsed() <= REQUEST_TIMEOUT + Duration::from_secs(1), "{:?}", start.elapsed());
    }
    // Byte by byte is no way around it.
    let mut stream = open(&peers.trusted).await;
    let start = Instant::now();
    let mut written = 0;
    while stream.write_all(&[[0x91], [0xa1]][usize::from(written > 0)]).await.is_ok() && written < 1000 {
        written += 1;
        sleep(Duration::from_secs(1)).await;
    }
    assert!(start.elapsed() <= REQUEST_TIMEOUT + Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(peers.handler.calls.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn blocks_arrive_in_order_and_as_fast_as_they_are_stored() {
    let peers = peers();
    let blocks: Vec<Block> = (0..50u8).map(|number| Block::raw(vec![number; 100_000])).collect();
    let sent = blocks.clone();
    peers.client().put_blocks(&peer(1), stream::iter(sent.into_iter().map(Ok)).boxed()).await.unwrap();
    assert_eq!(*peers.handler.blocks.lock().unwrap(), blocks);

    // Stored one a second: the source is never far ahead.
    peers.handler.taken.store(0, Ordering::SeqCst);
    let (given, handler) = (Arc::new(AtomicUsize::new(0)), peers.handler.clone());
    let slow = Bytes::from([&b"slow"[..], &vec![1; 200_000]].concat());
    let counted = given.clone();
    let source = stream::iter(0..20).map(move |_| {
        let given = counted.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(given <= handler.taken.load(Ordering::SeqCst) + 4, "{given} blocks are under way");
        Ok(Block::raw(slow.clone()))
    });
    let start = Instant::now();
    peers.client().put_blocks(&peer(1), source.boxed()).await.unwrap();
    assert!(start.elapsed() >= Duration::from_secs(20), "it returns once all are stored");
    assert_eq!(given.load(Ordering::SeqCst), 20);
}

#[tokio::test(start_paused = true)]
async fn blocks_that_cannot_be_stored_or_sent_say_why() {
    let peers = peers();
    let put = |blocks: Vec<Result<Block>>| {
        let (client, blocks) = (peers.client(), stream::iter(blocks).boxed());
        async move { client.put_blocks(&peer(1), blocks).await.unwrap_err() }
    };
    // Refused early, while many more are on their way.
    let mut many = vec![Ok(Block::raw("no"))];
    many.extend((0..100u8).map(|number| Ok(Block::raw(vec![number; 100_000]))));
    let error = put(many).await;
    assert_eq!((error.kind(), error.message()), (ErrorKind::Remote, "the daemon is full"));
    // Not the block it says it is.
    let error = put(vec![Ok(Block { cid: cid(1), data: "else".into() })]).await;
    assert!(error.message().contains("are not the block"), "{error}");
    // Too large to be sent.
    let error = put(vec![Ok(Block::raw(vec![0; BLOCK_BYTES_MAX + 1]))]).await;
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    // The source breaks off: that is our error, and the other side does not take it for the end.
    let source =
        stream::iter([Ok(Block::raw("fine")), Err(Error::internal("no more"))]).then(|block| async {
            sleep(Duration::from_secs(1)).await;
            block
        });
    let error = peers.client().put_blocks(&peer(1), source.boxed()).await.unwrap_err();
    assert_eq!(error.message(), "no more");
    peers.handler.work.wait(0).await;
    assert_eq!(*peers.handler.blocks.lock().unwrap(), [Block::raw("fine")]);
    // A block as large as may be.
    let largest = stream::iter([Ok(Block::raw(vec![0; BLOCK_BYTES_MAX]))]);
    peers.client().put_blocks(&peer(1), largest.boxed()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_is_refused_while_it_still_writes_gets_to_read_why() {
    let peers = peers();
    let mut stream = open(&peers.stranger).await;
    stream.write_all(&header("IPFSConnector", "BlockStream")).await.unwrap();
    // The refusal is on its way; a stream that were dropped now would take it back on some transports.
    sleep(Duration::from_secs(1)).await;
    stream.write_all(&vec![0; 1 << 20]).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let response: wire::Response = msgpack::decode(&bytes).unwrap();
    assert_eq!(response.error_type, 3);
}

/// Answers every call with the same bytes, again and again where it is endless.
#[derive(Debug)]
struct Says {
    bytes: Vec<u8>,
    endless: bool,
}

#[async_trait]
impl StreamHandler for Says {
    async fn handle(&self, _: PeerId, mut stream: PeerStream) {
        while stream.write_all(&self.bytes).await.is_ok() && self.endless {}
        let _ = stream.shutdown().await;
        sleep(Duration::from_secs(100)).await;
    }
}

async fn client_of(says: Says) -> (PeerClient, MemoryTransport) {
    let network = MemoryNetwork::new(4);
    let (server, caller) = (network.join(peer(1)).unwrap(), network.join(peer(2)).unwrap());
    server.accept(Protocol::new(RPC_PROTOCOL), Arc::new(says)).unwrap();
    (PeerClient::new(Arc::new(caller)), server)
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_none_are_errors_in_bounded_time() {
    let ok = answer("Cluster", "ID", "", 0, &[]);
    let with = |body: &[u8]| [&ok[..], body].concat();
    let long = answer("Cluster", "ID", &"x".repeat(60_000), 0, &[0x80]);
    for (case, bytes, endless, kind) in [
        ("nothing", vec![], false, ErrorKind::Unavailable),
        ("half", ok[..5].to_vec(), false, ErrorKind::Unavailable),
        ("no body", ok.clone(), false, ErrorKind::Unavailable),
        ("garbage", vec![0xc1], true, ErrorKind::Corrupt),
        ("a header without end", vec![0x91], true, ErrorKind::Corrupt),
        ("4 GiB claimed", with(&[0xdb, 0xff, 0xff, 0xff, 0xff]), false, ErrorKind::Corrupt),
        ("a body that is none", with(&[5]), false, ErrorKind::Corrupt),
        ("nobody", with(&[0x80]), false, ErrorKind::Corrupt),
        ("somebody else", with(&encode(&wire::Peer::from(&peer_info(peer(9))))), false, ErrorKind::Corrupt),
        ("a long story", long, false, ErrorKind::Remote),
        ("only the head of an error", answer("a", "b", "why", 0, &[]), false, ErrorKind::Remote),
    ] {
        let (client, _server) = client_of(Says { bytes, endless }).await;
        let start = Instant::now();
        let error = client.id(&peer(1)).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{case}: {error}");
        assert!(error.message().len() < 5000, "{case}");
        assert!(start.elapsed() <= CALL_TIMEOUT, "{case}");
        let stream = client.id_stream(&peer(1)).await.unwrap_err();
        assert!(stream.kind() == kind || case == "nothing", "{case}: {stream}");
        let error = client.put_blocks(&peer(1), stream::pending().boxed()).await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Timeout, "{case}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_collection_of_garbage_fits_and_a_larger_one_does_not() {
    for (keys, fits) in [(400_000, true), (2_200_000, false)] {
        let gc = wire::RepoGc {
            peer: Some(peer(1)),
            keys: msgpack::List(Some(vec![Default::default(); keys])),
            ..Default::default()
        };
        let bytes = [answer("Cluster", "RepoGCLocal", "", 0, &[]), encode(&gc)].concat();
        let (client, _server) = client_of(Says { bytes, endless: false }).await;
        let gc = client.repo_gc(&peer(1)).await;
        assert_eq!(gc.as_ref().map_or(0, |gc| gc.keys.len()), if fits { keys } else { 0 });
        assert!(gc.map_or_else(|error| error.kind() == ErrorKind::Corrupt, |_| true));
    }
}

#[tokio::test(start_paused = true)]
async fn members_without_end_are_cut_off() {
    let one =
        [answer("Cluster", "Peers", "", 0, &[]), encode(&wire::Peer::from(&peer_info(peer(7))))].concat();
    let (client, _server) = client_of(Says { bytes: one, endless: true }).await;
    let members: Vec<_> = client.peers(&peer(1)).collect().await;
    assert_eq!(members.len(), 10_001);
    assert_eq!(members.last().unwrap().as_ref().unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test(start_paused = true)]
async fn an_item_that_cannot_be_understood_is_shown_as_such_and_hides_no_other() {
    let item = |status: i64| {
        let mut item = wire::PinInfo::from(&info(cid(1)));
        item.status = status;
        item.peer = Some(peer(66));
        [answer("PinTracker", "StatusAll", "", 0, &[]), encode(&item)].concat()
    };
    let bytes = [item(16), item(0), item(1 << 20), item(16)].concat();
    let (client, _server) = client_of(Says { bytes, endless: false }).await;
    let (items, error) = collect(client.status_all(&peer(1), StatusFilter::ALL)).await;
    assert!(error.is_none(), "{error:?}");
    let said: Vec<_> = items.iter().map(|item| item.status.status).collect();
    use TrackerStatus::{ClusterError, Pinned};
    assert_eq!(said, [Pinned, ClusterError, ClusterError, Pinned]);
    assert_eq!(items[2].status.error, "unknown status 1048576");
    assert!(items.iter().all(|item| item.peer == peer(1)), "a peer speaks for itself alone");
}

#[tokio::test(start_paused = true)]
async fn many_peers_are_asked_a_bounded_number_at_a_time() {
    let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let asked = fan_out((0..200).map(peer), |peer| {
        let (running, most) = (&running, &most);
        async move {
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_secs(1)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            peer
        }
    });
    let answers: Vec<_> = asked.collect().await;
    assert_eq!((answers.len(), most.load(Ordering::SeqCst)), (200, FAN_OUT_PEERS_MAX));
    assert!(answers.iter().all(|(peer, answer)| peer == answer));
}

#[tokio::test(start_paused = true)]
async fn strangers_cannot_take_the_turns_of_those_who_are_trusted() {
    let network = MemoryNetwork::new(5);
    let server = network.join(peer(1)).unwrap();
    let handler = Arc::new(Stuck::default());
    RpcServer::new(handler.clone(), Arc::new(TrustTwo)).accept_on(&server).unwrap();
    let client = |number| PeerClient::new(Arc::new(network.join(peer(number)).unwrap()));
    let strangers = [3, 4].map(client);
    let mut calls = Vec::new();
    for stranger in &strangers {
        for _ in 0..OPEN_CALLS_MAX / 2 + 10 {
            let stranger = stranger.clone();
            calls.push(tokio::spawn(async move { stranger.version(&peer(1)).await }));
        }
    }
    handler.work.wait(OPEN_CALLS_MAX).await;
    let trusted = client(2);
    trusted.status(&peer(1), &cid(1)).await.unwrap();
    trusted.id(&peer(1)).await.unwrap();
    let mut refused = 0;
    for call in calls {
        let error = call.await.unwrap().unwrap_err();
        refused +=
            usize::from(error.kind() == ErrorKind::Remote && error.message().contains("too many calls"));
    }
    assert_eq!(refused, 20);
    drop(server);
}

/// Never says its version.
#[derive(Debug, Default)]
struct Stuck {
    work: Arc<Work>,
}

#[async_trait]
impl RequestHandler for Stuck {
    async fn call(&self, _: PeerId, request: Request) -> Result<Reply> {
        match request {
            Request::Status(cid) => Ok(Reply::Pin(Box::new(info(cid)))),
            Request::Id => Ok(Reply::Peer(Box::new(peer_info(peer(1))))),
            _ => {
                let _working = self.work.begin();
                std::future::pending().await
            }
        }
    }
    async fn stream(&self, _: PeerId, _: Request) -> Result<BoxStream<'static, Result<Page>>> {
        Err(Error::internal("no streams"))
    }
    async fn put_blocks(&self, _: PeerId, _: BoxStream<'static, Result<Block>>) -> Result<()> {
        Err(Error::internal("no blocks"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_an_error_at_once_and_ends_the_work() {
    let peers = peers();
    let client = peers.client();
    let calling = tokio::spawn(async move { client.recover(&peer(1), &cid(1)).await });
    peers.handler.work.wait(1).await;
    peers.server.disconnect(&peer(2)).await.unwrap();
    let start = Instant::now();
    assert_eq!(calling.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    peers.handler.work.wait(0).await;
    assert!(start.elapsed() < Duration::from_secs(1));
}

/// The bytes of whole streams of the reference.
#[cfg(feature = "testing")]
fn recorded(group: &str) -> Vec<Vec<u8>> {
    let file: serde_json::Value =
        serde_json::from_str(include_str!("../../tests/data/wire-vectors.json")).unwrap();
    let vectors = file["vectors"].as_array().unwrap().iter();
    let of_group = vectors.filter(|vector| vector["name"].as_str().unwrap().starts_with(group));
    of_group.map(|vector| hex::decode(vector["hex"].as_str().unwrap()).unwrap()).collect()
}

#[cfg(feature = "testing")]
#[tokio::test(start_paused = true)]
async fn broken_calls_and_broken_answers_come_to_an_end() {
    const COUNT: usize = 3_000;
    let mut broken = Vec::new();
    let mut mutator = crate::testing::mutate::Mutator::new(0x2024);
    let mut originals = recorded("rpc-request/");
    originals.extend(Method::ALL.map(|method| {
        let (service, name) = method.name();
        [header(service, name), encode(&Some(cid(1)))].concat()
    }));
    for index in 0..COUNT {
        let other = mutator.below(originals.len());
        broken.push(mutator.mutate(&originals[index % originals.len()], &originals[other]));
    }
    let peers = peers();
    for bytes in broken {
        let mut stream = open(&peers.trusted).await;
        // It may have been told to go away before it has all of it.
        if stream.write_all(&bytes).await.is_ok() {
            let _ = stream.shutdown().await;
        }
        let mut answer = Vec::new();
        // An endless listing is the only answer of this size.
        let reading = async { (&mut stream).take(1 << 20).read_to_end(&mut answer).await };
        let ended = timeout(Duration::from_secs(700), reading).await;
        assert!(ended.is_ok(), "{}", hex::encode(&bytes));
    }
    peers.client().id(&peer(1)).await.unwrap();

    let originals = recorded("rpc-response/");
    for index in 0..COUNT {
        let other = mutator.below(originals.len());
        let bytes = mutator.mutate(&originals[index % originals.len()], &originals[other]);
        let (client, _server) = client_of(Says { bytes, endless: false }).await;
        let one = peer(1);
        let start = Instant::now();
        match index % 4 {
            0 => drop(client.id(&one).await),
            1 => drop(client.status(&one, &cid(1)).await),
            2 => drop(client.peers(&one).collect::<Vec<_>>().await),
            _ => drop(collect(client.status_all(&one, StatusFilter::ALL)).await),
        }
        assert!(start.elapsed() <= CALL_TIMEOUT + Duration::from_secs(2), "{:?}", start.elapsed());
    }
}
