//! The leader is killed while many write to the others: how long nobody is answered, and whether something is lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinSet;

use super::{CLIENTS, start};
use crate::http::Connection;
use crate::load::{Stop, nth_cid, post_to};
use crate::many::wait_for_lines;
use crate::peers::apis;
use crate::report::Row;
use crate::scenarios::Setup;

/// How long there is load before the leader ends, and after.
const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(20);
/// How long a client that was refused waits.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
/// How long the last requests may take.
const END_TIMEOUT: Duration = Duration::from_secs(120);
/// In less than that nobody is elected: it was not the leader that ended.
const GAP_MIN: Duration = Duration::from_millis(50);

pub(crate) async fn failover(setup: &Setup<'_>) -> Result<Vec<Row>> {
    let mut members = start(setup, "raft-failover").await?;
    let apis = apis(&members);
    post_to(&apis, CLIENTS, 0, Stop::AtCount(1_000)).await?;
    wait_for_lines(&apis, "/allocations", 1_000).await?;
    let leader = members.remove(0);
    let load = Load::start(&apis[1..]);
    tokio::time::sleep(BEFORE).await;
    let killed = Instant::now();
    leader.daemon.kill().await?;
    tokio::time::sleep(AFTER).await;
    let (mut answered, refused) = load.end().await?;
    leader.kubo.stop().await?;
    wait_for_lines(&apis[1..], "/allocations", 1_000 + answered.len() as u64)
        .await
        .context("something that was acknowledged is lost")?;
    answered.sort_unstable();
    let from = answered.partition_point(|at| *at < killed).saturating_sub(1);
    let answered = &answered[from..];
    ensure!(answered.len() > 1, "nothing was written any more after the leader was killed");
    let gap = answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    ensure!(gap > GAP_MIN, "it was not the leader that was killed");
    for member in members {
        member.stop().await?;
    }
    let seconds = (AFTER - gap.min(AFTER)).as_secs_f64().max(f64::MIN_POSITIVE);
    Ok(vec![
        Row::lower(
            "Raft, 3 peers: leader killed under load, longest without an answer",
            gap.as_secs_f64(),
            "s",
        ),
        Row::lower("the same, refused", refused as f64, "pins"),
        Row::rate("the same, from then on with two peers", (answered.len() - 1) as f64 / seconds, "pins/s"),
    ])
}

/// Clients that write to some peers until they are told to end.
struct Load {
    is_over: Arc<AtomicBool>,
    workers: JoinSet<Result<(Vec<Instant>, u64)>>,
}

impl Load {
    fn start(apis: &[SocketAddr]) -> Self {
        let (next, is_over) = (Arc::new(AtomicU64::new(10_000_000)), Arc::new(AtomicBool::new(false)));
        let mut workers = JoinSet::new();
        for api in apis.iter().cycle().take(CLIENTS as usize).copied() {
            let (next, is_over) = (next.clone(), is_over.clone());
            workers.spawn(async move {
                let mut connection = Connection::open(api).await?;
                let (mut answered, mut refused) = (Vec::new(), 0);
                while !is_over.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let target = format!("/pins/{}?name=bench-{n}&meta-owner=bench", nth_cid(n)?);
                    if connection.request("POST", &target, true).await?.status == 200 {
                        answered.push(Instant::now());
                    } else {
                        refused += 1;
                        tokio::time::sleep(REFUSED_PAUSE).await;
                    }
                }
                Ok((answered, refused))
            });
        }
        Self { is_over, workers }
    }

    /// When each pin was acknowledged, and how many were refused.
    async fn end(mut self) -> Result<(Vec<Instant>, u64)> {
        self.is_over.store(true, Ordering::Relaxed);
        let (mut answered, mut refused) = (Vec::new(), 0);
        let all = async {
            while let Some(worker) = self.workers.join_next().await {
                let (more, also_refused) = worker??;
                answered.extend(more);
                refused += also_refused;
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::time::timeout(END_TIMEOUT, all).await.context("requests were not answered")??;
        Ok((answered, refused))
    }
}
