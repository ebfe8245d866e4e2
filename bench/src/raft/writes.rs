//! Durable pin requests to three peers: all to one that follows, and to all of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{CLIENTS, start};
use crate::load::{Posted, Stop, post_to};
use crate::many::wait_for_lines;
use crate::peers::{Member, PEERS, apis};
use crate::report::Row;
use crate::scenarios::Setup;

/// Runs are as far apart in the sequence of CIDs.
const RUN: u64 = 10_000_000;

pub(crate) async fn writes(setup: &Setup<'_>, seconds: u64) -> Result<Vec<Row>> {
    let members = start(setup, "raft").await?;
    let apis = apis(&members);
    // Warm up: the first requests pay for files and pages.
    let warm = post_to(&apis, CLIENTS, 0, Stop::AtCount(2_000)).await?;
    let run = Run { members: &members, apis: &apis, seconds };
    let (mut rows, mut there) = (Vec::new(), warm.acknowledged);
    for (number, (asked, clients, what)) in [
        (&apis[1..2], CLIENTS, "one that follows"),
        (&apis[..1], CLIENTS, "the one that leads"),
        (&apis[..], CLIENTS, "all three"),
        (&apis[1..2], 1, "one that follows"),
    ]
    .into_iter()
    .enumerate()
    {
        let (posted, more) = run.run(asked, clients, RUN * (number as u64 + 1), what).await?;
        there += posted.acknowledged;
        rows.extend(more);
        let last = Instant::now();
        wait_for_lines(&apis, "/allocations", there).await?;
        ensure!(posted.refused > 0 || posted.acknowledged > 0, "nothing was answered");
        if clients > 1 {
            rows.push(Row::milliseconds("the same, until all peers list all of them", last.elapsed()));
        }
    }
    for member in members {
        member.stop().await?;
    }
    Ok(rows)
}

struct Run<'a> {
    members: &'a [Member],
    apis: &'a [SocketAddr],
    seconds: u64,
}

impl Run<'_> {
    async fn run(
        &self,
        asked: &[SocketAddr],
        clients: u64,
        first: u64,
        what: &str,
    ) -> Result<(Posted, Vec<Row>)> {
        let before = self.processor_time()?;
        let watched =
            self.members.iter().map(|member| member.daemon.watch_memory()).collect::<Result<Vec<_>>>()?;
        let stop = Stop::After(Duration::from_secs(self.seconds));
        let posted = post_to(asked, clients, first, stop).await?;
        let took = self.processor_time()?.saturating_sub(before);
        let mut growth = 0;
        for watched in watched {
            growth = growth.max(watched.growth()?);
        }
        ensure!(self.apis.len() == PEERS, "there are not {PEERS} peers");
        let plural = if clients == 1 { "" } else { "s" };
        let per_pin = took.as_secs_f64() * 1e6 / posted.acknowledged.max(1) as f64;
        let what = format!("Raft, 3 peers: POST to {what}, {clients} client{plural}, durable");
        let mut rows = super::rows(what, &posted).to_vec();
        rows.extend([
            Row::lower("the same, processor time of all peers", per_pin, "µs/pin"),
            Row::mebibytes("the same, growth of resident memory, the largest", growth),
        ]);
        Ok((posted, rows))
    }

    fn processor_time(&self) -> Result<Duration> {
        self.members.iter().map(|member| member.daemon.processor_time()).sum()
    }
}
