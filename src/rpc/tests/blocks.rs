//! Streams of blocks.

use super::*;

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
