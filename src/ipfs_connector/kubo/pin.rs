//! Pinning, unpinning and asking for one pin.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;

use serde::Deserialize;
use tokio::time::Instant;

use super::health::RunningPin;
use super::http::{ANSWER_BYTES_MAX, Judge, remote_error, remote_message};
use super::{COMPONENT, Inner, answer};
use crate::config::duration;
use crate::error::{Error, ErrorKind, Result};
use crate::ipfs_connector::support;
use crate::types::{Cid, Multiaddr, Pin, PinMode, parse_cid};

/// Origins of a pin that the daemon is told to connect to, as in the reference.
const ORIGINS_MAX: usize = 10;

/// A line of `pin/ls?stream=true`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PinLine<'a> {
    #[serde(borrow)]
    pub(super) cid: Cow<'a, str>,
    #[serde(borrow, rename = "Type")]
    pub(super) kind: Cow<'a, str>,
}

/// A line of `pin/add?progress=true`, and the answer of `pin/rm` and `pin/update`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PinsLine {
    #[serde(default)]
    progress: u64,
    #[serde(default)]
    pins: Option<Vec<String>>,
    /// Instead of both, when the daemon gave up after it had begun to answer.
    #[serde(default)]
    message: Option<String>,
}

impl Inner {
    pub(super) async fn is_pinned(self: &Arc<Self>, cid: &Cid, mode: PinMode) -> Result<bool> {
        let path = format!("pin/ls?stream=true&arg={cid}&type={mode}");
        let call = async {
            let mut lines = self.http.post(&path, Judge::Latency, None).await?.lines();
            let Some(line) = lines.next().await? else { return Err(lines.corrupt("it is empty")) };
            let pin: PinLine<'_> = lines.parse(&line)?;
            if !parse_cid(&pin.cid).is_ok_and(|listed| listed == *cid) {
                return Err(lines.corrupt("it is about another CID"));
            }
            let found = pin.kind == mode.as_str();
            // To its end, so that the connection can be used again.
            while lines.next().await?.is_some() {}
            Ok(found)
        };
        match self.within_request(&path, Judge::Latency, call).await {
            Err(error) if remote_message(&error).is_some_and(|text| text.ends_with("not pinned")) => {
                Ok(false)
            }
            answer => answer,
        }
    }

    pub(super) async fn pin(self: &Arc<Self>, pin: &Pin) -> Result<()> {
        let running = self.http.health.begin_pin(pin.cid);
        // Not only to save work: Kubo drops a pin that it is told to pin again until it has walked the whole DAG, so an
        // interruption would lose it.
        if self.is_pinned(&pin.cid, pin.mode()).await? {
            return Ok(());
        }
        let work = self.update_or_add(pin, &running);
        if pin.options.origins.is_empty() {
            return work.await;
        }
        tokio::select! {
            biased;
            answer = work => answer,
            never = self.connect_origins(&pin.options.origins) => match never {},
        }
    }

    /// Connects the daemon to those who have the content, for as long as it is pinned. Best effort.
    async fn connect_origins(self: &Arc<Self>, origins: &[Multiaddr]) -> Infallible {
        let connects = origins.iter().take(ORIGINS_MAX).map(|origin| async move {
            if let Err(error) = self.swarm_connect(origin).await {
                tracing::debug!(%origin, %error, "cannot connect to an origin");
            }
        });
        futures::future::join_all(connects).await;
        std::future::pending().await
    }

    async fn update_or_add(self: &Arc<Self>, pin: &Pin, running: &RunningPin<'_>) -> Result<()> {
        if let Some(from) = pin.options.pin_update
            && pin.max_depth < 0
            && from != pin.cid
            // Not to know is no reason to fail: an update is only quicker.
            && self.is_pinned(&from, PinMode::Recursive).await.unwrap_or(false)
            && self.update(&from, &pin.cid).await?
        {
            return Ok(());
        }
        self.add(pin, running).await
    }

    /// Pins `to`, looking only at what differs from `from`. False when a plain pin is needed.
    async fn update(self: &Arc<Self>, from: &Cid, to: &Cid) -> Result<bool> {
        let path = format!("pin/update?arg={from}&arg={to}&unpin=false");
        let timeout = self.config.pin_timeout;
        let call = self.confirmed(&path);
        match self.http.within(timeout, "pin_timeout", &path, Judge::Nothing, call).await {
            Ok(()) => Ok(true),
            // It tells no progress, so nobody knows whether it still gets blocks. A plain pin tells, and finds what the
            // update has brought.
            Err(error) if error.kind() == ErrorKind::Timeout => Ok(false),
            Err(error) => match remote_message(&error) {
                Some("'to' cid was already recursively pinned") => Ok(true),
                Some("'from' cid was not recursively pinned already") => Ok(false),
                _ => Err(error),
            },
        }
    }

    /// A request whose answer names the pins that it changed.
    async fn confirmed(self: &Arc<Self>, path: &str) -> Result<()> {
        let body = self.http.post(path, Judge::Nothing, None).await?.bytes(ANSWER_BYTES_MAX).await?;
        match answer::parse::<PinsLine>(path, &body)? {
            PinsLine { pins: Some(_), .. } => Ok(()),
            PinsLine { .. } => Err(answer::corrupt(path, "it names no pin")),
        }
    }

    async fn add(self: &Arc<Self>, pin: &Pin, running: &RunningPin<'_>) -> Result<()> {
        let cid = &pin.cid;
        let depth = match pin.max_depth {
            ..0 => "recursive=true".to_owned(),
            0 => "recursive=false".to_owned(),
            depth => format!("max-depth={depth}&recursive=true"),
        };
        let path = format!("pin/add?arg={cid}&{depth}&progress=true");
        let mut deadline = Instant::now() + self.config.pin_timeout;
        let stalled = || {
            // The daemon may have died without a word.
            self.http.suspect();
            Error::new(
                ErrorKind::Timeout,
                format!(
                    "pinning {cid} made no progress for {}, so it was cancelled (ipfshttp.pin_timeout)",
                    duration::to_text(self.config.pin_timeout)
                ),
            )
            .component(COMPONENT)
        };
        let post = self.http.post(&path, Judge::Nothing, None);
        let mut lines = tokio::time::timeout_at(deadline, post).await.map_err(|_| stalled())??.lines();
        let (mut progress, mut confirmed) = (0, false);
        loop {
            let next = tokio::time::timeout_at(deadline, lines.next()).await.map_err(|_| stalled())??;
            let Some(line) = next else { break };
            let line: PinsLine = lines.parse(&line)?;
            if let Some(message) = line.message {
                return Err(remote_error(&path, 200, message));
            }
            if line.progress > progress {
                progress = line.progress;
                running.has(progress);
                deadline = Instant::now() + self.config.pin_timeout;
            }
            if let Some(pins) = line.pins {
                confirmed = pins.iter().any(|text| parse_cid(text).is_ok_and(|pinned| pinned == *cid));
                if !confirmed {
                    return Err(lines.corrupt("it is about another CID"));
                }
            }
        }
        // Kubo's last line. Without it the daemon gave up, whatever the status said.
        if confirmed { Ok(()) } else { Err(lines.corrupt("it ends before it says that the CID is pinned")) }
    }

    pub(super) async fn unpin(self: &Arc<Self>, cid: &Cid) -> Result<()> {
        if self.config.unpin_disable {
            return Err(support::unpin_disabled().component(COMPONENT));
        }
        self.remove_pin(cid).await
    }

    pub(super) async fn remove_pin(self: &Arc<Self>, cid: &Cid) -> Result<()> {
        let path = format!("pin/rm?arg={cid}");
        let call = self.confirmed(&path);
        match self.http.within(self.config.unpin_timeout, "unpin_timeout", &path, Judge::Nothing, call).await
        {
            Err(error) if remote_message(&error) == Some("not pinned or pinned indirectly") => Ok(()),
            answer => answer,
        }
    }
}
