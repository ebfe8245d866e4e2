//! What peers that agree by Raft do together, on loopback: writing, a peer that joins, and the end of a leader.

mod failover;
mod snapshot;
mod syncs;
mod writes;

pub(crate) use failover::failover;
pub(crate) use snapshot::snapshot;
pub(crate) use syncs::syncs;
pub(crate) use writes::writes;

use anyhow::Result;

use crate::load::Posted;
use crate::many::SECRET;
use crate::peers::{self, Member};
use crate::report::Row;
use crate::scenarios::Setup;
use crate::slow_disk::SlowDisk;

const CLIENTS: u64 = 64;

/// How the peers are told to work: as they do without being told, but for the secret and how often they say how they are.
const SETTINGS: [(&str, &str); 3] =
    [("CLUSTER_SECRET", SECRET), ("CLUSTER_DISK_METRICTTL", "10s"), ("CLUSTER_TAGS_METRICTTL", "10s")];

/// Peers that know each other. The first one leads until something happens to it.
async fn start(setup: &Setup<'_>, name: &str) -> Result<Vec<Member>> {
    start_on(setup, name, None).await
}

/// The same, on slow disks.
async fn start_on(setup: &Setup<'_>, name: &str, disk: Option<SlowDisk>) -> Result<Vec<Member>> {
    peers::start(setup, name, &SETTINGS, disk).await
}

/// How fast pins were acknowledged, and how many were not.
fn rows(what: String, posted: &Posted) -> [Row; 4] {
    [
        Row::rate(what, posted.per_second(), "pins/s"),
        Row::milliseconds("the same, median", posted.p50),
        Row::milliseconds("the same, p99", posted.p99),
        Row::lower("the same, refused", posted.refused as f64, "pins"),
    ]
}
