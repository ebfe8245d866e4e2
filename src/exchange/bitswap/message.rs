//! Messages on a stream: their length as a varint, then a protobuf.
//!
//! ```text
//! message Message {
//!   1 Wantlist { 1 repeated Entry { 1 bytes cid; 2 int32 priority; 3 bool cancel; 4 enum type (0 block, 1 have);
//!                5 bool send_dont_have }; 2 bool full }
//!   2 repeated bytes blocks                       before 1.1: blocks of CIDs of version 0
//!   3 repeated Block { 1 bytes prefix; 2 bytes data }
//!   4 repeated Presence { 1 bytes cid; 2 enum (0 have, 1 have not) }
//!   5 int32 pending bytes
//! }
//! ```
//!
//! Read and written by hand: a message of 4 MiB can hold two million empty entries, and a reader that makes a value of
//! each before anybody counts them takes a hundred times the memory of the message.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint,
    skip_field,
};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::PATIENCE_WITH_STREAMS;
use crate::types::hash::{self, IDENTITY};
use crate::types::{Block, Cid};

/// Longest message, in bytes (as in Go).
pub(super) const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Largest block that is sent, in bytes; the rest of its message is for what else is to be said.
pub const BITSWAP_BLOCK_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 256 * 1024;
/// Most entries, blocks or presences of one message.
const ITEMS_MAX: usize = 65_536;
/// Longest binary CID, in bytes (as in Go).
const CID_BYTES_MAX: usize = 168;
/// Most that is read ahead of what arrived: a length that is only claimed takes no memory.
const READ_BYTES: usize = 64 * 1024;
/// Bytes that wait for the beginning of a message.
const FIRST_READ_BYTES: usize = 4 * 1024;
/// Longest length: 4 MiB take 4 bytes.
const LENGTH_BYTES_MAX: usize = 4;

const CODEC_DAG_PB: u64 = 0x70;
const SHA2_256: u64 = 0x12;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// The entries replace all that was wanted before.
    pub(super) full: bool,
    pub(super) entries: Vec<Entry>,
    pub(super) blocks: Vec<Payload>,
    /// Whether the other side has a block.
    pub(super) presences: Vec<(Cid, bool)>,
    /// Bytes that are still to come.
    pub(super) pending_bytes: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) cid: Cid,
    pub(super) priority: i32,
    pub(super) kind: EntryKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKind {
    Have { send_dont_have: bool },
    Block { send_dont_have: bool },
    Cancel,
}

/// A block, with all of its CID but the hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    pub(super) prefix: Prefix,
    pub(super) data: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    version: u64,
    codec: u64,
    hash: u64,
    hash_bytes: u64,
}

/// How old the other side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dialect {
    /// `/ipfs/bitswap` and 1.0.0: blocks have CIDs of version 0.
    Bare,
    /// 1.1.0: blocks carry the prefix of their CID.
    Prefixes,
    /// 1.2.0: asks and says who has what.
    Presences,
}

/// Whether a block of this CID can be checked here.
pub(super) fn is_checkable(cid: &Cid) -> bool {
    let hash = cid.hash();
    hash.code() == IDENTITY
        || hash::multihash(hash.code(), &[]).is_some_and(|known| known.size() == hash.size())
}

/// The block of a CID that is its own block.
pub(super) fn inline_block(cid: &Cid) -> Option<Block> {
    (cid.hash().code() == IDENTITY)
        .then(|| Block { cid: *cid, data: Bytes::copy_from_slice(cid.hash().digest()) })
}

impl Payload {
    pub(super) fn of(block: &Block) -> Self {
        let hash = block.cid.hash();
        let prefix = Prefix {
            version: block.cid.version().into(),
            codec: block.cid.codec(),
            hash: hash.code(),
            hash_bytes: hash.size().into(),
        };
        Self { prefix, data: block.data.clone() }
    }

    /// Whether it came without a word about its CID.
    pub(super) fn is_bare(&self) -> bool {
        self.prefix == Prefix::BARE
    }

    /// The block, by hashing it; none for hash functions nobody knows here.
    pub(super) fn block(self) -> Option<Block> {
        let Prefix { version, codec, hash, hash_bytes } = self.prefix;
        let hash = hash::multihash(hash, &self.data)?;
        if hash_bytes != u64::from(hash.size()) {
            return None;
        }
        let version = cid::Version::try_from(version).ok()?;
        Some(Block { cid: Cid::new(version, codec, hash).ok()?, data: self.data })
    }
}

impl Prefix {
    /// Of all CIDs before bitswap 1.1.
    const BARE: Self = Self { version: 0, codec: CODEC_DAG_PB, hash: SHA2_256, hash_bytes: 32 };

    fn parse(mut bytes: Bytes) -> io::Result<Self> {
        let prefix = Self {
            version: varint(&mut bytes)?,
            codec: varint(&mut bytes)?,
            hash: varint(&mut bytes)?,
            hash_bytes: varint(&mut bytes)?,
        };
        if bytes.has_remaining() {
            Err(invalid("a prefix of a cid with something behind it"))
        } else {
            Ok(prefix)
        }
    }

    fn write(self, to: &mut BytesMut) {
        for number in [self.version, self.codec, self.hash, self.hash_bytes] {
            encode_varint(number, to);
        }
    }

    fn encoded_len(self) -> usize {
        [self.version, self.codec, self.hash, self.hash_bytes].into_iter().map(encoded_len_varint).sum()
    }
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

fn garbled(error: prost::DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn varint(from: &mut Bytes) -> io::Result<u64> {
    decode_varint(from).map_err(garbled)
}

/// One field of a protobuf.
enum Field {
    Number(u32, u64),
    Bytes(u32, Bytes),
    Other,
}

fn field(from: &mut Bytes) -> io::Result<Option<Field>> {
    if !from.has_remaining() {
        return Ok(None);
    }
    let (tag, kind) = decode_key(from).map_err(garbled)?;
    Ok(Some(match kind {
        WireType::Varint => Field::Number(tag, varint(from)?),
        WireType::LengthDelimited => {
            let length = varint(from)?;
            let length = usize::try_from(length).ok().filter(|length| *length <= from.len());
            let length = length.ok_or_else(|| invalid("a field that is longer than its message"))?;
            Field::Bytes(tag, from.split_to(length))
        }
        _ => {
            skip_field(kind, tag, from, DecodeContext::default()).map_err(garbled)?;
            Field::Other
        }
    }))
}

/// A CID; none for one that is possible and has no place here, as its hash is too long.
fn cid(mut bytes: &[u8]) -> io::Result<Option<Cid>> {
    if bytes.is_empty() || bytes.len() > CID_BYTES_MAX {
        return Err(invalid(format!("a cid of {} bytes", bytes.len())));
    }
    let cid = Cid::read_bytes(&mut bytes).ok();
    Ok(cid.filter(|_| bytes.is_empty()))
}

fn push<T>(list: &mut Vec<T>, item: T) -> io::Result<()> {
    if list.len() >= ITEMS_MAX {
        return Err(invalid(format!("a message with more than {ITEMS_MAX} of a kind")));
    }
    list.push(item);
    Ok(())
}

impl Message {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.blocks.is_empty() && self.presences.is_empty()
    }

    /// # Errors
    /// `InvalidData`.
    pub(super) fn parse(mut from: Bytes) -> io::Result<Self> {
        let mut message = Self::default();
        while let Some(field) = field(&mut from)? {
            match field {
                Field::Bytes(1, wantlist) => message.parse_wantlist(wantlist)?,
                Field::Bytes(2, data) => {
                    push(&mut message.blocks, Payload { prefix: Prefix::BARE, data })?;
                }
                Field::Bytes(3, block) => push(&mut message.blocks, parse_block(block)?)?,
                Field::Bytes(4, presence) => {
                    if let Some(presence) = parse_presence(presence)? {
                        push(&mut message.presences, presence)?;
                    }
                }
                // Protobuf's int32 is a number of 64 bits that is cut.
                Field::Number(5, bytes) => message.pending_bytes = bytes as i32,
                _ => {}
            }
        }
        Ok(message)
    }

    fn parse_wantlist(&mut self, mut from: Bytes) -> io::Result<()> {
        while let Some(field) = field(&mut from)? {
            match field {
                Field::Bytes(1, entry) => {
                    if let Some(entry) = parse_entry(entry)? {
                        push(&mut self.entries, entry)?;
                    }
                }
                Field::Number(2, full) => self.full = full != 0,
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends the message with its length before it, as a peer of this dialect reads it.
    pub(super) fn write(&self, dialect: Dialect, to: &mut BytesMut) {
        let mut body = BytesMut::with_capacity(self.blocks.iter().map(|block| block.data.len() + 32).sum());
        let mut wantlist = BytesMut::new();
        for entry in &self.entries {
            let mut bytes = BytesMut::new();
            entry.write(&mut bytes);
            put_bytes(1, &bytes, &mut wantlist);
        }
        put_number(2, self.full.into(), &mut wantlist);
        put_bytes(1, &wantlist, &mut body);
        for Payload { prefix, data } in &self.blocks {
            if dialect == Dialect::Bare {
                put_bytes(2, data, &mut body);
                continue;
            }
            let prefix_bytes = prefix.encoded_len();
            let length = 1 + encoded_len_varint(prefix_bytes as u64) + prefix_bytes
                // As Go: an empty field is not written.
                + if data.is_empty() { 0 } else { 1 + encoded_len_varint(data.len() as u64) + data.len() };
            encode_key(3, WireType::LengthDelimited, &mut body);
            encode_varint(length as u64, &mut body);
            encode_key(1, WireType::LengthDelimited, &mut body);
            encode_varint(prefix_bytes as u64, &mut body);
            prefix.write(&mut body);
            if !data.is_empty() {
                put_bytes(2, data, &mut body);
            }
        }
        if dialect >= Dialect::Presences {
            for (cid, has) in &self.presences {
                let mut bytes = BytesMut::new();
                put_bytes(1, &cid.to_bytes(), &mut bytes);
                put_number(2, (!has).into(), &mut bytes);
                put_bytes(4, &bytes, &mut body);
            }
            put_number(5, self.pending_bytes.max(0) as u64, &mut body);
        }
        encode_varint(body.len() as u64, to);
        to.put(body);
    }
}

impl Entry {
    fn write(&self, to: &mut BytesMut) {
        put_bytes(1, &self.cid.to_bytes(), to);
        put_number(2, i64::from(self.priority) as u64, to);
        let (cancel, have, send_dont_have) = match self.kind {
            EntryKind::Have { send_dont_have } => (false, true, send_dont_have),
            EntryKind::Block { send_dont_have } => (false, false, send_dont_have),
            EntryKind::Cancel => (true, false, false),
        };
        put_number(3, cancel.into(), to);
        put_number(4, have.into(), to);
        put_number(5, send_dont_have.into(), to);
    }
}

fn put_bytes(tag: u32, bytes: &[u8], to: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, to);
    encode_varint(bytes.len() as u64, to);
    to.put_slice(bytes);
}

fn put_number(tag: u32, number: u64, to: &mut BytesMut) {
    if number != 0 {
        encode_key(tag, WireType::Varint, to);
        encode_varint(number, to);
    }
}

fn parse_entry(mut from: Bytes) -> io::Result<Option<Entry>> {
    let (mut name, mut priority, mut cancel, mut kind, mut send_dont_have) = (None, 0, false, 0, false);
    while let Some(field) = field(&mut from)? {
        match field {
            Field::Bytes(1, bytes) => name = Some(bytes),
            Field::Number(2, number) => priority = number as i32,
            Field::Number(3, number) => cancel = number != 0,
            Field::Number(4, number) => kind = number,
            Field::Number(5, number) => send_dont_have = number != 0,
            _ => {}
        }
    }
    let kind = match (cancel, kind) {
        (true, _) => EntryKind::Cancel,
        (false, 0) => EntryKind::Block { send_dont_have },
        // What a later version may ask for is at least whether we have it.
        (false, _) => EntryKind::Have { send_dont_have },
    };
    let cid = cid(&name.unwrap_or_default())?;
    Ok(cid.map(|cid| Entry { cid, priority, kind }))
}

fn parse_block(mut from: Bytes) -> io::Result<Payload> {
    let (mut prefix, mut data) = (None, Bytes::new());
    while let Some(field) = field(&mut from)? {
        match field {
            Field::Bytes(1, bytes) => prefix = Some(Prefix::parse(bytes)?),
            Field::Bytes(2, bytes) => data = bytes,
            _ => {}
        }
    }
    let prefix = prefix.ok_or_else(|| invalid("a block without the prefix of its cid"))?;
    Ok(Payload { prefix, data })
}

fn parse_presence(mut from: Bytes) -> io::Result<Option<(Cid, bool)>> {
    let (mut name, mut kind) = (None, 0);
    while let Some(field) = field(&mut from)? {
        match field {
            Field::Bytes(1, bytes) => name = Some(bytes),
            Field::Number(2, number) => kind = number,
            _ => {}
        }
    }
    let cid = cid(&name.unwrap_or_default())?;
    Ok(cid.map(|cid| (cid, kind == 0)))
}

/// Reads messages off one stream.
#[derive(Debug)]
pub(super) struct MessageReader<'a, R> {
    stream: R,
    buffer: BytesMut,
    /// Permits are long messages that may be in the making.
    room: &'a Semaphore,
    long: Option<SemaphorePermit<'a>>,
}

impl<'a, R: AsyncRead + Unpin> MessageReader<'a, R> {
    pub(super) fn new(stream: R, room: &'a Semaphore) -> Self {
        Self { stream, buffer: BytesMut::new(), room, long: None }
    }

    /// The next message; none at a clean end. A message that has begun and does not go on is an error.
    ///
    /// # Errors
    /// `InvalidData` for what is no message, `UnexpectedEof` for half of one, `TimedOut`; what the stream says.
    pub(super) async fn next(&mut self) -> io::Result<Option<Message>> {
        self.long = None;
        loop {
            let announced = self.announced()?;
            match announced {
                Some((head, length)) if self.buffer.len() >= head + length => {
                    self.buffer.advance(head);
                    let message = self.buffer.split_to(length).freeze();
                    return Message::parse(message).map(Some);
                }
                Some((_, length)) if length > READ_BYTES && self.long.is_none() => {
                    self.long = self.room.acquire().await.ok();
                }
                _ => {}
            }
            // Between messages a stream may be silent as long as it likes, and holds no memory for it.
            let between = self.buffer.is_empty();
            if between {
                self.buffer = BytesMut::new();
            }
            // What is missing, where that is known: Go sends each message on a stream of its own, so that no room is used
            // twice. What is claimed costs no more than what is not.
            let missing = match announced {
                Some((head, length)) => {
                    (head + length).saturating_sub(self.buffer.len()).clamp(1, READ_BYTES)
                }
                None => READ_BYTES,
            };
            self.buffer.reserve(if between { FIRST_READ_BYTES } else { missing });
            let mut stream = (&mut self.stream).take(READ_BYTES as u64);
            let reading = stream.read_buf(&mut self.buffer);
            let read = if between {
                reading.await?
            } else {
                timeout(PATIENCE_WITH_STREAMS, reading).await.map_err(|_| io::ErrorKind::TimedOut)??
            };
            if read == 0 {
                let clean = self.buffer.is_empty();
                return if clean { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Bytes of the length, and the length, of the message that comes.
    fn announced(&self) -> io::Result<Option<(usize, usize)>> {
        let mut length = 0;
        for (number, byte) in self.buffer.iter().take(LENGTH_BYTES_MAX).enumerate() {
            length |= usize::from(byte & 0x7f) << (7 * number);
            if byte & 0x80 == 0 {
                return if length > MESSAGE_BYTES_MAX {
                    Err(invalid(format!(
                        "a message of {length} bytes, at most {MESSAGE_BYTES_MAX} are possible"
                    )))
                } else {
                    Ok(Some((number + 1, length)))
                };
            }
        }
        if self.buffer.len() >= LENGTH_BYTES_MAX {
            return Err(invalid(format!("a message of more than {MESSAGE_BYTES_MAX} bytes")));
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
