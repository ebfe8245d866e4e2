//! Pin requests from many connections at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use cid::Cid;
use multihash::Multihash;

use crate::http::Connection;

const CODEC_RAW: u64 = 0x55;
const CODE_SHA2_256: u64 = 0x12;

/// The n-th CID: raw, SHA-256, digest from a fixed sequence, so that runs compare and keys come in random order.
pub(crate) fn nth_cid(n: u64) -> Result<Cid> {
    let mut digest = [0; 32];
    for (index, part) in digest.chunks_exact_mut(8).enumerate() {
        // SplitMix64.
        let mut z =
            (n * 4 + index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        part.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes());
    }
    Ok(Cid::new_v1(CODEC_RAW, Multihash::wrap(CODE_SHA2_256, &digest)?))
}

/// What a run of pin requests came to.
pub(crate) struct Posted {
    pub(crate) acknowledged: u64,
    /// Requests that were answered by an error, where that is a figure and not the end.
    pub(crate) refused: u64,
    pub(crate) elapsed: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

impl Posted {
    pub(crate) fn per_second(&self) -> f64 {
        self.acknowledged as f64 / self.elapsed.as_secs_f64()
    }
}

/// When a run of pin requests ends.
#[derive(Clone, Copy)]
pub(crate) enum Stop {
    After(Duration),
    AtCount(u64),
}

/// Posts pins with a name and one metadata key, each connection one request at a time. A refusal is an error.
pub(crate) async fn post_pins(api: SocketAddr, clients: u64, first: u64, stop: Stop) -> Result<Posted> {
    let posted = post_and_count(api, clients, first, stop).await?;
    ensure!(posted.refused == 0, "{} pins were refused", posted.refused);
    Ok(posted)
}

/// The same, where a refusal is counted.
pub(crate) async fn post_and_count(api: SocketAddr, clients: u64, first: u64, stop: Stop) -> Result<Posted> {
    post_to(&[api], clients, first, stop).await
}

/// The same to several peers, as many clients at each.
pub(crate) async fn post_to(apis: &[SocketAddr], clients: u64, first: u64, stop: Stop) -> Result<Posted> {
    let next = Arc::new(AtomicU64::new(first));
    let started = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for api in apis.iter().cycle().take(clients as usize).copied() {
        let next = Arc::clone(&next);
        workers.spawn(async move {
            let mut connection = Connection::open(api).await?;
            let mut latencies = Vec::new();
            let mut refused = 0;
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                let done = match stop {
                    Stop::After(duration) => started.elapsed() >= duration,
                    Stop::AtCount(count) => n >= first + count,
                };
                if done {
                    return Ok::<_, anyhow::Error>((latencies, refused));
                }
                let target = format!("/pins/{}?name=bench-{n}&meta-owner=bench", nth_cid(n)?);
                let sent = Instant::now();
                let answer = connection.request("POST", &target, true).await?;
                if answer.status == 200 {
                    latencies.push(sent.elapsed());
                } else {
                    refused += 1;
                }
            }
        });
    }
    let mut latencies = Vec::new();
    let mut refused = 0;
    while let Some(worker) = workers.join_next().await {
        let (more, also_refused) = worker??;
        latencies.extend(more);
        refused += also_refused;
    }
    let elapsed = started.elapsed();
    latencies.sort_unstable();
    let at =
        |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or_default();
    Ok(Posted { acknowledged: latencies.len() as u64, refused, elapsed, p50: at(0.5), p99: at(0.99) })
}
