//! What the two sides say: a length, a kind, and then numbers as varints and names of blocks as 32 bytes.

mod records;

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

pub(in super::super) use self::records::{RecordReader, RecordWriter};
use super::super::delta::HEIGHT_MAX;
use super::super::key::{self, Digest};
use super::super::ledger::{Branch, Head};
use super::super::node::BLOCK_BYTES_MAX;
use super::super::wire::{corrupt, put_varint, read_varint};
use super::{COMPONENT, SILENCE_MAX};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::KEY_BYTES_MAX;
use crate::transport::PeerStream;

/// Largest message, in bytes: a block, or the value of one element, and what is around it.
pub(in super::super) const MESSAGE_BYTES_MAX: usize = BLOCK_BYTES_MAX + 64 * 1024;
/// About how large messages with many things are made.
pub(in super::super) const MESSAGE_BYTES: usize = 256 * 1024;
/// Most heads that are named.
pub(in super::super) const HEADS_MAX: usize = 4096;
/// Most blocks of unfinished walks that are named.
pub(in super::super) const WALK_BLOCKS_MAX: usize = 32_768;
/// Most blocks that are asked for at once.
pub(in super::super) const BLOCKS_MAX: usize = 256;
/// Most parts of a table that are compared at once.
pub(in super::super) const CHUNKS_MAX: usize = 4096;
/// Most entries of a part of a table.
pub(in super::super) const CHUNK_ENTRIES_MAX: usize = 4096;
/// Blocks that records refer to by number; then it begins anew.
const NAMES_MAX: usize = 65_536;
/// Most records, elements and tombstones in one message.
const RECORD_PARTS_MAX: usize = 65_536;
/// Most elements, and most tombstones, of one record; a pin with more has several.
pub(in super::super) const RECORD_NAMES_MAX: usize = 4096;
/// What is read of a stream at once.
const READ_BYTES: usize = 256 * 1024;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Table {
    /// Elements and tombstones, by pin.
    Pins,
    /// Merged blocks.
    Blocks,
}

/// Part of a table, as the asking side has it: from the end of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Chunk {
    /// Its last possible key; empty = to the end of the table.
    pub(in super::super) to: Bytes,
    pub(in super::super) count: u64,
    /// The sum of the hashes of its entries.
    pub(in super::super) sum: u64,
}

/// A part of a table, and what the asking side has of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Wanted {
    pub(in super::super) after: Bytes,
    pub(in super::super) to: Bytes,
    pub(in super::super) hashes: Vec<u64>,
}

/// What the answering side is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Welcome {
    pub(in super::super) heads: Vec<Head>,
    /// For each head of the other side: it is merged here.
    pub(in super::super) merged: Vec<bool>,
    /// Everything below the heads is here as far as known.
    pub(in super::super) is_whole: bool,
    /// Walks that are unfinished here.
    pub(in super::super) walks: Vec<Branch>,
    /// Entries of the pinset.
    pub(in super::super) pins: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Message {
    /// Asks who is there, and says the asking side's heads.
    Hello(Vec<Digest>),
    Welcome(Welcome),
    /// Asks which parts differ.
    Compare {
        table: Table,
        after: Bytes,
        chunks: Vec<Chunk>,
    },
    /// Those that do.
    Differing(Vec<u64>),
    /// Asks for what the asking side has not.
    Want {
        table: Table,
        ranges: Vec<Wanted>,
    },
    /// Some of that; see [`RecordReader`].
    Records(Bytes),
    /// Some of that: merged blocks and their heights.
    Merged(Vec<(Digest, u64)>),
    /// Asks for blocks.
    Fetch(Vec<Digest>),
    /// One of them; empty when it is not here.
    Block(Digest, Bytes),
    /// The end of an answer.
    Done,
    /// Ask somebody else, or later.
    Busy,
    /// Too much happened meanwhile: begin anew.
    Expired,
}

impl Message {
    pub(in super::super) fn encode(&self) -> Vec<u8> {
        let mut to = Vec::new();
        match self {
            Self::Hello(heads) => {
                to.push(1);
                put_digests(&mut to, heads);
            }
            Self::Welcome(welcome) => {
                to.push(2);
                welcome.put(&mut to);
            }
            Self::Compare { table, after, chunks } => {
                to.extend([3, *table as u8]);
                put_key(&mut to, after);
                put_varint(&mut to, chunks.len() as u64);
                for chunk in chunks {
                    put_key(&mut to, &chunk.to);
                    put_varint(&mut to, chunk.count);
                    to.extend_from_slice(&chunk.sum.to_be_bytes());
                }
            }
            Self::Differing(places) => {
                to.push(4);
                put_varint(&mut to, places.len() as u64);
                places.iter().for_each(|place| put_varint(&mut to, *place));
            }
            Self::Want { table, ranges } => {
                to.extend([5, *table as u8]);
                put_varint(&mut to, ranges.len() as u64);
                for range in ranges {
                    put_key(&mut to, &range.after);
                    put_key(&mut to, &range.to);
                    put_varint(&mut to, range.hashes.len() as u64);
                    range.hashes.iter().for_each(|hash| to.extend_from_slice(&hash.to_be_bytes()));
                }
            }
            Self::Records(records) => {
                to.push(6);
                to.extend_from_slice(records);
            }
            Self::Merged(blocks) => {
                to.push(7);
                put_varint(&mut to, blocks.len() as u64);
                for (block, height) in blocks {
                    to.extend_from_slice(block);
                    put_varint(&mut to, *height);
                }
            }
            Self::Fetch(blocks) => {
                to.push(8);
                put_digests(&mut to, blocks);
            }
            Self::Block(digest, block) => {
                to.push(9);
                to.extend_from_slice(digest);
                to.extend_from_slice(block);
            }
            Self::Done => to.push(10),
            Self::Busy => to.push(11),
            Self::Expired => to.push(12),
        }
        to
    }

    /// # Errors
    /// `Corrupt` for what is no message, or has more of something than is taken.
    pub(in super::super) fn decode(message: &Bytes) -> Result<Self> {
        Self::read(message).ok_or_else(|| corrupt("a message that cannot be read"))
    }

    fn read(message: &Bytes) -> Option<Self> {
        let mut from = Reader(message);
        let read = match from.byte()? {
            1 => Self::Hello(from.digests(HEADS_MAX)?),
            2 => Self::Welcome(Welcome::take(&mut from)?),
            3 => {
                let (table, after) = (from.table()?, from.key()?);
                let count = from.count(CHUNKS_MAX, 10)?;
                let chunk = |_| Some(Chunk { to: from.key()?, count: from.varint()?, sum: from.fixed()? });
                let chunks = (0..count).map(chunk).collect::<Option<_>>()?;
                Self::Compare { table, after, chunks }
            }
            4 => {
                let count = from.count(CHUNKS_MAX, 1)?;
                Self::Differing((0..count).map(|_| from.varint()).collect::<Option<_>>()?)
            }
            5 => {
                let table = from.table()?;
                let count = from.count(CHUNKS_MAX, 3)?;
                let range = |_| {
                    let (after, to) = (from.key()?, from.key()?);
                    let count = from.count(CHUNK_ENTRIES_MAX, 8)?;
                    let hashes = (0..count).map(|_| from.fixed()).collect::<Option<_>>()?;
                    Some(Wanted { after, to, hashes })
                };
                Self::Want { table, ranges: (0..count).map(range).collect::<Option<_>>()? }
            }
            6 => Self::Records(message.slice_ref(std::mem::take(&mut from.0))),
            7 => {
                let count = from.count(usize::MAX, 33)?;
                let block = |_| Some((from.digest()?, from.height()?));
                Self::Merged((0..count).map(block).collect::<Option<_>>()?)
            }
            8 => Self::Fetch(from.digests(BLOCKS_MAX)?),
            9 => Self::Block(from.digest()?, message.slice_ref(std::mem::take(&mut from.0))),
            10 => Self::Done,
            11 => Self::Busy,
            12 => Self::Expired,
            _ => return None,
        };
        from.0.is_empty().then_some(read)
    }
}

impl Welcome {
    const WHOLE: u8 = 1;

    fn put(&self, to: &mut Vec<u8>) {
        to.push(if self.is_whole { Self::WHOLE } else { 0 });
        put_varint(to, self.pins);
        put_varint(to, self.heads.len() as u64);
        self.heads.iter().for_each(|head| put_head(to, head));
        put_varint(to, self.merged.len() as u64);
        to.extend(self.merged.iter().map(|is_merged| u8::from(*is_merged)));
        put_varint(to, self.walks.len() as u64);
        for walk in &self.walks {
            put_head(to, &walk.tip);
            for list in [&walk.open, &walk.met] {
                put_digests(to, &list.iter().filter_map(key::block_digest).collect::<Vec<_>>());
            }
        }
    }

    fn take(from: &mut Reader<'_>) -> Option<Self> {
        let flags = from.byte()?;
        let pins = from.varint()?;
        let count = from.count(HEADS_MAX, 33)?;
        let heads = (0..count).map(|_| from.head()).collect::<Option<_>>()?;
        let count = from.count(HEADS_MAX, 1)?;
        let merged = (0..count).map(|_| Some(from.byte()? != 0)).collect::<Option<_>>()?;
        let count = from.count(HEADS_MAX, 35)?;
        let mut walk = || {
            let tip = from.head()?;
            let mut list = || Some(from.digests(WALK_BLOCKS_MAX)?.iter().map(key::block_cid).collect());
            Some(Branch { tip, open: list()?, met: list()? })
        };
        let walks = (0..count).map(|_| walk()).collect::<Option<_>>()?;
        Some(Self { heads, merged, is_whole: flags & Self::WHOLE != 0, walks, pins })
    }
}

fn put_key(to: &mut Vec<u8>, key: &[u8]) {
    put_varint(to, key.len() as u64);
    to.extend_from_slice(key);
}

fn put_digests(to: &mut Vec<u8>, digests: &[Digest]) {
    put_varint(to, digests.len() as u64);
    digests.iter().for_each(|digest| to.extend_from_slice(digest));
}

fn put_head(to: &mut Vec<u8>, head: &Head) {
    // Heads are blocks; another name would be refused where it is read.
    to.extend_from_slice(&key::block_digest(&head.cid).unwrap_or_default());
    put_varint(to, head.height);
}

/// What is left of a message.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(byte)
    }

    fn varint(&mut self) -> Option<u64> {
        let (value, rest) = read_varint(self.0)?;
        self.0 = rest;
        Some(value)
    }

    fn fixed(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*bytes))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.varint()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes)
    }

    fn key(&mut self) -> Option<Bytes> {
        self.bytes().filter(|key| key.len() <= KEY_BYTES_MAX).map(Bytes::copy_from_slice)
    }

    fn digest(&mut self) -> Option<Digest> {
        let (digest, rest) = self.0.split_first_chunk::<32>()?;
        self.0 = rest;
        Some(*digest)
    }

    /// How many follow, each of at least so many bytes.
    fn count(&mut self, max: usize, bytes: usize) -> Option<usize> {
        let count = usize::try_from(self.varint()?).ok()?;
        (count <= max && count <= self.0.len() / bytes).then_some(count)
    }

    fn digests(&mut self, max: usize) -> Option<Vec<Digest>> {
        let count = self.count(max, 32)?;
        (0..count).map(|_| self.digest()).collect()
    }

    fn height(&mut self) -> Option<u64> {
        self.varint().filter(|height| (1..=HEIGHT_MAX).contains(height))
    }

    fn head(&mut self) -> Option<Head> {
        Some(Head { cid: key::block_cid(&self.digest()?), height: self.height()? })
    }

    fn table(&mut self) -> Option<Table> {
        match self.byte()? {
            0 => Some(Table::Pins),
            1 => Some(Table::Blocks),
            _ => None,
        }
    }
}

/// Messages on a stream.
pub(in super::super) struct Messages {
    stream: PeerStream,
    read: BytesMut,
    written: Vec<u8>,
    silence_max: Duration,
}

impl Messages {
    pub(in super::super) fn new(stream: PeerStream) -> Self {
        Self { stream, read: BytesMut::new(), written: Vec::new(), silence_max: SILENCE_MAX }
    }

    /// Sends, at the latest with the next [`Messages::flush`]. Not cancel-safe.
    ///
    /// # Errors
    /// `Timeout` when the other side takes nothing; `Unavailable`.
    pub(in super::super) async fn put(&mut self, message: &Message) -> Result<()> {
        let message = message.encode();
        put_varint(&mut self.written, message.len() as u64);
        self.written.extend_from_slice(&message);
        if self.written.len() < MESSAGE_BYTES { Ok(()) } else { self.flush().await }
    }

    /// Sends what was put. As [`Messages::put`].
    pub(in super::super) async fn flush(&mut self) -> Result<()> {
        // In parts, so that a slow peer is not a silent one.
        for part in self.written.chunks(MESSAGE_BYTES) {
            timeout(self.silence_max, self.stream.write_all(part))
                .await
                .map_err(|_| silent())?
                .map_err(broken)?;
        }
        self.written.clear();
        timeout(self.silence_max, self.stream.flush()).await.map_err(|_| silent())?.map_err(broken)
    }

    pub(in super::super) async fn send(&mut self, message: &Message) -> Result<()> {
        self.put(message).await?;
        self.flush().await
    }

    /// The next message; none at a clean end. Not cancel-safe.
    ///
    /// # Errors
    /// `Corrupt` for what is no message, `Timeout` when nothing comes, `Unavailable`.
    pub(in super::super) async fn next(&mut self) -> Result<Option<Message>> {
        loop {
            if let Some((length, rest)) = read_varint(&self.read) {
                if length > MESSAGE_BYTES_MAX as u64 {
                    return Err(corrupt(format!(
                        "a message of {length} bytes, but at most {MESSAGE_BYTES_MAX} are taken"
                    )));
                }
                let head = self.read.len() - rest.len();
                let length = length as usize;
                if rest.len() >= length {
                    self.read.advance(head);
                    return Message::decode(&self.read.split_to(length).freeze()).map(Some);
                }
            } else if self.read.len() >= 10 {
                return Err(corrupt("a message that begins with no length"));
            }
            self.read.reserve(READ_BYTES);
            let read = (&mut self.stream).take(READ_BYTES as u64);
            tokio::pin!(read);
            let count = timeout(self.silence_max, read.read_buf(&mut self.read))
                .await
                .map_err(|_| silent())?
                .map_err(broken)?;
            if count == 0 {
                return if self.read.is_empty() { Ok(None) } else { Err(corrupt("half a message")) };
            }
        }
    }

    /// The next message, where there must be one.
    ///
    /// # Errors
    /// As [`Messages::next`]; `Unavailable` when the other side is busy, or has too much to do.
    pub(in super::super) async fn answer(&mut self) -> Result<Message> {
        let unavailable = |text: &str| Error::new(ErrorKind::Unavailable, text).component(COMPONENT);
        match self.next().await? {
            None => Err(unavailable("the peer ended the stream")),
            Some(Message::Busy) => Err(unavailable("the peer serves enough others already")),
            Some(Message::Expired) => Err(unavailable("too much changed at the peer meanwhile")),
            Some(message) => Ok(message),
        }
    }
}

fn silent() -> Error {
    let text = format!("nothing came or went for {} s", SILENCE_MAX.as_secs());
    Error::new(ErrorKind::Timeout, text).component(COMPONENT)
}

fn broken(source: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the stream broke: {source}"))
        .component(COMPONENT)
        .with_source(source)
}

/// The other side said what it should not.
pub(in super::super) fn misplaced() -> Error {
    corrupt("a message that has no place here")
}

#[cfg(test)]
mod tests;
