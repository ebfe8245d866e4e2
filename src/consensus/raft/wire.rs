//! Bytes: what is stored in the log and what travels between peers is put together of the same pieces.
//!
//! Numbers are big-endian. A peer is the length of its binary id in one byte, and the id; nobody is length 0. What may be
//! absent has a byte 0 or 1 in front.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use openraft::{EmptyNode, EntryPayload};

use super::COMPONENT;
use super::types::{Command, Entry, LogId, Membership, Node, StoredMembership, Vote};
use crate::error::{Error, ErrorKind, Result};
use crate::types::PeerId;

/// Most peers of one cluster: members, and those that are about to be.
pub(super) const PEERS_MAX: usize = 1024;
/// Most configurations at a time: two while members change.
const CONFIGS_MAX: usize = 8;

const BLANK: u8 = 0;
const NORMAL: u8 = 1;
const MEMBERSHIP: u8 = 2;

pub(super) fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, what).component(COMPONENT)
}

/// Puts bytes together.
#[derive(Debug, Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(super) fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    pub(super) fn flag(&mut self, flag: bool) {
        self.0.push(flag.into());
    }

    pub(super) fn short(&mut self, number: u16) {
        self.0.extend(number.to_be_bytes());
    }

    pub(super) fn count(&mut self, number: usize) {
        // Whatever is counted is bounded far below.
        self.0.extend(u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes());
    }

    pub(super) fn long(&mut self, number: u64) {
        self.0.extend(number.to_be_bytes());
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Bytes with their length.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }

    pub(super) fn option<T>(&mut self, value: Option<&T>, write: impl FnOnce(&mut Self, &T)) {
        self.flag(value.is_some());
        if let Some(value) = value {
            write(self, value);
        }
    }

    pub(super) fn peer(&mut self, peer: &PeerId) {
        self.node(&Node::of(*peer));
    }

    pub(super) fn node(&mut self, node: &Node) {
        let bytes = node.0.map(|peer| peer.to_bytes()).unwrap_or_default();
        // Ids have at most 66 bytes.
        self.byte(u8::try_from(bytes.len()).unwrap_or(u8::MAX));
        self.raw(&bytes);
    }

    pub(super) fn log_id(&mut self, id: &LogId) {
        self.long(id.leader_id.term);
        self.node(&id.leader_id.node_id);
        self.long(id.index);
    }

    pub(super) fn vote(&mut self, vote: &Vote) {
        self.long(vote.leader_id.term);
        self.node(&vote.leader_id.node_id);
        self.flag(vote.committed);
    }

    pub(super) fn membership(&mut self, membership: &Membership) {
        let configs = membership.get_joint_config();
        self.byte(u8::try_from(configs.len()).unwrap_or(u8::MAX));
        for config in configs {
            self.count(config.len());
            config.iter().for_each(|node| self.node(node));
        }
        self.count(membership.nodes().count());
        membership.nodes().for_each(|(node, _)| self.node(node));
    }

    pub(super) fn stored_membership(&mut self, stored: &StoredMembership) {
        self.option(stored.log_id().as_ref(), Self::log_id);
        self.membership(stored.membership());
    }

    pub(super) fn entry(&mut self, entry: &Entry) {
        self.log_id(&entry.log_id);
        match &entry.payload {
            EntryPayload::Blank => self.byte(BLANK),
            EntryPayload::Normal(command) => {
                self.byte(NORMAL);
                self.bytes(&command.0);
            }
            EntryPayload::Membership(membership) => {
                self.byte(MEMBERSHIP);
                self.membership(membership);
            }
        }
    }
}

/// Takes bytes apart. Nothing is believed: lengths and counts are checked before anything is made of them.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    rest: Bytes,
}

impl Reader {
    pub(super) fn of(bytes: Bytes) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn take(&mut self, length: usize) -> Result<Bytes> {
        if length > self.rest.len() {
            return Err(corrupt("a message or record is cut off"));
        }
        Ok(self.rest.split_to(length))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        let mut array = [0; N];
        array.copy_from_slice(&bytes);
        Ok(array)
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn flag(&mut self) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(corrupt("a flag is neither 0 nor 1")),
        }
    }

    pub(super) fn short(&mut self) -> Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A number of things, each of which takes at least one byte.
    pub(super) fn count(&mut self, max: usize) -> Result<usize> {
        let count = self.array().map(u32::from_be_bytes)? as usize;
        if count > max || count > self.rest.len() {
            return Err(corrupt(format!("{count} is more than there can be")));
        }
        Ok(count)
    }

    pub(super) fn bytes(&mut self) -> Result<Bytes> {
        let length = self.array().map(u32::from_be_bytes)? as usize;
        self.take(length)
    }

    pub(super) fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Ok(None) }
    }

    /// Nothing may follow.
    pub(super) fn end(&self) -> Result<()> {
        if self.is_empty() { Ok(()) } else { Err(corrupt("a message or record is longer than it says")) }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All that follows.
    pub(super) fn everything(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    pub(super) fn node(&mut self) -> Result<Node> {
        let length = self.byte()?.into();
        let bytes = self.take(length)?;
        if bytes.is_empty() {
            return Ok(Node::default());
        }
        let peer = PeerId::from_bytes(&bytes)
            .map_err(|source| corrupt("no peer has such an id").with_source(source))?;
        Ok(Node::of(peer))
    }

    pub(super) fn peer(&mut self) -> Result<PeerId> {
        self.node()?.0.ok_or_else(|| corrupt("a peer is missing"))
    }

    pub(super) fn log_id(&mut self) -> Result<LogId> {
        let (term, node) = (self.long()?, self.node()?);
        Ok(LogId::new(openraft::CommittedLeaderId::new(term, node), self.long()?))
    }

    pub(super) fn vote(&mut self) -> Result<Vote> {
        let (term, node) = (self.long()?, self.node()?);
        Ok(if self.flag()? { Vote::new_committed(term, node) } else { Vote::new(term, node) })
    }

    fn nodes(&mut self) -> Result<BTreeSet<Node>> {
        (0..self.count(PEERS_MAX)?).map(|_| self.peer().map(Node::of)).collect()
    }

    pub(super) fn membership(&mut self) -> Result<Membership> {
        let configs = usize::from(self.byte()?);
        if configs > CONFIGS_MAX {
            return Err(corrupt("too many configurations at a time"));
        }
        let configs = (0..configs).map(|_| self.nodes()).collect::<Result<Vec<_>>>()?;
        let nodes: BTreeMap<_, _> = self.nodes()?.into_iter().map(|node| (node, EmptyNode {})).collect();
        if configs.iter().any(BTreeSet::is_empty)
            || !configs.iter().flatten().all(|node| nodes.contains_key(node))
        {
            return Err(corrupt("an impossible membership"));
        }
        Ok(Membership::new(configs, nodes))
    }

    pub(super) fn stored_membership(&mut self) -> Result<StoredMembership> {
        let id = self.option(Self::log_id)?;
        Ok(StoredMembership::new(id, self.membership()?))
    }

    pub(super) fn entry(&mut self) -> Result<Entry> {
        let log_id = self.log_id()?;
        let payload = match self.byte()? {
            BLANK => EntryPayload::Blank,
            NORMAL => EntryPayload::Normal(Command(self.bytes()?)),
            MEMBERSHIP => EntryPayload::Membership(self.membership()?),
            kind => return Err(corrupt(format!("an entry of the unknown kind {kind}"))),
        };
        Ok(Entry { log_id, payload })
    }
}

/// What a writer wrote.
pub(super) fn written(write: impl FnOnce(&mut Writer)) -> Bytes {
    let mut writer = Writer::default();
    write(&mut writer);
    writer.0.into()
}

/// What a reader makes of the whole of some bytes.
pub(super) fn read<T>(bytes: Bytes, read: impl FnOnce(&mut Reader) -> Result<T>) -> Result<T> {
    let mut reader = Reader::of(bytes);
    let value = read(&mut reader)?;
    reader.end()?;
    Ok(value)
}
