//! Durable pin requests to three peers on disks of several speeds: what a sync takes decides how many pins one has to be for.

use std::time::Duration;

use anyhow::Result;

use super::{CLIENTS, start_on};
use crate::load::{Stop, post_to};
use crate::many::wait_for_lines;
use crate::peers::apis;
use crate::report::Row;
use crate::scenarios::Setup;
use crate::slow_disk::{SlowDisk, own_sync_time};

/// How long there is load before it counts.
const WARM_PINS: u64 = 2_000;

pub(crate) async fn syncs(setup: &Setup<'_>, delays: &[Duration], seconds: u64) -> Result<Vec<Row>> {
    if let Err(reason) = SlowDisk::check().await {
        eprintln!("{}: no disks of several speeds: {reason:#}", setup.subject.name);
        return Ok(Vec::new());
    }
    let mut rows = Vec::new();
    for (number, delay) in delays.iter().enumerate() {
        let members = start_on(setup, &format!("raft-syncs-{number}"), Some(SlowDisk::new(*delay))).await?;
        let apis = apis(&members);
        let warm = post_to(&apis, CLIENTS, 0, Stop::AtCount(WARM_PINS)).await?;
        let own = own_sync_time(&setup.folder)?;
        let counted =
            || members.iter().map(|member| SlowDisk::syncs(&member.peer.folder)).sum::<Result<u64>>();
        let before = counted()?;
        let posted = post_to(&apis, CLIENTS, 10_000_000, Stop::After(Duration::from_secs(seconds))).await?;
        let syncs = counted()?.saturating_sub(before);
        wait_for_lines(&apis, "/allocations", warm.acknowledged + posted.acknowledged).await?;
        let what = format!("Raft, 3 peers, syncs held up {delay:?}: POST to all three, 64 clients, durable");
        rows.extend(super::rows(what, &posted));
        rows.extend([
            Row::lower(
                "the same, syncs of all peers",
                syncs as f64 * 1_000.0 / posted.acknowledged.max(1) as f64,
                "a 1,000 pins",
            ),
            Row::lower("the same, what a sync took without that", own.as_secs_f64() * 1e3, "ms"),
        ]);
        for member in members {
            member.stop().await?;
        }
    }
    Ok(rows)
}
