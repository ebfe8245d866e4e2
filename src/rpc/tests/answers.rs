//! Answers that are none, or too many, and many calls at once.

use super::*;

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
        serde_json::from_str(include_str!("../../../tests/data/wire-vectors.json")).unwrap();
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
