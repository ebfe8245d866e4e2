//! Streams of what the daemon holds and of what it removes.

use std::sync::Arc;

use async_stream::try_stream;
use futures::stream::{BoxStream, StreamExt as _};
use serde::Deserialize;
use tokio::time::Instant;

use super::Inner;
use super::answer::{Lines, corrupt};
use super::http::Judge;
use super::pin::PinLine;
use crate::error::Result;
use crate::ipfs_connector::IpfsPin;
use crate::types::{PinMode, RepoGcKey, parse_cid};

/// Pins of one page.
const PAGE_PINS: usize = 1_024;

/// A line of `repo/gc`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct GcLine {
    #[serde(default)]
    key: Option<GcKey>,
    #[serde(default)]
    error: String,
}

#[derive(Deserialize)]
struct GcKey {
    #[serde(rename = "/")]
    cid: String,
}

impl Inner {
    /// Pins of one mode. There is no limit for the whole, a daemon may hold a hundred million, but one for silence.
    pub(super) fn list_pins(self: &Arc<Self>, mode: PinMode) -> BoxStream<'static, Result<Vec<IpfsPin>>> {
        let inner = Arc::clone(self);
        try_stream! {
            let path = format!("pin/ls?stream=true&type={mode}");
            let post = async { Ok(inner.http.post(&path, Judge::Nothing, None).await?.lines()) };
            let mut lines = inner.within_request(&path, Judge::Nothing, post).await?;
            let mut page = Vec::with_capacity(PAGE_PINS);
            loop {
                while let Some(line) = lines.buffered()? {
                    page.push(read_pin(&lines, &line, mode)?);
                    if page.len() == PAGE_PINS {
                        yield std::mem::replace(&mut page, Vec::with_capacity(PAGE_PINS));
                    }
                }
                if !inner.within_request(&path, Judge::Nothing, lines.fill()).await? {
                    break;
                }
            }
            if let Some(line) = lines.last() {
                page.push(read_pin(&lines, &line, mode)?);
            }
            if !page.is_empty() {
                yield page;
            }
        }
        .boxed()
    }

    /// What garbage collection removed, as the daemon tells it.
    pub(super) fn repo_gc(self: &Arc<Self>) -> BoxStream<'static, Result<RepoGcKey>> {
        let inner = Arc::clone(self);
        try_stream! {
            let path = "repo/gc?stream-errors=true";
            let timeout = inner.config.repogc_timeout;
            let deadline = Instant::now() + timeout;
            let post = async { Ok(inner.http.post(path, Judge::Nothing, None).await?.lines()) };
            let mut lines = inner.http.within(timeout, "repogc_timeout", path, Judge::Nothing, post).await?;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let next = inner.http.within(left, "repogc_timeout", path, Judge::Nothing, lines.next());
                let Some(line) = next.await? else { break };
                let line: GcLine = lines.parse(&line)?;
                let key = match line.key {
                    Some(key) => Some(parse_cid(&key.cid).map_err(|error| corrupt(path, error.message()))?),
                    None if line.error.is_empty() => Err(corrupt(path, "a line names neither block nor error"))?,
                    None => None,
                };
                yield RepoGcKey { key, error: line.error };
            }
        }
        .boxed()
    }
}

fn read_pin(lines: &Lines, line: &[u8], mode: PinMode) -> Result<IpfsPin> {
    let pin: PinLine<'_> = lines.parse(line)?;
    if pin.kind != mode.as_str() {
        return Err(lines.corrupt(&format!("a pin of type {:?} in a listing of {mode} pins", pin.kind)));
    }
    let cid = parse_cid(&pin.cid).map_err(|error| lines.corrupt(error.message()))?;
    Ok(IpfsPin { cid, mode })
}
