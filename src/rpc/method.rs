//! The one table of methods: names, who may call, what they take and give.

use std::fmt;

use crate::transport::Protocol;

/// The reference's calls.
pub const RPC_PROTOCOL: &str = "/ipfscluster/1.0/rpc";
/// Calls that the reference lacks, framed alike. A Go peer does not speak it, so that opening it is
/// [`Unsupported`](crate::ErrorKind::Unsupported) and callers fall back.
pub const EXTRA_PROTOCOL: &str = "/ipfs-cluster-rs/1/rpc";

/// Who may call a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Any peer that reaches us.
    Open,
    /// Peers that this peer trusts.
    Trusted,
    /// Nobody from outside.
    Local,
}

/// Whether arguments and replies are one each, or streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One argument, one reply.
    Unary,
    /// Any number of replies.
    Stream,
    /// Any number of blocks, no reply.
    BlockStream,
}

/// What can be called from other peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // Each is the reference's method of this name.
pub enum Method {
    Id,
    IdStream,
    PeerAdd,
    Version,
    Peers,
    PeerRemove,
    RecoverAllLocal,
    RecoverLocal,
    RepoGcLocal,
    Status,
    StatusAll,
    Recover,
    BlockStream,
    RepoStat,
    SwarmPeers,
    LogPin,
    LogUnpin,
    AddPeer,
    RmPeer,
    /// Ours: makes what is reported of one CID match the daemon.
    Sync,
    /// Ours: the same for all.
    SyncAll,
    /// Ours: as `StatusAll`, in ascending order of the binary CID and from any point on.
    StatusAllSorted,
    /// Ours: `Status` of many CIDs.
    StatusOf,
    /// Ours: what tells whether two peers have the same pinset.
    PinsetDigest,
}

/// Longest header, and longest argument that is a CID, a peer id, a number or nothing, in bytes.
pub(super) const SMALL_BYTES_MAX: usize = 4 * 1024;
/// Most CIDs in one call of [`Method::StatusOf`].
pub const STATUS_OF_CIDS_MAX: usize = 1024;
/// Longest argument that is a list of so many CIDs, in bytes: one has at most 100.
pub(super) const CIDS_BYTES_MAX: usize = 128 * 1024;
/// Longest entry of the pinset, in bytes.
pub(super) const PIN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest block with its CID, in bytes.
pub(super) const BLOCK_OBJECT_BYTES_MAX: usize = 16 * 1024 * 1024;

impl Method {
    /// Every method.
    pub const ALL: [Self; 24] = [
        Self::Id,
        Self::IdStream,
        Self::PeerAdd,
        Self::Version,
        Self::Peers,
        Self::PeerRemove,
        Self::RecoverAllLocal,
        Self::RecoverLocal,
        Self::RepoGcLocal,
        Self::Status,
        Self::StatusAll,
        Self::Recover,
        Self::BlockStream,
        Self::RepoStat,
        Self::SwarmPeers,
        Self::LogPin,
        Self::LogUnpin,
        Self::AddPeer,
        Self::RmPeer,
        Self::Sync,
        Self::SyncAll,
        Self::StatusAllSorted,
        Self::StatusOf,
        Self::PinsetDigest,
    ];

    /// Service and method, as they travel.
    pub const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Id => ("Cluster", "ID"),
            Self::IdStream => ("Cluster", "IDStream"),
            Self::PeerAdd => ("Cluster", "PeerAdd"),
            Self::Version => ("Cluster", "Version"),
            Self::Peers => ("Cluster", "Peers"),
            Self::PeerRemove => ("Cluster", "PeerRemove"),
            Self::RecoverAllLocal => ("Cluster", "RecoverAllLocal"),
            Self::RecoverLocal => ("Cluster", "RecoverLocal"),
            Self::RepoGcLocal => ("Cluster", "RepoGCLocal"),
            Self::Status => ("PinTracker", "Status"),
            Self::StatusAll => ("PinTracker", "StatusAll"),
            Self::Recover => ("PinTracker", "Recover"),
            Self::BlockStream => ("IPFSConnector", "BlockStream"),
            Self::RepoStat => ("IPFSConnector", "RepoStat"),
            Self::SwarmPeers => ("IPFSConnector", "SwarmPeers"),
            Self::LogPin => ("Consensus", "LogPin"),
            Self::LogUnpin => ("Consensus", "LogUnpin"),
            Self::AddPeer => ("Consensus", "AddPeer"),
            Self::RmPeer => ("Consensus", "RmPeer"),
            Self::Sync => ("PinTracker", "Sync"),
            Self::SyncAll => ("PinTracker", "SyncAll"),
            Self::StatusAllSorted => ("PinTracker", "StatusAllSorted"),
            Self::StatusOf => ("PinTracker", "StatusOf"),
            Self::PinsetDigest => ("Cluster", "PinsetDigest"),
        }
    }

    /// Who may call it. A new method does not compile until somebody decides.
    pub const fn access(self) -> Access {
        match self {
            Self::Id | Self::IdStream | Self::PeerAdd | Self::Version => Access::Open,
            // Who follows wants to know how far behind it is, and learns no more than from the heads that everybody hears.
            Self::PinsetDigest => Access::Open,
            Self::Peers
            | Self::PeerRemove
            | Self::RecoverAllLocal
            | Self::RecoverLocal
            | Self::RepoGcLocal
            | Self::Status
            | Self::StatusAll
            | Self::Recover
            | Self::BlockStream
            | Self::RepoStat
            | Self::SwarmPeers
            | Self::LogPin
            | Self::LogUnpin
            | Self::AddPeer
            | Self::RmPeer
            | Self::Sync
            | Self::SyncAll
            | Self::StatusAllSorted
            | Self::StatusOf => Access::Trusted,
        }
    }

    /// One argument and one reply, or streams.
    pub const fn shape(self) -> Shape {
        match self {
            Self::IdStream
            | Self::Peers
            | Self::RecoverAllLocal
            | Self::StatusAll
            | Self::SyncAll
            | Self::StatusAllSorted
            | Self::StatusOf => Shape::Stream,
            Self::BlockStream => Shape::BlockStream,
            Self::Id
            | Self::PeerAdd
            | Self::Version
            | Self::PeerRemove
            | Self::RecoverLocal
            | Self::RepoGcLocal
            | Self::Status
            | Self::Recover
            | Self::RepoStat
            | Self::SwarmPeers
            | Self::LogPin
            | Self::LogUnpin
            | Self::AddPeer
            | Self::RmPeer
            | Self::Sync
            | Self::PinsetDigest => Shape::Unary,
        }
    }

    /// Whether it is ours alone, and travels on [`EXTRA_PROTOCOL`].
    pub const fn is_extra(self) -> bool {
        matches!(
            self,
            Self::Sync | Self::SyncAll | Self::StatusAllSorted | Self::StatusOf | Self::PinsetDigest
        )
    }

    /// What a stream for it is opened under.
    pub fn protocol(self) -> Protocol {
        Protocol::new(if self.is_extra() { EXTRA_PROTOCOL } else { RPC_PROTOCOL })
    }

    /// Longest argument that is taken, in bytes.
    pub(super) const fn argument_bytes_max(self) -> usize {
        match self {
            Self::LogPin | Self::LogUnpin => PIN_BYTES_MAX,
            Self::BlockStream => BLOCK_OBJECT_BYTES_MAX,
            Self::StatusOf => CIDS_BYTES_MAX,
            _ => SMALL_BYTES_MAX,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (service, method) = self.name();
        write!(f, "{service}.{method}")
    }
}

/// Methods that exist in the reference and are never for others.
const LOCAL: &[(&str, &[&str])] = &[
    (
        "Cluster",
        &[
            "Alerts",
            "BandwidthByProtocol",
            "BlockAllocate",
            "ConnectGraph",
            "IPFSID",
            "Join",
            "PeersWithFilter",
            "Pin",
            "PinGet",
            "PinPath",
            "Pins",
            "Recover",
            "RecoverAll",
            "RepoGC",
            "SendInformerMetrics",
            "SendInformersMetrics",
            "Status",
            "StatusAll",
            "StatusAllLocal",
            "StatusLocal",
            "Unpin",
            "UnpinPath",
        ],
    ),
    ("PinTracker", &["PinQueueSize", "RecoverAll", "Track", "Untrack"]),
    ("IPFSConnector", &["BlockGet", "ConfigKey", "Pin", "PinLs", "PinLsCid", "Resolve", "Unpin"]),
    ("Consensus", &["Peers"]),
    ("PeerMonitor", &["LatestMetrics", "MetricNames"]),
];

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Method(Method),
    /// It exists, and its [`Access`] is `Local`.
    Local,
    NoService,
    NoMethod,
}

pub(super) fn find(service: &str, method: &str, extra: bool) -> Found {
    let of_protocol = || Method::ALL.into_iter().filter(|candidate| candidate.is_extra() == extra);
    if let Some(found) = of_protocol().find(|candidate| candidate.name() == (service, method)) {
        return Found::Method(found);
    }
    let local = LOCAL.iter().find(|(name, _)| !extra && *name == service);
    if local.is_some_and(|(_, methods)| methods.contains(&method)) {
        return Found::Local;
    }
    if local.is_some() || of_protocol().any(|candidate| candidate.name().0 == service) {
        Found::NoMethod
    } else {
        Found::NoService
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_method_has_its_own_name_and_is_found_by_it_on_its_protocol_only() {
        let names: BTreeSet<_> = Method::ALL.into_iter().map(|method| method.to_string()).collect();
        assert_eq!(names.len(), Method::ALL.len());
        for method in Method::ALL {
            let (service, name) = method.name();
            assert_eq!(find(service, name, method.is_extra()), Found::Method(method));
            let elsewhere = find(service, name, !method.is_extra());
            assert!(matches!(elsewhere, Found::NoMethod | Found::NoService), "{method}");
        }
    }

    #[test]
    fn what_is_closed_unknown_or_misspelt_is_told_apart() {
        for (service, methods) in LOCAL {
            for method in *methods {
                assert_eq!(find(service, method, false), Found::Local, "{service}.{method}");
            }
        }
        for (name, found) in [
            (("Cluster", "Nope"), Found::NoMethod),
            (("Nope", "ID"), Found::NoService),
            (("", ""), Found::NoService),
            (("cluster", "ID"), Found::NoService),
            (("PeerMonitor", "Nope"), Found::NoMethod),
        ] {
            assert_eq!(find(name.0, name.1, false), found, "{name:?}");
        }
        assert_eq!(find("Consensus", "LogPin", true), Found::NoService);
    }
}
