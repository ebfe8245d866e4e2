//! Shards over a host that remembers what it is told.

use std::collections::BTreeMap;
use std::sync::Mutex;

use futures::stream::BoxStream;

use super::*;
use crate::adder::destinations::Choice;
use crate::error::ErrorKind;
use crate::types::Block;

#[derive(Debug, Default)]
struct Fake {
    blocks: Mutex<Vec<Block>>,
    pins: Mutex<BTreeMap<Cid, Pin>>,
    /// The type of pin that cannot be made.
    refused: Option<PinType>,
}

#[async_trait]
impl Placement for Fake {
    async fn choose(&self) -> Result<Choice> {
        Ok(Choice { destinations: vec![peer(7)], allocations: None, min: 1, replaceable: true })
    }
    async fn another(&self, _: &[PeerId]) -> Result<Option<PeerId>> {
        Ok(None)
    }
    async fn put_blocks(&self, _: &PeerId, mut blocks: BoxStream<'static, Result<Block>>) -> Result<()> {
        while let Some(block) = blocks.next().await {
            self.blocks.lock().unwrap().push(block?);
        }
        Ok(())
    }
}

#[async_trait]
impl ShardHost for Fake {
    fn local_peer(&self) -> PeerId {
        peer(1)
    }
    async fn prepare(&self, pin: Pin) -> Result<Pinned> {
        if self.refused == Some(pin.pin_type) {
            return Err(Error::new(ErrorKind::Conflict, "no"));
        }
        let before = self.pins.lock().unwrap().get(&pin.cid).cloned();
        Ok(Pinned { now: pin, before })
    }
    async fn log(&self, operations: Vec<PinOperation>) -> Result<()> {
        let mut pins = self.pins.lock().unwrap();
        for operation in operations {
            match operation {
                PinOperation::Pin(pin) => {
                    pins.insert(pin.cid, Pin::clone(&pin).into_stored());
                }
                PinOperation::Revise(revision)
                    if pins.get(revision.operation().cid()) == Some(revision.seen()) =>
                {
                    match revision.now() {
                        Some(now) => pins.insert(now.cid, Pin::clone(now)),
                        None => pins.remove(&revision.seen().cid),
                    };
                }
                PinOperation::Revise(_) | PinOperation::Unpin(_) => {}
            }
        }
        Ok(())
    }
}

fn options() -> PinOptions {
    PinOptions { name: "sh".to_owned(), shard_size: 300, ..PinOptions::default() }
}

fn sink(fake: &Arc<Fake>) -> (ShardSink, tokio::sync::mpsc::Receiver<Added>) {
    let (lines, heard) = Lines::new(100);
    (ShardSink::new(fake.clone(), fake.clone(), options(), lines), heard)
}

fn block(number: u8) -> DagBlock {
    DagBlock { block: Block::raw(vec![number; 100]), dag_bytes: 100 }
}

#[tokio::test(start_paused = true)]
async fn blocks_fill_one_shard_after_the_other_and_all_is_pinned_as_the_reference_does() {
    let fake = Arc::new(Fake::default());
    let (mut sink, mut heard) = sink(&fake);
    // The first again and again: it is in one shard.
    for number in [1, 1, 2, 1, 3] {
        sink.put(block(number)).await.unwrap();
    }
    assert_eq!(sink.allocations(), [peer(7)]);
    let root = block(3).block.cid;
    let meta = sink.finish(&root).await.unwrap();
    drop(sink);

    let shards = [
        dag::nodes(&[block(1).block.cid, block(2).block.cid])[0].cid,
        dag::nodes(&[block(3).block.cid])[0].cid,
    ];
    let cluster_dag = dag::nodes(&shards)[0].cid;
    let lines: Vec<_> = std::iter::from_fn(|| heard.try_recv().ok())
        .map(|line| (line.name, line.cid.unwrap(), line.size, line.allocations))
        .collect();
    assert_eq!(
        lines,
        [
            ("shard-0".to_owned(), shards[0], 200, vec![peer(7)]),
            ("shard-1".to_owned(), shards[1], 100, vec![peer(7)]),
            ("sh-clusterDAG".to_owned(), cluster_dag, 300, vec![]),
        ]
    );
    let pins = fake.pins.lock().unwrap().clone();
    assert_eq!(pins.len(), 4);
    let first = &pins[&shards[0]];
    assert_eq!(
        (first.pin_type, first.max_depth, first.reference, first.options.name.as_str()),
        (PinType::Shard, 1, None, "sh-shard-0")
    );
    assert_eq!((first.options.shard_size, &first.allocations[..]), (200, &[peer(7)][..]));
    let second = &pins[&shards[1]];
    assert_eq!((second.reference, second.options.name.as_str()), (Some(shards[0]), "sh-shard-1"));
    let dag = &pins[&cluster_dag];
    assert_eq!(
        (dag.pin_type, dag.max_depth, dag.reference, dag.options.name.as_str(), dag.is_everywhere()),
        (PinType::ClusterDag, 0, Some(root), "sh-clusterDAG", true)
    );
    assert_eq!(dag.options.shard_size, 300);
    assert_eq!(
        (meta.cid, meta.pin_type, meta.max_depth, meta.reference, meta.options.name.as_str()),
        (root, PinType::Meta, 0, Some(cluster_dag), "sh")
    );
    let stored: Vec<Cid> = fake.blocks.lock().unwrap().iter().map(|block| block.cid).collect();
    assert_eq!(
        stored,
        [block(1).block.cid, block(2).block.cid, shards[0], block(3).block.cid, shards[1], cluster_dag]
    );
}

#[tokio::test(start_paused = true)]
async fn a_block_that_fits_nowhere_is_refused_with_the_text_of_the_reference() {
    let fake = Arc::new(Fake::default());
    let (mut sink, _heard) = sink(&fake);
    for bytes in [300, 301] {
        let block = DagBlock { block: Block::raw(vec![0; bytes]), dag_bytes: 0 };
        let error = sink.put(block).await.unwrap_err();
        assert_eq!(error.message(), "block doesn't fit in empty shard: shard size too small?");
    }
    assert!(sink.finish(&block(1).block.cid).await.is_err(), "there is nothing to shard");
}

#[tokio::test(start_paused = true)]
async fn what_was_pinned_is_put_back_when_the_last_step_fails() {
    let fake = Arc::new(Fake { refused: Some(PinType::Meta), ..Fake::default() });
    // The first shard is part of other content, which must not lose it.
    let first = dag::nodes(&[block(1).block.cid, block(2).block.cid])[0].cid;
    let mut other = Pin::new(first, PinOptions { name: "other".to_owned(), ..PinOptions::default() });
    (other.pin_type, other.max_depth) = (PinType::Shard, 1);
    for dropped in [false, true] {
        fake.pins.lock().unwrap().insert(first, other.clone());
        let (mut sink, _heard) = sink(&fake);
        for number in 1..=3 {
            sink.put(block(number)).await.unwrap();
        }
        if !dropped {
            sink.finish(&block(3).block.cid).await.unwrap_err();
            assert_eq!(fake.pins.lock().unwrap().len(), 3);
            sink.give_up().await;
        }
        assert!(dropped == (fake.pins.lock().unwrap()[&first].options.name == "sh-shard-0"));
        drop(sink);
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        assert_eq!(*fake.pins.lock().unwrap(), BTreeMap::from([(first, other.clone())]));
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut seen = Remembered::default();
    let cid = |number: usize| Block::raw(number.to_le_bytes().to_vec()).cid;
    for number in 0..2 * REMEMBERED_BLOCKS + 1 {
        seen.insert(cid(number));
    }
    assert!(!seen.contains(&cid(0)));
    assert!(seen.contains(&cid(REMEMBERED_BLOCKS)));
    assert_eq!(seen.young.len() + seen.old.len(), REMEMBERED_BLOCKS + 1);
}

fn peer(number: u8) -> PeerId {
    PeerId::from_bytes(&[0, 1, number]).unwrap()
}
