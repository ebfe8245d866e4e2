//! Watching, and going on after an interruption.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, timeout};

use super::Request;
use super::transport::Transport;
use crate::error::{Error, ErrorKind, Result};
use crate::types::{Cid, EventCursor, EventKinds};

/// Silence after which the connection counts as broken: a heartbeat comes every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// First and longest pause before the next try.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How long nobody may answer.
const PATIENCE: Duration = Duration::from_secs(600);

/// What to watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// The cursor of an event behind which to begin; with none, what happens from now on.
    pub after: Option<EventCursor>,
    /// Which events; with none, all, or with CIDs all that are about one.
    pub kinds: Option<EventKinds>,
    /// Of events about a CID only those about one of these; all when there are none. They all have to fit into the
    /// head of a request.
    pub cids: Vec<Cid>,
}

/// What is read of every event.
#[derive(Deserialize)]
struct Envelope<'a> {
    cursor: EventCursor,
    #[serde(rename = "type", borrow)]
    name: std::borrow::Cow<'a, str>,
}

/// The events, as long as somebody reads them.
pub(super) fn stream<T: DeserializeOwned + Send + 'static>(
    transport: Arc<Transport>,
    mut watch: Watch,
) -> BoxStream<'static, Result<T>> {
    let events = async_stream::try_stream! {
        let mut has_begun = false;
        let (mut pause, mut silent_since) = (PAUSES.0, None);
        loop {
            let mut items = match answer(&transport, &watch).await {
                Ok(items) => items,
                Err(error) => futures::stream::once(async { Err(error) }).boxed(),
            };
            let broken = loop {
                let line = match timeout(SILENCE_MAX, items.next()).await {
                    Ok(Some(Ok(line))) => line,
                    Ok(Some(Err(error))) => break error,
                    Ok(None) => break lost("the peer ended the watch"),
                    Err(_) => break lost("the peer fell silent"),
                };
                let Envelope { cursor, name } = read(&line)?;
                if name != "heartbeat" {
                    yield read::<T>(&line)?;
                }
                watch.after = Some(cursor);
                has_begun = true;
                (pause, silent_since) = (PAUSES.0, None);
            };
            let since = *silent_since.get_or_insert_with(Instant::now);
            let is_passing = broken.kind().is_temporary() || broken.kind() == ErrorKind::Timeout;
            if !has_begun || !is_passing || since.elapsed() > PATIENCE {
                Err(broken)?;
            } else {
                tracing::debug!(error = %broken, "the watch was interrupted and goes on");
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    };
    events.boxed()
}

async fn answer(transport: &Transport, watch: &Watch) -> Result<BoxStream<'static, Result<Box<RawValue>>>> {
    Ok(transport.send(&Request::events(watch)).await?.or_refusal().await?.items())
}

fn lost(text: &str) -> Error {
    Error::new(ErrorKind::Unavailable, text).component("client")
}

fn read<'a, T: Deserialize<'a>>(line: &'a RawValue) -> Result<T> {
    serde_json::from_str(line.get()).map_err(|source| {
        let text = format!("an event is not what was expected: {source}");
        Error::new(ErrorKind::Corrupt, text).component("client").with_source(source)
    })
}
