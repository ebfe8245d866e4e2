//! Calls and their answers, as the server's handler and the client see them.

use bytes::Bytes;

use super::method::{Access, Method, STATUS_OF_CIDS_MAX};
use super::msgpack::{Empty, Item, List, Wire, decode, encode};
use super::wire::{self, filter_from_bits};
use crate::error::Result;
use crate::types::{Cid, PeerId, PeerInfo, Pin, PinInfo, RepoGc, RepoStat, StatusFilter, Version};

/// A call from another peer, with its argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Who are you? Answered with [`Reply::Peer`].
    Id,
    /// The same as a stream of one: [`Page::Peers`].
    IdStream,
    /// The caller joins through this peer, which calls [`Request::Id`] back and answers with that, its own id added to
    /// the cluster peers: [`Reply::Peer`].
    PeerAdd(PeerId),
    /// [`Reply::Version`].
    Version,
    /// All members, as a stream of [`Page::Peers`].
    Peers,
    /// [`Reply::Empty`].
    PeerRemove(PeerId),
    /// Retries everything that failed on this peer: a stream of [`Page::Pins`].
    RecoverAllLocal,
    /// [`Reply::Pin`].
    RecoverLocal(Cid),
    /// Collects garbage on this peer's daemon: [`Reply::RepoGc`].
    RepoGcLocal,
    /// Where a CID stands on this peer: [`Reply::Pin`].
    Status(Cid),
    /// Where everything stands on this peer: a stream of [`Page::Pins`].
    StatusAll(StatusFilter),
    /// Retries one CID on this peer: [`Reply::Pin`].
    Recover(Cid),
    /// Stores blocks. Comes by [`RequestHandler::put_blocks`](super::RequestHandler::put_blocks), never as a value.
    BlockStream,
    /// [`Reply::RepoStat`].
    RepoStat,
    /// Daemons that this peer's daemon is connected to: [`Reply::Peers`].
    SwarmPeers,
    /// Logs a pin: [`Reply::Empty`].
    LogPin(Box<Pin>),
    /// Logs an unpin: [`Reply::Empty`].
    LogUnpin(Cid),
    /// Adds a member to the consensus: [`Reply::Empty`].
    AddPeer(PeerId),
    /// Removes a member from the consensus: [`Reply::Empty`].
    RmPeer(PeerId),
    /// Ours: makes what is reported of a CID match the daemon: [`Reply::Pin`].
    Sync(Cid),
    /// Ours: the same for all; a stream of [`Page::Pins`] that changed.
    SyncAll,
    /// Ours: as [`Request::StatusAll`], in ascending order of the binary CID, only what comes after `after`.
    StatusAllSorted {
        /// Which statuses.
        filter: StatusFilter,
        /// The last CID that the caller has.
        after: Option<Cid>,
    },
    /// Ours: where these CIDs stand on this peer, as [`Request::Status`] would say it of each, at most
    /// [`STATUS_OF_CIDS_MAX`]: a stream of [`Page::Pins`] in their order.
    StatusOf(Vec<Cid>),
    /// Ours: [`Reply::Digest`].
    PinsetDigest,
}

impl Request {
    /// The method that is called.
    pub const fn method(&self) -> Method {
        match self {
            Self::Id => Method::Id,
            Self::IdStream => Method::IdStream,
            Self::PeerAdd(_) => Method::PeerAdd,
            Self::Version => Method::Version,
            Self::Peers => Method::Peers,
            Self::PeerRemove(_) => Method::PeerRemove,
            Self::RecoverAllLocal => Method::RecoverAllLocal,
            Self::RecoverLocal(_) => Method::RecoverLocal,
            Self::RepoGcLocal => Method::RepoGcLocal,
            Self::Status(_) => Method::Status,
            Self::StatusAll(_) => Method::StatusAll,
            Self::Recover(_) => Method::Recover,
            Self::BlockStream => Method::BlockStream,
            Self::RepoStat => Method::RepoStat,
            Self::SwarmPeers => Method::SwarmPeers,
            Self::LogPin(_) => Method::LogPin,
            Self::LogUnpin(_) => Method::LogUnpin,
            Self::AddPeer(_) => Method::AddPeer,
            Self::RmPeer(_) => Method::RmPeer,
            Self::Sync(_) => Method::Sync,
            Self::SyncAll => Method::SyncAll,
            Self::StatusAllSorted { .. } => Method::StatusAllSorted,
            Self::StatusOf(_) => Method::StatusOf,
            Self::PinsetDigest => Method::PinsetDigest,
        }
    }

    /// Who may call it, see [`Method::access`].
    pub const fn access(&self) -> Access {
        self.method().access()
    }

    /// The argument as it travels; none where the stream of arguments is empty.
    pub(super) fn encode_argument(&self) -> Option<Vec<u8>> {
        Some(match self {
            Self::Id | Self::Version | Self::RepoGcLocal | Self::RepoStat | Self::SwarmPeers => {
                encode(&Empty)
            }
            Self::PinsetDigest => encode(&Empty),
            Self::IdStream | Self::Peers | Self::RecoverAllLocal | Self::BlockStream | Self::SyncAll => {
                return None;
            }
            Self::PeerAdd(peer) | Self::PeerRemove(peer) | Self::AddPeer(peer) | Self::RmPeer(peer) => {
                encode(&Some(*peer))
            }
            Self::RecoverLocal(cid) | Self::Status(cid) | Self::Recover(cid) | Self::Sync(cid) => {
                encode(&Some(*cid))
            }
            Self::StatusAll(filter) => encode(&i64::from(filter.bits())),
            Self::LogPin(pin) => encode(&wire::Pin::from(&**pin)),
            Self::LogUnpin(cid) => encode(&wire::Pin::from(&Pin::new(*cid, Default::default()))),
            Self::StatusOf(cids) => encode(&List::from(cids.clone())),
            Self::StatusAllSorted { filter, after } => {
                encode(&wire::SortedFilter { filter: filter.bits().into(), after: *after })
            }
        })
    }

    /// The call of a method with the bytes of its argument; none where the stream of arguments was empty.
    ///
    /// # Errors
    /// `Corrupt` for an argument that is not the method's.
    pub(super) fn decode(method: Method, argument: Option<&[u8]>) -> Result<Self> {
        const NIL: &[u8] = &[0xc0];
        let argument = argument.unwrap_or(NIL);
        let empty = |request: Self| decode::<Empty>(argument).map(|_| request);
        Ok(match method {
            Method::Id => empty(Self::Id)?,
            Method::Version => empty(Self::Version)?,
            Method::RepoGcLocal => empty(Self::RepoGcLocal)?,
            Method::RepoStat => empty(Self::RepoStat)?,
            Method::SwarmPeers => empty(Self::SwarmPeers)?,
            Method::PinsetDigest => empty(Self::PinsetDigest)?,
            // Streams without arguments: what is sent all the same means nothing.
            Method::IdStream => Self::IdStream,
            Method::Peers => Self::Peers,
            Method::RecoverAllLocal => Self::RecoverAllLocal,
            Method::SyncAll => Self::SyncAll,
            Method::BlockStream => Self::BlockStream,
            Method::PeerAdd => Self::PeerAdd(required(argument)?),
            Method::PeerRemove => Self::PeerRemove(required(argument)?),
            Method::AddPeer => Self::AddPeer(required(argument)?),
            Method::RmPeer => Self::RmPeer(required(argument)?),
            Method::RecoverLocal => Self::RecoverLocal(required(argument)?),
            Method::Status => Self::Status(required(argument)?),
            Method::Recover => Self::Recover(required(argument)?),
            Method::Sync => Self::Sync(required(argument)?),
            Method::StatusAll => Self::StatusAll(filter_from_bits(decode(argument)?)?),
            Method::LogPin => Self::LogPin(Box::new(decode::<wire::Pin>(argument)?.try_into()?)),
            Method::LogUnpin => {
                let pin: wire::Pin = decode(argument)?;
                Self::LogUnpin(pin.cid.ok_or_else(|| super::msgpack::malformed("an unpin without a cid"))?)
            }
            Method::StatusOf => {
                let cids = decode::<List<Cid>>(argument)?.into_vec();
                if cids.len() > STATUS_OF_CIDS_MAX {
                    let text = format!("{} cids, at most {STATUS_OF_CIDS_MAX} can be asked for", cids.len());
                    return Err(super::msgpack::malformed(text));
                }
                Self::StatusOf(cids)
            }
            Method::StatusAllSorted => {
                let wire::SortedFilter { filter, after } = decode(argument)?;
                Self::StatusAllSorted { filter: filter_from_bits(filter)?, after }
            }
        })
    }
}

fn required<T: Item>(argument: &[u8]) -> Result<T> {
    decode::<Option<T>>(argument)?.ok_or_else(|| super::msgpack::malformed("a call without its argument"))
}

/// What tells whether two peers have the same pinset, whatever order they got it in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinsetDigest {
    /// Number of pins.
    pub count: u64,
    /// Sum of a hash of each.
    pub hash: [u8; 16],
    /// Heads of the history, with their heights.
    pub heads: Vec<(Cid, u64)>,
}

/// The answer to a call that is no stream. Which variant belongs to which request stands at [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Empty,
    /// A peer.
    Peer(Box<PeerInfo>),
    /// Its version.
    Version(Version),
    /// A CID on one peer.
    Pin(Box<PinInfo>),
    /// Garbage collected.
    RepoGc(RepoGc),
    /// Disk use.
    RepoStat(RepoStat),
    /// Peer ids.
    Peers(Vec<PeerId>),
    /// The pinset in short.
    Digest(PinsetDigest),
}

impl Reply {
    /// The bytes, where it is the method's kind of answer.
    pub(super) fn encode(&self, method: Method) -> Option<Vec<u8>> {
        Some(match (method, self) {
            (Method::Id | Method::PeerAdd, Self::Peer(peer)) => encode(&wire::Peer::from(&**peer)),
            (Method::Version, Self::Version(version)) => {
                encode(&wire::Version { version: version.version.clone() })
            }
            (Method::RecoverLocal | Method::Status | Method::Recover | Method::Sync, Self::Pin(info)) => {
                encode(&wire::PinInfo::from(&**info))
            }
            (Method::RepoGcLocal, Self::RepoGc(gc)) => encode(&wire::RepoGc::from(gc)),
            (Method::RepoStat, Self::RepoStat(stat)) => {
                encode(&wire::RepoStat { repo_size: stat.repo_size, storage_max: stat.storage_max })
            }
            (Method::SwarmPeers, Self::Peers(peers)) => encode(&List(Some(peers.clone()))),
            (
                Method::PeerRemove | Method::LogPin | Method::LogUnpin | Method::AddPeer | Method::RmPeer,
                Self::Empty,
            ) => encode(&Empty),
            (Method::PinsetDigest, Self::Digest(digest)) => encode(&wire::Digest::from(digest)),
            _ => return None,
        })
    }

    /// What follows the header when the method failed.
    pub(super) fn encode_zero(method: Method) -> Vec<u8> {
        match method {
            Method::Id | Method::PeerAdd => encode(&wire::Peer::default()),
            Method::Version => encode(&wire::Version::default()),
            Method::RecoverLocal | Method::Status | Method::Recover | Method::Sync => {
                encode(&wire::PinInfo::default())
            }
            Method::RepoGcLocal => encode(&wire::RepoGc::default()),
            Method::RepoStat => encode(&wire::RepoStat::default()),
            Method::SwarmPeers => encode(&List::<PeerId>::default()),
            Method::PeerRemove | Method::LogPin | Method::LogUnpin | Method::AddPeer | Method::RmPeer => {
                encode(&Empty)
            }
            Method::PinsetDigest => encode(&wire::Digest::default()),
            // An error ends a stream, and nil follows it.
            Method::IdStream
            | Method::Peers
            | Method::RecoverAllLocal
            | Method::StatusAll
            | Method::SyncAll
            | Method::StatusAllSorted
            | Method::StatusOf
            | Method::BlockStream => vec![0xc0],
        }
    }
}

/// Some items of a stream of answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// Peers.
    Peers(Vec<PeerInfo>),
    /// CIDs on one peer.
    Pins(Vec<PinInfo>),
}

impl Page {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Peers(items) => items.len(),
            Self::Pins(items) => items.len(),
        }
    }

    /// Writes one item, where it is the method's kind.
    pub(super) fn write_item(&self, index: usize, method: Method, to: &mut Vec<u8>) -> bool {
        match (method, self) {
            (Method::IdStream | Method::Peers, Self::Peers(items)) => items.get(index).is_some_and(|item| {
                wire::Peer::from(item).write(to);
                true
            }),
            (
                Method::RecoverAllLocal
                | Method::StatusAll
                | Method::SyncAll
                | Method::StatusAllSorted
                | Method::StatusOf,
                Self::Pins(items),
            ) => items.get(index).is_some_and(|item| {
                wire::PinInfo::from(item).write(to);
                true
            }),
            _ => false,
        }
    }
}

/// The header of a call.
pub(super) fn encode_service(method: Method) -> Vec<u8> {
    encode(&service_id(method))
}

pub(super) fn service_id(method: Method) -> wire::ServiceId {
    let (service, name) = method.name();
    wire::ServiceId { service: service.to_owned(), method: name.to_owned() }
}

/// A block with its header, as [`Method::BlockStream`] carries it.
pub(super) fn encode_block(block: &crate::types::Block) -> Bytes {
    let node = wire::Node {
        data: block.data.clone(),
        cid: Some(block.cid),
        // The size of what is below it is known only to who adds; receivers do not look at it.
        cumulative_size: block.data.len() as u64,
    };
    encode(&node).into()
}
