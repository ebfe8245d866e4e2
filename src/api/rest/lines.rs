//! Listings as lines of JSON, a page at a time.
//!
//! Each page is encoded as a whole into one buffer, large ones on the blocking pool, so that the next page is read and
//! the last one is sent meanwhile. Nothing runs ahead of the reader by more than [`PAGES_AHEAD`] pages.

use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::Either;
use futures::stream::{BoxStream, Stream, StreamExt as _};
use hyper::header::HeaderName;

use super::access_log::Record;
use crate::api::json::Line;
use crate::error::{Error, Result};

/// Pages that are encoded at the same time, in order.
const PAGES_AHEAD: usize = 2;
/// Pages of at most so many items are encoded where they come, because handing them over would cost more.
const INLINE_ITEMS_MAX: usize = 32;
/// Small pages that are ready are sent as one, up to so many bytes.
const JOINED_BYTES: usize = 64 * 1024;
/// Errors that a listing tells about, before it ends.
const ERRORS_MAX: usize = 16;

/// The trailer that tells what went wrong after the first line of a listing; empty when nothing did.
pub(super) const STREAM_ERROR: HeaderName = HeaderName::from_static("x-stream-error");

/// How a listing ends, and what happens meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Nothing else happens; other requests may follow.
    Plain,
    /// It goes on for as long as the caller wants to listen, and the connection with it.
    Endless,
    /// The body of the request is read meanwhile, and the connection is closed at the end. Then there is no trailer when
    /// nothing went wrong.
    #[cfg_attr(not(feature = "add"), allow(dead_code))]
    Upload,
}

/// The lines of a listing, from the first on.
pub(super) struct Lines {
    pages: BoxStream<'static, Result<Vec<u8>>>,
    /// Taken from `pages` but not yet given.
    first: Option<Vec<u8>>,
    /// What `pages` gave after that.
    error: Option<Error>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").finish_non_exhaustive()
    }
}

/// How a listing begins.
#[derive(Debug)]
pub(super) enum Beginning {
    /// With lines.
    Lines(Lines),
    /// With its end.
    Empty,
    /// With an error.
    Failed(Error),
}

impl Lines {
    /// Lines of a stream of pages.
    pub(super) fn of<T: Line>(pages: BoxStream<'static, Result<Vec<T>>>) -> Self {
        Self { pages: pages.map(encode).buffered(PAGES_AHEAD).boxed(), first: None, error: None }
    }

    /// Lines of one page, encoded already.
    pub(super) fn of_page(page: Vec<u8>) -> Self {
        Self { pages: futures::stream::empty().boxed(), first: Some(page), error: None }
    }

    /// Lines that are encoded already, and an error that ends them.
    pub(super) fn of_fallible(pages: BoxStream<'static, Result<Vec<u8>>>) -> Self {
        // It may be asked once more behind its end, when lines were joined.
        Self { pages: pages.fuse().boxed(), first: None, error: None }
    }

    /// Lines that are encoded already, and may never end.
    pub(super) fn of_encoded(pages: BoxStream<'static, Vec<u8>>) -> Self {
        Self { pages: pages.map(Ok).boxed(), first: None, error: None }
    }

    /// Waits for the first lines, which decide the status of the answer.
    pub(super) async fn begin(mut self) -> Beginning {
        loop {
            match self.next().await {
                None => return Beginning::Empty,
                Some(Err(error)) => return Beginning::Failed(error),
                Some(Ok(page)) if page.is_empty() => {}
                Some(Ok(page)) => {
                    self.first = Some(page);
                    return Beginning::Lines(self);
                }
            }
        }
    }
}

impl Lines {
    fn poll_pages(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>>>> {
        // What makes the items is code of others; its panic must become an error, not a listing that just ends.
        catch_unwind(AssertUnwindSafe(|| self.pages.as_mut().poll_next(cx))).unwrap_or_else(|_| {
            self.pages = futures::stream::empty().boxed();
            Poll::Ready(Some(Err(panicked())))
        })
    }
}

impl Stream for Lines {
    type Item = Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut joined = self.first.take().unwrap_or_default();
        if let Some(error) = self.error.take_if(|_| joined.is_empty()) {
            return Poll::Ready(Some(Err(error)));
        }
        while self.error.is_none() && joined.len() < JOINED_BYTES {
            match self.poll_pages(cx) {
                Poll::Ready(Some(Ok(page))) if joined.is_empty() => joined = page,
                Poll::Ready(Some(Ok(page))) => joined.extend_from_slice(&page),
                Poll::Ready(end) if joined.is_empty() => return Poll::Ready(end),
                Poll::Ready(None) => break,
                Poll::Ready(Some(Err(error))) => {
                    self.error = Some(error);
                }
                Poll::Pending if joined.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Some(Ok(joined)))
    }
}

fn panicked() -> Error {
    Error::internal("the listing broke off because of a bug; the log has the details").component("restapi")
}

/// Encodes a page, and starts doing so at once.
fn encode<T: Line>(page: Result<Vec<T>>) -> impl Future<Output = Result<Vec<u8>>> + Send {
    match page {
        Err(error) => Either::Left(std::future::ready(Err(error))),
        Ok(items) if items.len() <= INLINE_ITEMS_MAX => {
            let encoded = catch_unwind(AssertUnwindSafe(|| encoded(&items)));
            Either::Left(std::future::ready(encoded.map_err(|_| panicked())))
        }
        Ok(items) => {
            let task = tokio::task::spawn_blocking(move || encoded(&items));
            Either::Right(async move { task.await.map_err(|_| panicked()) })
        }
    }
}

fn encoded<T: Line>(items: &[T]) -> Vec<u8> {
    let mut out = Vec::with_capacity(items.len() * T::BYTES);
    for item in items {
        item.write(&mut out);
        out.push(b'\n');
    }
    out
}

/// What went wrong after the first line, for the trailer.
#[derive(Debug, Default)]
pub(super) struct Failures(Vec<String>);

impl Failures {
    /// Keeps an error; false when there are too many to go on.
    pub(super) fn push(&mut self, error: &Error) -> bool {
        // A header value has no line breaks.
        self.0.push(error.message().replace(|c: char| c.is_control(), " "));
        self.0.len() < ERRORS_MAX
    }

    /// The values of `X-Stream-Error`: one for each error, and an empty one for none, where none is told.
    pub(super) fn values(&self, flow: Flow) -> impl Iterator<Item = &str> {
        let none = (self.0.is_empty() && flow != Flow::Upload).then_some("");
        self.0.iter().map(String::as_str).chain(none)
    }
}

/// A listing as the body of an answer that some other server than ours sends.
///
/// hyper sends trailers only to who asks for them with `TE: trailers`. For everybody else an error breaks the transfer
/// off, so that a listing with a hole never looks whole.
pub(super) struct LinesBody {
    lines: Option<Lines>,
    failures: Failures,
    trailers_wanted: bool,
    flow: Flow,
    /// Written when the body is dropped.
    record: Option<Record>,
}

impl LinesBody {
    pub(super) fn new(lines: Lines, trailers_wanted: bool, flow: Flow, record: Option<Record>) -> Self {
        Self { lines: Some(lines), failures: Failures::default(), trailers_wanted, flow, record }
    }
}

impl hyper::body::Body for LinesBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<hyper::body::Frame<Bytes>, Error>>> {
        use hyper::body::Frame;
        loop {
            let Some(lines) = &mut self.lines else { return Poll::Ready(None) };
            match std::task::ready!(Pin::new(lines).poll_next(cx)) {
                Some(Ok(page)) => {
                    if let Some(record) = &mut self.record {
                        record.sent(page.len());
                    }
                    return Poll::Ready(Some(Ok(Frame::data(page.into()))));
                }
                Some(Err(error)) if !self.trailers_wanted => {
                    self.lines = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Some(Err(error)) if self.failures.push(&error) => continue,
                Some(Err(_)) | None => {}
            }
            self.lines = None;
            let mut trailers = hyper::HeaderMap::new();
            for value in self.failures.values(self.flow) {
                if let Ok(value) = hyper::header::HeaderValue::from_bytes(value.as_bytes()) {
                    trailers.append(STREAM_ERROR, value);
                }
            }
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A number is a line; 13 has a bug.
    #[derive(Clone, Copy)]
    struct Number(u32);

    impl Line for Number {
        const BYTES: usize = 8;
        fn write(&self, out: &mut Vec<u8>) {
            assert_ne!(self.0, 13, "unlucky");
            out.extend_from_slice(self.0.to_string().as_bytes());
        }
    }

    fn lines(pages: Vec<Result<Vec<u32>>>) -> Lines {
        let pages = pages.into_iter().map(|page| page.map(|page| page.into_iter().map(Number).collect()));
        Lines::of::<Number>(futures::stream::iter(pages.collect::<Vec<_>>()).boxed())
    }

    async fn all(mut lines: Lines) -> (String, Failures) {
        let (mut text, mut failures) = (Vec::new(), Failures::default());
        while let Some(page) = lines.next().await {
            match page {
                Ok(page) => text.extend_from_slice(&page),
                Err(error) => {
                    failures.push(&error);
                }
            }
        }
        (String::from_utf8(text).unwrap(), failures)
    }

    #[tokio::test]
    async fn large_and_small_pages_come_in_order() {
        let numbers: Vec<u32> = (100..5_000).collect();
        let mut pages: Vec<Result<Vec<u32>>> = Vec::new();
        let mut rest = numbers.as_slice();
        for size in [1, 1024, 0, 7, 1024, 32, 33, 1024, 1024].into_iter().cycle() {
            let (page, after) = rest.split_at(size.min(rest.len()));
            pages.push(Ok(page.to_vec()));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let (text, failures) = all(lines(pages)).await;
        let expected: String = numbers.iter().map(|number| format!("{number}\n")).collect();
        assert_eq!(text, expected);
        assert_eq!(failures.values(Flow::Plain).collect::<Vec<_>>(), [""]);
    }

    #[tokio::test]
    async fn how_a_listing_begins_decides_its_status() {
        let failed = || Err(Error::internal("no"));
        assert!(matches!(lines(vec![]).begin().await, Beginning::Empty));
        assert!(matches!(lines(vec![Ok(vec![]), Ok(vec![])]).begin().await, Beginning::Empty));
        assert!(matches!(lines(vec![failed(), Ok(vec![1])]).begin().await, Beginning::Failed(_)));
        let Beginning::Lines(begun) = lines(vec![Ok(vec![]), Ok(vec![1]), failed()]).begin().await else {
            panic!("it begins with a line");
        };
        let (text, failures) = all(begun).await;
        assert_eq!((text.as_str(), failures.values(Flow::Plain).collect::<Vec<_>>()), ("1\n", vec!["no"]));
    }

    #[tokio::test]
    async fn a_bug_in_an_item_or_in_the_source_is_an_error_of_the_listing() {
        for page in [vec![1, 13], (0..100).collect()] {
            let items = page.clone();
            let source =
                futures::stream::iter([Ok(vec![Number(7)]), Ok(items.into_iter().map(Number).collect())]);
            let (text, failures) = all(Lines::of::<Number>(source.boxed())).await;
            assert_eq!(text, "7\n", "{page:?}");
            assert!(failures.values(Flow::Plain).next().unwrap().contains("bug"));
        }
    }

    #[test]
    fn an_error_with_line_breaks_cannot_forge_a_trailer() {
        let mut failures = Failures::default();
        assert!(failures.push(&Error::internal("a\r\nX-Evil: 1")));
        assert_eq!(failures.values(Flow::Plain).collect::<Vec<_>>(), ["a  X-Evil: 1"]);
    }

    #[test]
    fn a_listing_gives_up_after_many_errors() {
        let mut failures = Failures::default();
        let pushed = (0..ERRORS_MAX).map(|_| failures.push(&Error::internal("no"))).collect::<Vec<_>>();
        assert_eq!(pushed.iter().filter(|go_on| !**go_on).count(), 1);
        assert_eq!(failures.values(Flow::Plain).count(), ERRORS_MAX);
    }
}
