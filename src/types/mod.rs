//! Plain data: what pins, statuses, metrics and peers are. Nothing here does I/O.
//!
//! The serde forms are those of the reference's REST API and state export (`Go ipfs-cluster 1.1.6`), so a
//! value read from one can be written to the other.

mod add;
mod bandwidth;
mod block;
mod car;
pub mod cid;
pub(crate) mod encoding;
mod event;
pub(crate) mod hash;
mod id;
mod lease;
mod metric;
mod path;
mod peer;
mod pin;
mod pin_info;
mod resume;
mod standing;
mod status;
pub(crate) mod text;
mod time;

pub use self::cid::{Cid, parse_cid};
pub use add::{AddFormat, AddLayout, AddOptions, Added};
pub use bandwidth::Bandwidth;
pub use block::Block;
pub use car::{
    CAR_BLOCK_BYTES_MAX, CAR_HEADER_BYTES_MAX, CarDecoder, CarDigest, CarItem, CarWalk, car_header,
    car_section_head,
};
pub use event::{Event, EventCursor, EventKind, EventKinds, Happening};
pub use id::{ConnectGraph, GlobalRepoGc, IpfsId, PeerInfo, RepoGc, RepoGcKey, RepoStat, Version};
pub use lease::{Lease, LeaseState};
pub use metric::{Alert, Metric};
pub use path::IpfsPath;
pub use peer::{Multiaddr, PeerId, parse_multiaddr, parse_peer};
pub use pin::{
    MAX_DEPTH_DIRECT, MAX_DEPTH_RECURSIVE, Pin, PinMode, PinOperation, PinOptions, PinType, PinTypeFilter,
    ReplicationFactor, Revision,
};
pub use pin_info::{GlobalPinInfo, PinInfo, PinStatus};
pub use resume::{InterruptedAdd, RESUME_KEY_LETTERS_MAX, Resume, ResumeKey};
pub use standing::PinsetStanding;
pub use status::{StatusFilter, TrackerStatus};
pub use time::{Timestamp, parse_go_duration};
