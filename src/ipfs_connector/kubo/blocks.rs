//! Blocks to and from the daemon's store.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::FutureExt as _;
use futures::stream::{self, BoxStream, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use reqwest::Body;
use serde::Deserialize;

use super::http::{Judge, Upload, remote_message};
use super::{COMPONENT, Inner, car};
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::dag::{self, CODEC_DAG_CBOR, CODEC_DAG_PB, CODEC_RAW, HASH_IDENTITY};
use crate::types::{Block, Cid, parse_cid};

/// Blocks of one request.
const BATCH_BLOCKS_MAX: usize = 1_024;
/// Bytes of a request that is full; its last block may go beyond.
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Requests at a time for one stream of blocks.
const BATCHES_AT_A_TIME: usize = 5;
/// Bytes of a block that is read; networks carry two million.
const BLOCK_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A line of `block/put`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutLine {
    key: String,
}

/// What `dag/import` says at its end.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImportLine {
    stats: Option<ImportStats>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ImportStats {
    block_count: u64,
}

/// Under which CIDs blocks are imported. The daemon stores under the hash alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ImportedAs {
    /// Their own where that can be read, so that whoever waits for one in the daemon hears of it.
    Themselves,
    /// As bytes without structure: the daemon imports nothing whose structure it cannot read.
    Raw,
}

const IMPORT_PATH: &str =
    "dag/import?allow-big-block=true&fast-provide-root=false&pin-roots=false&stats=true";
/// How the daemon says that bytes are not those of their CID.
const WRONG_HASH_TEXT: &str = "mismatch in content integrity";

impl Inner {
    /// Sends blocks in requests of bounded size, several at a time: as large as what is ready, so that a quick source is
    /// sent in few and a slow one without delay.
    pub(super) async fn put_blocks(
        self: &Arc<Self>,
        blocks: BoxStream<'static, Result<Block>>,
    ) -> Result<()> {
        in_batches(blocks, |batch| self.put_batch(batch)).await
    }

    /// Imports what `dag/import` takes, which is quicker than `block/put`: two thirds of its time with blocks of 256 KiB.
    async fn put_batch(self: &Arc<Self>, batch: Vec<Block>) -> Result<()> {
        for block in &batch {
            hash_name_of(&block.cid)?;
        }
        let (large, batch): (Vec<Block>, Vec<Block>) =
            batch.into_iter().partition(|block| block.data.len() > car::BLOCK_BYTES_MAX);
        if !batch.is_empty() {
            let has_structure = batch.iter().any(|block| block.cid.codec() != CODEC_RAW);
            match self.import(&batch, ImportedAs::Themselves).await {
                Err(error) if error.kind() == ErrorKind::Remote && has_structure => {
                    tracing::debug!(%error, "the IPFS daemon did not import blocks; importing them as raw");
                    self.import(&batch, ImportedAs::Raw).await?;
                }
                answer => answer?,
            }
        }
        for block in large {
            self.put_block(block, false).await?;
        }
        Ok(())
    }

    async fn import(self: &Arc<Self>, blocks: &[Block], imported_as: ImportedAs) -> Result<()> {
        let call =
            async {
                let sections = blocks.iter().map(|block| (imported_as.cid(block), &block.data));
                let upload = multipart(car::pieces(sections));
                let mut lines = self.http.post(IMPORT_PATH, Judge::Nothing, Some(upload)).await?.lines();
                let mut imported = None;
                while let Some(line) = lines.next().await? {
                    let line: ImportLine = lines.parse(&line)?;
                    imported = line.stats.map(|stats| stats.block_count).or(imported);
                }
                match imported {
                    Some(count) if count == blocks.len() as u64 => Ok(()),
                    Some(count) => Err(lines
                        .corrupt(&format!("it has {count} blocks of the {} that were sent", blocks.len()))),
                    None => Err(lines.corrupt("it ends before it says how many blocks were imported")),
                }
            };
        match self.within_request(IMPORT_PATH, Judge::Nothing, call).await {
            Err(error) if remote_message(&error).is_some_and(|text| text.contains(WRONG_HASH_TEXT)) => {
                Err(Error::new(ErrorKind::Corrupt, error.message().to_owned())
                    .component(COMPONENT)
                    .with_source(error))
            }
            answer => answer,
        }
    }

    /// Kubo pins a block that it is given this way without looking what it links to.
    pub(super) async fn hold(self: &Arc<Self>, lease: Block) -> Result<()> {
        self.put_block(lease, true).await
    }

    /// Stores one block of any size.
    async fn put_block(self: &Arc<Self>, Block { cid, data }: Block, pin: bool) -> Result<()> {
        let path = put_path(&cid, pin)?;
        let call = async {
            let upload = multipart(vec![data]);
            let mut lines = self.http.post(&path, Judge::Nothing, Some(upload)).await?.lines();
            let Some(line) = lines.next().await? else {
                return Err(lines.corrupt(&format!("it ends before it says that it has block {cid}")));
            };
            let line: PutLine = lines.parse(&line)?;
            let stored = parse_cid(&line.key).map_err(|error| lines.corrupt(error.message()))?;
            // What counts is where the daemon finds the bytes again.
            if cid.hash() != stored.hash() {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("these bytes are not the block {cid}: the IPFS daemon made {stored} of them"),
                )
                .component(COMPONENT));
            }
            // Whatever went wrong afterwards comes behind it.
            match lines.next().await? {
                None => Ok(()),
                Some(line) => {
                    lines.parse::<PutLine>(&line)?;
                    Err(lines.corrupt("it names more blocks than were sent"))
                }
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

impl ImportedAs {
    fn cid(self, block: &Block) -> Cid {
        let is_readable = match block.cid.codec() {
            CODEC_RAW => true,
            CODEC_DAG_PB | CODEC_DAG_CBOR => {
                self == Self::Themselves && dag::links(&block.cid, &block.data).is_ok()
            }
            _ => false,
        };
        if is_readable { block.cid } else { Cid::new_v1(CODEC_RAW, *block.cid.hash()) }
    }
}

/// What is gathered for a request.
#[derive(Debug, Default)]
struct Gathered {
    blocks: Vec<Block>,
    bytes: usize,
}

impl Gathered {
    fn push(&mut self, block: Block) {
        self.bytes += block.data.len();
        self.blocks.push(block);
    }

    fn is_full(&self) -> bool {
        self.blocks.len() >= BATCH_BLOCKS_MAX || self.bytes >= BATCH_BYTES
    }
}

/// Puts batches, several at a time: each with what is ready when there is room for one more, up to its limits. The stream
/// is asked for more as long as the next batch is not full, whatever the running ones do: what makes blocks ready goes on
/// only when it is asked.
async fn in_batches<Put>(
    blocks: BoxStream<'static, Result<Block>>,
    put: impl Fn(Vec<Block>) -> Put,
) -> Result<()>
where
    Put: Future<Output = Result<()>>,
{
    let mut blocks = blocks.try_filter_map(|block| async move { not_identity(block) }).boxed();
    let mut running = FuturesUnordered::new();
    let (mut gathered, mut is_end) = (Gathered::default(), false);
    loop {
        while !is_end
            && !gathered.is_full()
            && let Some(ready) = blocks.try_next().now_or_never()
        {
            match ready? {
                Some(block) => gathered.push(block),
                None => is_end = true,
            }
        }
        if !gathered.blocks.is_empty() && running.len() < BATCHES_AT_A_TIME {
            running.push(put(std::mem::take(&mut gathered).blocks));
            continue;
        }
        tokio::select! {
            biased;
            Some(done) = running.next() => done?,
            block = blocks.try_next(), if !is_end && !gathered.is_full() => match block? {
                Some(block) => gathered.push(block),
                None => is_end = true,
            },
            else => return Ok(()),
        }
    }
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

fn hash_name_of(cid: &Cid) -> Result<String> {
    let code = cid.hash().code();
    hash_name(code).ok_or_else(|| {
        Error::new(
            ErrorKind::Unsupported,
            format!("cannot store block {cid}: the name of its hash function {code:#x} is not known"),
        )
        .component(COMPONENT)
    })
}

fn put_path(cid: &Cid, pin: bool) -> Result<String> {
    Ok(format!(
        "block/put?allow-big-block=true&cid-codec={}&mhlen={}&mhtype={}&pin={pin}",
        codec_name(cid.codec()),
        cid.hash().size(),
        hash_name_of(cid)?
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

/// What is between the parts of a form. Unknown beforehand, so that nobody can make a block that contains it.
pub(super) fn boundary() -> String {
    let random = RandomState::new();
    format!("{:016x}{:016x}", random.hash_one(1), random.hash_one(2))
}

/// A form with one file; its bytes are not copied.
fn multipart(file: Vec<Bytes>) -> Upload {
    let boundary = boundary();
    let head = Bytes::from(format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    ));
    let end = Bytes::from(format!("\r\n--{boundary}--\r\n"));
    let content_type = format!("multipart/form-data; boundary={boundary}");
    let parts: Vec<Bytes> = [head].into_iter().chain(file).chain([end]).collect();
    let length = parts.iter().map(|part| part.len() as u64).sum();
    let body = Body::wrap_stream(stream::iter(parts.into_iter().map(Ok::<Bytes, io::Error>)));
    Upload { content_type, length: Some(length), body }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::time::Duration;

    use futures::Stream;
    use multihash_codetable::{Code, MultihashDigest as _};
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn the_request_is_the_reference_s_for_each_hash() {
        let sha2 = Block::raw("x").cid;
        assert_eq!(
            put_path(&sha2, false).unwrap(),
            "block/put?allow-big-block=true&cid-codec=raw&mhlen=32&mhtype=sha2-256&pin=false"
        );
        let old = Cid::new_v0(*sha2.hash()).unwrap();
        assert!(put_path(&old, false).unwrap().contains("cid-codec=dag-pb"));
        let blake = Cid::new_v1(0x71, Code::Blake2b256.digest(b"x"));
        assert_eq!(
            put_path(&blake, true).unwrap(),
            "block/put?allow-big-block=true&cid-codec=dag-cbor&mhlen=32&mhtype=blake2b-256&pin=true"
        );
        let unknown = Cid::new_v1(0x55, ::cid::multihash::Multihash::wrap(0x7777, &[1; 32]).unwrap());
        assert_eq!(put_path(&unknown, false).unwrap_err().kind(), ErrorKind::Unsupported);
    }

    /// Blocks of each batch, where each is put at once.
    async fn sizes(blocks: impl Stream<Item = Result<Block>> + Send + 'static) -> Result<Vec<usize>> {
        let sizes = RefCell::new(Vec::new());
        let put = |batch: Vec<Block>| {
            sizes.borrow_mut().push(batch.len());
            async { Ok(()) }
        };
        in_batches(blocks.boxed(), put).await?;
        Ok(sizes.into_inner())
    }

    #[tokio::test]
    async fn batches_are_cut_by_size_and_where_nothing_is_ready() {
        let small = |number: usize| Ok(Block::raw(number.to_string()));
        let large = |number: usize| Ok(Block::raw(vec![number as u8; BATCH_BYTES / 2]));
        assert_eq!(sizes(stream::empty()).await.unwrap(), Vec::<usize>::new());
        assert_eq!(sizes(stream::iter(0..2_100).map(small)).await.unwrap(), [1_024, 1_024, 52]);
        assert_eq!(sizes(stream::iter(0..5).map(large)).await.unwrap(), [2, 2, 1]);
        let slow = move |number| async move {
            tokio::task::yield_now().await;
            small(number)
        };
        assert_eq!(sizes(stream::iter(0..3).then(slow)).await.unwrap(), [1, 1, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_all_requests_run_goes_into_one_and_is_asked_for_meanwhile() {
        let sizes = RefCell::new(Vec::new());
        let put = |batch: Vec<Block>| {
            sizes.borrow_mut().push(batch.len());
            async {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok(())
            }
        };
        let blocks = stream::iter(0..20).then(|number: usize| async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok(Block::raw(number.to_string()))
        });
        let started = Instant::now();
        in_batches(blocks.boxed(), put).await.unwrap();
        assert_eq!(sizes.into_inner(), [1, 1, 1, 1, 1, 15]);
        // After the first of them, and with what was there by then.
        assert_eq!(started.elapsed(), Duration::from_secs(1 + 60 + 60));
    }

    #[tokio::test]
    async fn an_error_of_the_stream_or_of_a_request_ends_it() {
        let failing = stream::iter([Ok(Block::raw("x")), Err(Error::internal("no more"))]);
        assert_eq!(sizes(failing).await.unwrap_err().message(), "no more");
        let endless = stream::iter(0..).map(|number: usize| Ok(Block::raw(number.to_string())));
        let put = |_| async { Err(Error::internal("full")) };
        assert_eq!(in_batches(endless.boxed(), put).await.unwrap_err().message(), "full");
    }

    #[tokio::test]
    async fn a_stream_is_not_asked_again_after_its_end() {
        let blocks = stream::unfold(0, |number| async move {
            (number < 3).then(|| (Ok(Block::raw(number.to_string())), number + 1))
        });
        assert_eq!(sizes(blocks).await.unwrap(), [3]);
    }

    #[tokio::test]
    async fn identity_blocks_are_checked_and_not_sent() {
        let hash = ::cid::multihash::Multihash::wrap(HASH_IDENTITY, b"in itself").unwrap();
        let cid = Cid::new_v1(0x55, hash);
        let block = |data: &'static [u8]| stream::iter([Ok(Block { cid, data: Bytes::from_static(data) })]);
        assert_eq!(sizes(block(b"in itself")).await.unwrap(), Vec::<usize>::new());
        let error = sizes(block(b"other")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
