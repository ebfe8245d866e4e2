//! `POST /add`: a form that is read while what became of it is told.
//!
//! The body is never collected: a few chunks are read [ahead](apart) of what is used. Lines are sent as they come, while the upload
//! goes on. Whoever stops reading lines stops the upload, once [`outlet::BYTES_MAX`](super::outlet::BYTES_MAX) wait for
//! him; whoever goes away ends the add.

mod apart;

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use hyper::body::Body;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::apart::Apart;
use super::answer::{self, Answer, Listing};
use super::lines::Lines;
use super::query::Query;
use crate::adder::AddEvent;
use crate::adder::multipart::{self, Keep, Multipart};
use crate::api::error::ApiError;
use crate::cluster::{ADDS_MAX, Cluster, reference_options};
use crate::error::{Error, ErrorKind, Result};
use crate::types::{AddFormat, AddLayout, AddOptions, Resume, ResumeKey, Timestamp};

/// Most bytes of lines that are kept for a caller who wants them all at once.
const COLLECTED_BYTES_MAX: usize = 64 << 20;

/// Who adds content: the cluster, or a test.
pub(super) trait Adds: fmt::Debug + Send + Sync + 'static {
    /// Whether an add would be refused because of what its options say of going on where another one broke off, or of adding
    /// by reference.
    fn check(&self, options: &AddOptions) -> Result<()>;

    /// As `Cluster::add`. Dropping the stream ends the add.
    fn add(&self, content: Multipart, options: AddOptions) -> BoxStream<'static, Result<AddEvent>>;
}

impl Adds for Cluster {
    fn check(&self, options: &AddOptions) -> Result<()> {
        if options.no_copy {
            reference_options(options)?;
        }
        self.check_resume(options)
    }

    fn add(&self, content: Multipart, options: AddOptions) -> BoxStream<'static, Result<AddEvent>> {
        Cluster::add(self, content, options)
    }
}

/// Adding, and how many do.
#[derive(Clone, Debug)]
pub(super) struct Adding {
    adds: Arc<dyn Adds>,
    room: Arc<Semaphore>,
    /// How long a caller may take to send anything more; zero is no limit.
    stall: Duration,
}

impl Adding {
    pub(super) fn new(adds: Arc<dyn Adds>, stall: Duration) -> Self {
        Self { adds, room: Arc::new(Semaphore::new(ADDS_MAX)), stall }
    }

    /// Answers a request to add.
    pub(super) async fn answer<B>(
        &self,
        query: &Query<'_>,
        headers: &HeaderMap,
        body: B,
        now: impl FnOnce() -> Timestamp,
    ) -> Result<Answer, ApiError>
    where
        B: Body + Send + Unpin + 'static,
        B::Data: Send,
    {
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let boundary =
            multipart::boundary(content_type).map_err(|error| ApiError::bad_request(error.message()))?;
        let Asked { options, keep, stream } = asked(query, now)?;
        self.adds.check(&options).map_err(not_resumed)?;
        let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() else {
            return Err(ApiError::new(
                503,
                format!("{ADDS_MAX} uploads are on their way already; try again"),
            ));
        };
        let mut body = Upload { body, stall: self.stall, first: None, _permit: permit };
        if headers.contains_key(header::EXPECT) {
            // The caller waits for our word that the body is welcome, which is given when it is asked for. Behind the
            // head of an answer it could not be.
            let first = body.chunk().await;
            body.first = Some(first);
        }
        let chunks = stream::unfold(Some(body), |body| async {
            let mut body = body?;
            match body.chunk().await? {
                Ok(chunk) => Some((Ok(chunk), Some(body))),
                Err(error) => Some((Err(error), None)),
            }
        });
        let pages = Apart::begin(chunks.boxed(), |chunks| {
            self.adds.add(Multipart::new(&boundary, chunks).keep(keep), options)
        });
        if stream {
            return Ok(Answer::Listing(Listing::of_upload(Lines::of_fallible(pages.boxed()))));
        }
        Ok(Answer::Whole(collected(pages).await))
    }
}

/// A body that comes.
struct Upload<B> {
    body: B,
    stall: Duration,
    /// Waited for already.
    first: Option<Option<Result<Bytes>>>,
    _permit: OwnedSemaphorePermit,
}

impl<B> Upload<B>
where
    B: Body + Unpin,
{
    /// What comes next of the body, None at its end.
    async fn chunk(&mut self) -> Option<Result<Bytes>> {
        if let Some(first) = self.first.take() {
            return first;
        }
        let stall = self.stall;
        let next = async {
            loop {
                let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await?;
                match frame.map(hyper::body::Frame::into_data) {
                    Ok(Ok(mut data)) => return Some(Ok(data.copy_to_bytes(data.remaining()))),
                    // Trailers, which mean nothing here.
                    Ok(Err(_)) => {}
                    Err(_) => {
                        let text = "the upload broke off or is not encoded as its headers say";
                        return Some(Err(Error::invalid_input(text).component("restapi")));
                    }
                }
            }
        };
        if stall.is_zero() {
            return next.await;
        }
        tokio::time::timeout(stall, next).await.unwrap_or_else(|_| {
            let text = format!("nothing more of the upload came within {stall:?}");
            Some(Err(Error::new(ErrorKind::Timeout, text).component("restapi")))
        })
    }
}

/// All lines as one array, or the error.
async fn collected(mut pages: impl futures::Stream<Item = Result<Vec<u8>>> + Unpin) -> Response<Bytes> {
    let mut array = vec![b'['];
    let mut response = loop {
        match pages.next().await {
            None => {
                array.extend_from_slice(b"]\n");
                break answer::document(StatusCode::OK, array);
            }
            Some(Ok(page)) if array.len() + page.len() <= COLLECTED_BYTES_MAX => {
                for line in page.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                    if array.len() > 1 {
                        array.push(b',');
                    }
                    array.extend_from_slice(line);
                }
            }
            Some(Ok(_)) => {
                let text =
                    "the answer would be too long to be given as a whole; add with stream-channels=true";
                break answer::error_response(&ApiError::new(500, text));
            }
            Some(Err(error)) => break answer::error_response(&refused(error)),
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// What is wrong with the form is the caller's fault. All else is a 500 here, as in the reference.
fn refused(error: Error) -> ApiError {
    match (error.kind(), error.component_name()) {
        (ErrorKind::InvalidInput, Some(multipart::COMPONENT)) => ApiError::bad_request(error.message()),
        _ => error.into(),
    }
}

/// Why an add cannot go on where another one broke off.
pub(super) fn not_resumed(error: Error) -> ApiError {
    match error.kind() {
        ErrorKind::InvalidInput => ApiError::bad_request(error.message()),
        ErrorKind::Conflict => ApiError::new(409, error.message()),
        _ => error.into(),
    }
}

/// `resume` and `offset`.
fn resume(query: &Query<'_>) -> Result<Option<Resume>, ApiError> {
    let (key, offset) = (query.get("resume")?, query.get("offset")?);
    let offset = match offset {
        "" => 0,
        text => text.parse().map_err(|_| ApiError::bad_request("parameter offset invalid"))?,
    };
    match key {
        "" if offset > 0 => Err(ApiError::bad_request("parameter offset means nothing without resume")),
        "" => Ok(None),
        key => Ok(Some(Resume { key: resume_key(key)?, offset })),
    }
}

/// The name of an add that can go on.
pub(super) fn resume_key(text: &str) -> Result<ResumeKey, ApiError> {
    text.parse().map_err(|error: Error| ApiError::bad_request(error.message()))
}

/// What a query asks for.
#[derive(Debug)]
struct Asked {
    options: AddOptions,
    keep: Keep,
    /// Lines as they come, or one document.
    stream: bool,
}

/// Reads a query in the reference's order, which decides which of several mistakes is told.
fn asked(query: &Query<'_>, now: impl FnOnce() -> Timestamp) -> Result<Asked, ApiError> {
    let defaults = AddOptions::default();
    let mut pin = query.pin_options(now)?;
    // What is added is new.
    pin.pin_update = None;
    let layout = match query.get("layout")? {
        "" | "balanced" => AddLayout::Balanced,
        "trickle" => AddLayout::Trickle,
        _ => return Err(ApiError::bad_request("layout parameter is invalid")),
    };
    let or_default = |text: &str, default: String| if text.is_empty() { default } else { text.to_owned() };
    let chunker = or_default(query.get("chunker")?, defaults.chunker);
    let hash = or_default(query.get("hash")?, defaults.hash);
    let format = match query.get("format")? {
        "" | "unixfs" => AddFormat::UnixFs,
        "car" => AddFormat::Car,
        _ => return Err(ApiError::bad_request("format parameter is invalid")),
    };
    let local = query.go_flag("local")?.unwrap_or(false);
    // These two are the business of who sends files.
    query.go_flag("recursive")?;
    query.go_flag("hidden")?;
    let wrap = query.go_flag("wrap-with-directory")?.unwrap_or(false);
    let shard = query.go_flag("shard")?.unwrap_or(false);
    let progress = query.go_flag("progress")?.unwrap_or(false);
    let cid_version = match query.get("cid-version")? {
        "" => defaults.cid_version,
        text => text.parse().map_err(|_| ApiError::bad_request("parameter cid-version invalid"))?,
    };
    let raw_leaves = query.go_flag("raw-leaves")?;
    let stream = query.go_flag("stream-channels")?.unwrap_or(true);
    let no_copy = query.go_flag("nocopy")?.unwrap_or(false);
    let no_pin = query.go_flag("no-pin")?.unwrap_or(false);
    // These two are ours, as Kubo has them.
    let keep = Keep {
        mode: query.go_flag("preserve-mode")?.unwrap_or(false),
        modified: query.go_flag("preserve-mtime")?.unwrap_or(false),
    };
    let options = AddOptions {
        pin,
        format,
        layout,
        chunker,
        raw_leaves,
        cid_version,
        hash,
        wrap,
        no_copy,
        local,
        no_pin,
        shard,
        progress,
        resume: resume(query)?,
    };
    Ok(Asked { options, keep, stream })
}

#[cfg(test)]
mod tests;
