//! Blocks to and from the daemon's store.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::FutureExt as _;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use reqwest::Body;
use serde::Deserialize;

use super::http::{Judge, Upload};
use super::{COMPONENT, Inner};
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::dag::{CODEC_DAG_CBOR, CODEC_DAG_PB, HASH_IDENTITY};
use crate::types::{Block, Cid, parse_cid};

/// Blocks of one request.
const BATCH_BLOCKS_MAX: usize = 256;
/// Bytes of one request, unless a single block has more.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Requests at a time for one stream of blocks.
const BATCHES_AT_A_TIME: usize = 4;
/// Bytes of a block that is read; networks carry two million.
const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A line of `block/put`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutLine {
    key: String,
}

impl Inner {
    /// Sends blocks in requests of bounded size, several at a time: as large as what is ready, so that a quick source is
    /// sent in few and a slow one without delay.
    pub(super) async fn put_blocks(
        self: &Arc<Self>,
        blocks: BoxStream<'static, Result<Block>>,
    ) -> Result<()> {
        batches(blocks)
            .map_ok(|batch| async move { self.put_batch(batch).await })
            .try_buffer_unordered(BATCHES_AT_A_TIME)
            .try_for_each(|()| async { Ok(()) })
            .await
    }

    async fn put_batch(self: &Arc<Self>, batch: Vec<Block>) -> Result<()> {
        let Some(first) = batch.first() else { return Ok(()) };
        let path = put_path(&first.cid)?;
        let expected: Vec<Cid> = batch.iter().map(|block| block.cid).collect();
        let call = async {
            let upload = multipart(batch);
            let mut lines = self.http.post(&path, Judge::Nothing, Some(upload)).await?.lines();
            let mut expected = expected.iter();
            while let Some(line) = lines.next().await? {
                let line: PutLine = lines.parse(&line)?;
                let stored = parse_cid(&line.key).map_err(|error| lines.corrupt(error.message()))?;
                // The codec is that of the whole request: what counts is where the daemon finds the bytes again.
                match expected.next() {
                    Some(cid) if cid.hash() == stored.hash() => {}
                    Some(cid) => {
                        return Err(Error::new(
                            ErrorKind::Corrupt,
                            format!(
                                "these bytes are not the block {cid}: the IPFS daemon made {stored} of them"
                            ),
                        )
                        .component(COMPONENT));
                    }
                    None => return Err(lines.corrupt("it names more blocks than were sent")),
                }
            }
            match expected.next() {
                None => Ok(()),
                Some(cid) => Err(lines.corrupt(&format!("it ends before it says that it has block {cid}"))),
            }
        };
        self.within_request(&path, Judge::Nothing, call).await
    }

    pub(super) async fn get_block(self: &Arc<Self>, cid: &Cid) -> Result<Block> {
        if cid.hash().code() == HASH_IDENTITY {
            return Ok(Block { cid: *cid, data: Bytes::copy_from_slice(cid.hash().digest()) });
        }
        let path = format!("block/get?arg={cid}");
        let call = async {
            let data = self.http.post(&path, Judge::Nothing, None).await?.bytes(BLOCK_BYTES_MAX).await?;
            Block::verified(*cid, data).map_err(|error| error.component(COMPONENT))
        };
        self.within_request(&path, Judge::Nothing, call).await
    }
}

/// Cuts the stream where a request is full, where the hash function changes, and where nothing is ready.
fn batches(blocks: BoxStream<'static, Result<Block>>) -> BoxStream<'static, Result<Vec<Block>>> {
    let blocks = blocks.try_filter_map(|block| async move { not_identity(block) }).boxed();
    stream::try_unfold((blocks, None::<Block>), |(mut blocks, carried)| async move {
        let first = match carried {
            Some(block) => block,
            None => match blocks.try_next().await? {
                Some(block) => block,
                None => return Ok(None),
            },
        };
        let mut bytes = first.data.len();
        let mut batch = vec![first];
        let mut carried = None;
        while batch.len() < BATCH_BLOCKS_MAX {
            let Some(next) = blocks.try_next().now_or_never() else { break };
            let Some(block) = next? else { break };
            bytes += block.data.len();
            if bytes > BATCH_BYTES_MAX || hash_kind(&block) != hash_kind(&batch[0]) {
                carried = Some(block);
                break;
            }
            batch.push(block);
        }
        Ok(Some((batch, (blocks, carried))))
    })
    .boxed()
}

fn hash_kind(block: &Block) -> (u64, u8) {
    (block.cid.hash().code(), block.cid.hash().size())
}

/// A block that is in its own CID needs no store, but must be what it says.
fn not_identity(block: Block) -> Result<Option<Block>> {
    if block.cid.hash().code() != HASH_IDENTITY {
        return Ok(Some(block));
    }
    if block.cid.hash().digest() == block.data {
        return Ok(None);
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("these {} bytes are not the block {}", block.data.len(), block.cid),
    )
    .component(COMPONENT))
}

fn put_path(cid: &Cid) -> Result<String> {
    let code = cid.hash().code();
    let hash = hash_name(code).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("cannot store block {cid}: the name of its hash function {code:#x} is not known"),
        )
        .component(COMPONENT)
    })?;
    Ok(format!(
        "block/put?allow-big-block=true&cid-codec={}&mhlen={}&mhtype={hash}&pin=false",
        codec_name(cid.codec()),
        cid.hash().size()
    ))
}

/// Names of the codecs in use. Others go as raw: the daemon stores under the hash alone.
fn codec_name(codec: u64) -> &'static str {
    match codec {
        0x51 => "cbor",
        CODEC_DAG_PB => "dag-pb",
        CODEC_DAG_CBOR => "dag-cbor",
        0x72 => "libp2p-key",
        0x78 => "git-raw",
        0x85 => "dag-jose",
        0x0129 => "dag-json",
        0x0200 => "json",
        _ => "raw",
    }
}

fn hash_name(code: u64) -> Option<String> {
    let name = match code {
        0x11 => "sha1",
        0x12 => "sha2-256",
        0x13 => "sha2-512",
        0x14 => "sha3-512",
        0x15 => "sha3-384",
        0x16 => "sha3-256",
        0x17 => "sha3-224",
        0x18 => "shake-128",
        0x19 => "shake-256",
        0x1a => "keccak-224",
        0x1b => "keccak-256",
        0x1c => "keccak-384",
        0x1d => "keccak-512",
        0x1e => "blake3",
        0x56 => "dbl-sha2-256",
        0xb201..=0xb240 => return Some(format!("blake2b-{}", (code - 0xb200) * 8)),
        0xb241..=0xb260 => return Some(format!("blake2s-{}", (code - 0xb240) * 8)),
        _ => return None,
    };
    Some(name.to_owned())
}

/// The blocks as files of a form; their bytes are not copied.
fn multipart(batch: Vec<Block>) -> Upload {
    // Unknown beforehand, so that nobody can make a block that contains it.
    let random = RandomState::new();
    let boundary = format!("{:016x}{:016x}", random.hash_one(1), random.hash_one(2));
    let end = Bytes::from(format!("--{boundary}--\r\n"));
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let parts = batch
        .into_iter()
        .flat_map(move |Block { cid, data }| {
            let head = format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{cid}\"\r\n\
                 Content-Type: application/octet-stream\r\n\r\n"
            );
            [Bytes::from(head), data, Bytes::from_static(b"\r\n")]
        })
        .chain([end])
        .map(Ok::<Bytes, io::Error>);
    Upload { content_type, body: Body::wrap_stream(stream::iter(parts)) }
}

#[cfg(test)]
mod tests {
    use multihash_codetable::{Code, MultihashDigest as _};

    use super::*;

    #[test]
    fn the_request_is_the_reference_s_for_each_hash() {
        let sha2 = Block::raw("x").cid;
        assert_eq!(
            put_path(&sha2).unwrap(),
            "block/put?allow-big-block=true&cid-codec=raw&mhlen=32&mhtype=sha2-256&pin=false"
        );
        let old = Cid::new_v0(*sha2.hash()).unwrap();
        assert!(put_path(&old).unwrap().contains("cid-codec=dag-pb"));
        let blake = Cid::new_v1(0x71, Code::Blake2b256.digest(b"x"));
        assert_eq!(
            put_path(&blake).unwrap(),
            "block/put?allow-big-block=true&cid-codec=dag-cbor&mhlen=32&mhtype=blake2b-256&pin=false"
        );
        let unknown = Cid::new_v1(0x55, ::cid::multihash::Multihash::wrap(0x7777, &[1; 32]).unwrap());
        assert_eq!(put_path(&unknown).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    #[tokio::test]
    async fn batches_are_cut_by_size_by_hash_and_where_nothing_is_ready() {
        let small = |number: usize| Block::raw(number.to_string());
        let large = |number: usize| Block::raw(vec![number as u8; 5 * 1024 * 1024]);
        let blake =
            Block { cid: Cid::new_v1(0x55, Code::Blake2b256.digest(b"x")), data: Bytes::from_static(b"x") };
        let sizes = async |blocks: BoxStream<'static, Result<Block>>| {
            batches(blocks).map(|batch| batch.unwrap().len()).collect::<Vec<_>>().await
        };
        let ready = |blocks: Vec<Block>| stream::iter(blocks).map(Ok).boxed();
        assert_eq!(sizes(ready(vec![])).await, Vec::<usize>::new());
        assert_eq!(sizes(ready((0..600).map(small).collect())).await, [256, 256, 88]);
        assert_eq!(sizes(ready((0..3).map(large).collect())).await, [1, 1, 1]);
        assert_eq!(sizes(ready(vec![small(1), small(2), blake, small(3)])).await, [2, 1, 1]);
        let trickle = stream::iter(0..3)
            .then(move |number| async move {
                tokio::task::yield_now().await;
                Ok(small(number))
            })
            .boxed();
        assert_eq!(sizes(trickle).await, [1, 1, 1]);
    }

    #[tokio::test]
    async fn identity_blocks_are_checked_and_not_sent() {
        let hash = ::cid::multihash::Multihash::wrap(HASH_IDENTITY, b"in itself").unwrap();
        let cid = Cid::new_v1(0x55, hash);
        let block =
            |data: &'static [u8]| stream::iter([Ok(Block { cid, data: Bytes::from_static(data) })]).boxed();
        assert_eq!(batches(block(b"in itself")).count().await, 0);
        let error = batches(block(b"other")).next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
