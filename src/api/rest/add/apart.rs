//! An add on a task of its own: the connection is read and written while blocks are made.
//!
//! ```text
//! caller -> connection's task -> chunks -> task of the add
//! caller <- connection's task <- pages  <- task of the add
//! ```

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt as _};
use futures::{FutureExt as _, Stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::adder::AddEvent;
use crate::api::json::Line as _;
use crate::error::{Error, Result};
use crate::types::Added;

/// Chunks of the body that wait for the add.
const CHUNKS_AHEAD: usize = 4;
/// Pages of lines that wait for the connection.
const PAGES_AHEAD: usize = 4;
/// Most lines of a page.
const PAGE_LINES_MAX: usize = 256;

/// Pages of lines about an add, with their ends. Polling it reads the body on. Dropping it ends the add.
pub(super) struct Apart {
    /// Takes chunks from the body; None when nobody wants any more.
    reading: Option<BoxFuture<'static, ()>>,
    pages: mpsc::Receiver<Result<Vec<u8>>>,
    /// None when its end was seen.
    task: Option<JoinHandle<()>>,
}

impl fmt::Debug for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Apart").field("task", &self.task).finish_non_exhaustive()
    }
}

impl Apart {
    /// Begins to add what comes in a body.
    pub(super) fn begin(
        mut body: BoxStream<'static, Result<Bytes>>,
        add: impl FnOnce(BoxStream<'static, Result<Bytes>>) -> BoxStream<'static, Result<AddEvent>>,
    ) -> Self {
        let (send, mut chunks) = mpsc::channel(CHUNKS_AHEAD);
        let reading = async move {
            while let Some(chunk) = body.next().await {
                if send.send(chunk).await.is_err() {
                    return;
                }
            }
        };
        let events = add(stream::poll_fn(move |cx| chunks.poll_recv(cx)).boxed());
        let (send, pages) = mpsc::channel(PAGES_AHEAD);
        let task = Some(tokio::spawn(tell(events, send)));
        Self { reading: Some(reading.boxed()), pages, task }
    }

    fn poll_pages(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>>>> {
        if let Some(page) = ready!(self.pages.poll_recv(cx)) {
            return Poll::Ready(Some(page));
        }
        let Some(task) = &mut self.task else { return Poll::Ready(None) };
        let ended = ready!(task.poll_unpin(cx));
        self.task = None;
        Poll::Ready(ended.err().map(|source| {
            let text = "the add broke off because of a bug; the log has the details";
            Err(Error::internal(text).component("restapi").with_source(source))
        }))
    }
}

impl Stream for Apart {
    type Item = Result<Vec<u8>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.reading.take_if(|reading| reading.poll_unpin(cx).is_ready());
        let page = ready!(self.poll_pages(cx));
        if !matches!(page, Some(Ok(_))) {
            self.reading = None;
        }
        Poll::Ready(page)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Makes lines of events, those that are there at a time together, until the first error.
async fn tell(events: BoxStream<'static, Result<AddEvent>>, pages: mpsc::Sender<Result<Vec<u8>>>) {
    let mut portions = events.ready_chunks(PAGE_LINES_MAX);
    while let Some(portion) = portions.next().await {
        let mut page = Vec::with_capacity(portion.len() * Added::BYTES);
        let mut failure = None;
        for event in portion {
            match event {
                Ok(AddEvent::Line(line)) => {
                    line.write(&mut page);
                    page.push(b'\n');
                }
                Ok(AddEvent::Pinned(_)) => {}
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        if !page.is_empty() && pages.send(Ok(page)).await.is_err() {
            return;
        }
        if let Some(error) = failure {
            // If nobody is there, nobody need know.
            let _ = pages.send(Err(error)).await;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn line(name: String) -> Result<AddEvent> {
        Ok(AddEvent::Line(Added { name, ..Added::default() }))
    }

    async fn all(mut apart: Apart) -> (String, Option<Error>) {
        let mut text = Vec::new();
        loop {
            match apart.next().await {
                Some(Ok(page)) => text.extend(page),
                Some(Err(error)) => return (String::from_utf8(text).unwrap(), Some(error)),
                None => return (String::from_utf8(text).unwrap(), None),
            }
        }
    }

    #[tokio::test]
    async fn everything_arrives_in_its_order_and_an_error_behind_what_came_before() {
        let body = || stream::iter(0..1_000).map(|number| Ok(Bytes::from(number.to_string()))).boxed();
        let echo = |chunks: BoxStream<'static, Result<Bytes>>| {
            chunks.map(|chunk| line(String::from_utf8(chunk?.to_vec()).unwrap())).boxed()
        };
        let (text, error) = all(Apart::begin(body(), echo)).await;
        let wanted: String =
            (0..1_000).map(|number| format!("{{\"name\":\"{number}\",\"cid\":null}}\n")).collect();
        assert!(text == wanted && error.is_none(), "{error:?}");
        let broken = body().take(3).chain(stream::iter([Err(Error::internal("broken"))])).boxed();
        let (text, error) = all(Apart::begin(broken, echo)).await;
        assert_eq!((text.lines().count(), error.unwrap().message()), (3, "broken"));
    }

    #[tokio::test]
    async fn a_bug_in_an_add_is_an_error_behind_its_lines() {
        let add = |_: BoxStream<'static, Result<Bytes>>| {
            let panics = stream::once(async { panic!("a bug") });
            stream::iter([line("first".to_owned())])
                .chain(stream::once(async {
                    tokio::task::yield_now().await;
                    line("second".to_owned())
                }))
                .chain(panics)
                .boxed()
        };
        let (text, error) = all(Apart::begin(stream::empty().boxed(), add)).await;
        assert!(text.starts_with("{\"name\":\"first\""), "{text}");
        assert!(error.unwrap().message().contains("bug"));
    }

    #[tokio::test]
    async fn no_more_is_read_than_may_wait_and_nothing_once_it_is_dropped() {
        let (read, running) = (Arc::new(AtomicUsize::new(0)), Arc::new(()));
        let counted = Arc::clone(&read);
        let body = stream::repeat_with(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(Bytes::from_static(b"chunk"))
        });
        let held = Arc::clone(&running);
        // Takes nothing.
        let mut apart = Apart::begin(body.boxed(), |chunks| {
            stream::once(async move {
                let _held = (chunks, held);
                std::future::pending().await
            })
            .boxed()
        });
        for _ in 0..100 {
            assert!(apart.next().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        assert_eq!(read.load(Ordering::SeqCst), CHUNKS_AHEAD + 1);
        assert_eq!(Arc::strong_count(&running), 2);
        drop(apart);
        while Arc::strong_count(&running) > 1 {
            tokio::task::yield_now().await;
        }
    }
}
