//! Callers that are refused, lack something, or do not get on with it.

use super::*;

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
    // How far behind somebody is they may know who follow.
    client.pinset_digest(&peer(1)).await.unwrap();
    for error in [
        client.status(&peer(1), &cid(1)).await.unwrap_err(),
        collect(client.status_of(&peer(1), vec![cid(1)])).await.1.unwrap(),
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
