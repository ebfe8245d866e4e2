use bytes::Bytes;
use tokio::io::AsyncReadExt as _;
use tokio::time::sleep;

use super::*;
use crate::transport::{MemoryNetwork, MemoryTransport};

#[derive(Debug, Default)]
struct Blocks(Mutex<BTreeMap<Cid, Bytes>>);

impl Blocks {
    fn put(&self, block: &Block) {
        self.0.lock().unwrap().insert(block.cid, block.data.clone());
    }
}

impl BlockSource for Blocks {
    fn get(&self, cid: &Cid) -> Result<Option<Bytes>> {
        Ok(self.0.lock().unwrap().get(cid).cloned())
    }
}

struct Member {
    peer: PeerId,
    transport: Arc<MemoryTransport>,
    blocks: Arc<Blocks>,
    exchange: StreamExchange,
}

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes(&[0, 1, number]).unwrap()
}

fn member(network: &MemoryNetwork, number: u8) -> Member {
    let transport = Arc::new(network.join(peer(number)).unwrap());
    let blocks = Arc::new(Blocks::default());
    let exchange = StreamExchange::new(transport.clone(), blocks.clone()).unwrap();
    Member { peer: peer(number), transport, blocks, exchange }
}

async fn connect(one: &Member, other: &Member) {
    one.transport.connect(&other.transport.listen_addresses()[0]).await.unwrap();
}

fn sessions(member: &Member) -> usize {
    member.exchange.inner.asking().sessions.len()
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_connects_later_is_asked_at_once() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    let block = Block::raw("x");
    other.blocks.put(&block);
    let connecting = async {
        sleep(Duration::from_millis(10_100)).await;
        connect(&other, &one).await;
        Instant::now()
    };
    let got = async { (one.exchange.get(&block.cid, None).await, Instant::now()) };
    let ((got, at), connected_at) = tokio::join!(got, connecting);
    assert_eq!(got.unwrap(), block);
    assert!(at < connected_at + TICK / 2, "not only when the next tick looked");
}

#[tokio::test(start_paused = true)]
async fn what_is_announced_is_sent_at_once_to_who_asked_for_it() {
    let network = MemoryNetwork::new(0);
    network.set_delay(Duration::from_millis(10));
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one, &other).await;
    let (block, start) = (Block::raw("x"), Instant::now());
    let announcing = async {
        sleep(Duration::from_secs(3)).await;
        other.blocks.put(&block);
        other.exchange.announce(&[block.cid]).await.unwrap();
    };
    let (got, ()) = tokio::join!(one.exchange.get(&block.cid, Some(other.peer)), announcing);
    assert_eq!(got.unwrap(), block);
    assert_eq!(start.elapsed(), Duration::from_millis(3_010), "one way, nothing asked again");
}

#[tokio::test(start_paused = true)]
async fn a_want_survives_a_partition() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one, &other).await;
    let block = Block::raw("x");
    let breaking = async {
        sleep(Duration::from_secs(3)).await;
        network.partition(one.peer, other.peer);
        other.blocks.put(&block);
        other.exchange.announce(&[block.cid]).await.unwrap();
        sleep(Duration::from_secs(60)).await;
        network.heal(one.peer, other.peer);
        connect(&one, &other).await;
    };
    let (got, ()) = tokio::join!(one.exchange.get(&block.cid, Some(other.peer)), breaking);
    assert_eq!(got.unwrap(), block);
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_use_is_closed_and_one_that_is_remembered_by_is_not() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one, &other).await;
    let (first, later) = (Block::raw("first"), Block::raw("later"));
    other.blocks.put(&first);
    one.exchange.get(&first.cid, None).await.unwrap();
    let waiting = timeout(10 * IDLE_TIMEOUT, one.exchange.get(&later.cid, None)).await;
    assert!(waiting.is_err());
    assert_eq!(sessions(&one), 1, "the other side may still answer");
    sleep(2 * IDLE_TIMEOUT).await;
    assert_eq!(sessions(&one), 0);
    sleep(Duration::from_secs(1)).await;
    assert!(other.exchange.inner.serving().is_empty());

    other.blocks.put(&later);
    assert_eq!(one.exchange.get(&later.cid, None).await.unwrap(), later, "a new stream is opened");
}

#[tokio::test(start_paused = true)]
async fn dropped_calls_are_forgotten_on_both_sides() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one, &other).await;
    let cids: Vec<Cid> = (0..100_u8).map(|number| Block::raw(vec![number]).cid).collect();
    let many = one.exchange.get_many(cids.clone(), Some(other.peer)).collect::<Vec<_>>();
    assert!(timeout(Duration::from_secs(60), many).await.is_err());
    sleep(Duration::from_secs(1)).await;
    assert!(cids.iter().all(|cid| !one.exchange.inner.asking().wants.is_wanted(cid)));
    assert!(other.exchange.inner.serving().wants_nothing());
    assert_eq!(one.exchange.inner.room.available_permits(), WANTS_MAX);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_speaks_nonsense_or_another_protocol_is_survived() {
    #[derive(Debug)]
    struct Nonsense;

    #[async_trait]
    impl StreamHandler for Nonsense {
        async fn handle(&self, _: PeerId, mut stream: PeerStream) {
            let _ = stream.write_all(&[255; 1_000]).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
        }
    }

    let network = MemoryNetwork::new(0);
    let (one, honest) = (member(&network, 1), member(&network, 2));
    let nonsense = network.join(peer(3)).unwrap();
    nonsense.accept(Protocol::new(BLOCKS_PROTOCOL), Arc::new(Nonsense)).unwrap();
    let silent = network.join(peer(4)).unwrap();
    for address in [nonsense.listen_addresses(), silent.listen_addresses()].concat() {
        one.transport.connect(&address).await.unwrap();
    }
    let block = Block::raw("x");
    honest.blocks.put(&block);
    for hint in [peer(3), peer(4)] {
        let help = async {
            sleep(Duration::from_secs(30)).await;
            connect(&one, &honest).await;
        };
        let (got, ()) = tokio::join!(one.exchange.get(&block.cid, Some(hint)), help);
        assert_eq!(got.unwrap(), block);
        one.transport.disconnect(&honest.peer).await.unwrap();
    }

    // And the other way: questions that are none.
    let mut stream = nonsense.open(&one.peer, &Protocol::new(BLOCKS_PROTOCOL)).await.unwrap();
    stream.write_all(&[255; 1_000]).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_block_that_nobody_could_check_or_that_is_too_large_is_not_got() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one, &other).await;
    // Hash function 0x300001 belongs to nobody.
    let strange: Cid = Cid::new_v1(0x55, cid::multihash::Multihash::wrap(0x30_0001, &[7; 32]).unwrap());
    let error = one.exchange.get(&strange, Some(other.peer)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let (largest, too_large) =
        (Block::raw(vec![1; BLOCK_BYTES_MAX]), Block::raw(vec![1; BLOCK_BYTES_MAX + 1]));
    other.blocks.put(&largest);
    other.blocks.put(&too_large);
    assert!(one.exchange.get(&largest.cid, Some(other.peer)).await.unwrap() == largest);
    let got = timeout(Duration::from_secs(60), one.exchange.get(&too_large.cid, Some(other.peer))).await;
    assert!(got.is_err());
}

#[tokio::test(start_paused = true)]
async fn one_transport_has_one_exchange_and_dropping_it_lets_go_of_everything() {
    let network = MemoryNetwork::new(0);
    let (one, other) = (member(&network, 1), member(&network, 2));
    connect(&one, &other).await;
    let second = StreamExchange::new(one.transport.clone(), one.blocks.clone()).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Conflict);

    let absent = Block::raw("x").cid;
    let many = one.exchange.get_many(vec![absent], Some(other.peer));
    assert!(timeout(Duration::from_secs(5), one.exchange.get(&absent, None)).await.is_err());
    let (transport, blocks, tasks) =
        (Arc::downgrade(&one.transport), Arc::downgrade(&one.blocks), one.exchange.inner.tasks.clone());
    drop(one);
    tasks.ended().await;
    let ended = many.collect::<Vec<_>>().await;
    assert!(ended.iter().all(|got| got.as_ref().is_err_and(|error| error.kind() == ErrorKind::ShutDown)));
    assert!(transport.upgrade().is_none() && blocks.upgrade().is_none());
}
