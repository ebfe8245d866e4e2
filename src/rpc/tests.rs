//! Calls between peers of an in-memory network, on paused time.

mod answers;
mod blocks;
mod calls;
mod refusals;

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
        // Connectors that gather blocks look once more.
        assert!(blocks.next().await.is_none());
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
