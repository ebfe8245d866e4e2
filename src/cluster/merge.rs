//! Many peers' answers, each in order of the binary CID, made into one list without holding any of them.

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::debug;

use futures::StreamExt as _;
use futures::stream::BoxStream;

use crate::error::{Error, ErrorKind, Result};
use crate::tracker::key::CidKey;
use crate::types::{GlobalPinInfo, PeerId, PinInfo, PinStatus};

/// Lines in one page of the answer. A line of three peers takes 4 KiB until it is written, and half a dozen pages are on
/// their way from here to the caller.
const PAGE_LINES_MAX: usize = 256;
/// Pages of one member that wait to be merged.
const PAGES_AHEAD_MAX: usize = 2;

/// One member, and what it answers.
pub(super) struct Member {
    pub(super) peer: PeerId,
    /// In strictly ascending order of the binary CID. An error is the last item.
    pub(super) pages: BoxStream<'static, Result<Vec<PinInfo>>>,
}

/// Merges what the members say into one line for each CID, in order, in pages of at most [`PAGE_LINES_MAX`].
///
/// Every member is read by a task of its own, a few pages ahead. One that fails is an entry with its error on the
/// lines that follow, made by `failed_status`; one that may not be asked (`Unauthorized`) is left out. When all fail
/// before there is a line, the first error is the answer. Dropping the stream ends the tasks.
pub(super) fn merge(
    mut members: Vec<Member>,
    failed_status: impl Fn(&PeerId, &Error) -> PinStatus + Send + 'static,
) -> BoxStream<'static, Result<Vec<GlobalPinInfo>>> {
    // One order, whoever comes first: of equal CIDs the last member's header is shown.
    members.sort_by_key(|member| member.peer);
    let stream = async_stream::stream! {
        let mut readers = JoinSet::new();
        let mut merger = Merger { cursors: Vec::new(), failed: Vec::new(), first_error: None, any_ended: false };
        for Member { peer, pages } in members {
            let (sender, receiver) = mpsc::channel(PAGES_AHEAD_MAX);
            readers.spawn(read(pages, sender));
            merger.cursors.push(Cursor::new(peer, receiver));
        }
        let mut lines = Vec::new();
        let mut any_line = false;
        loop {
            while let Some(starved) = merger.starved() {
                let Some(cursor) = merger.cursors.get_mut(starved) else { break };
                let read = match cursor.receiver.try_recv() {
                    Ok(read) => read,
                    Err(_) => {
                        // Somebody has to be waited for: what is known is not held back.
                        if !lines.is_empty() {
                            any_line = true;
                            yield Ok(std::mem::take(&mut lines));
                        }
                        cursor.receiver.recv().await.unwrap_or_else(Read::broke_off)
                    }
                };
                merger.take(starved, read, &failed_status);
            }
            let Some(line) = merger.next_line() else { break };
            if lines.capacity() == 0 {
                lines.reserve_exact(PAGE_LINES_MAX);
            }
            lines.push(line);
            if lines.len() >= PAGE_LINES_MAX {
                any_line = true;
                yield Ok(std::mem::take(&mut lines));
            }
        }
        if !lines.is_empty() {
            yield Ok(lines);
        } else if !any_line && !merger.any_ended && let Some(error) = merger.first_error {
            yield Err(error);
        }
    };
    ahead(stream.boxed())
}

/// The same pages, made by a task of its own, so that merging and writing an answer each have a core.
fn ahead<T: Send + 'static>(mut pages: BoxStream<'static, Result<T>>) -> BoxStream<'static, Result<T>> {
    let stream = async_stream::stream! {
        let (sender, mut receiver) = mpsc::channel(PAGES_AHEAD_MAX);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(page) = pages.next().await {
                if sender.send(page).await.is_err() {
                    return;
                }
            }
        });
        while let Some(page) = receiver.recv().await {
            yield page;
        }
        // A list that broke off must not look like one that ended.
        if let Some(Err(source)) = tasks.join_next().await {
            let error = Error::internal("merging the lists of all peers broke off").component("cluster");
            yield Err(error.with_source(source));
        }
    };
    stream.boxed()
}

/// What a reader tells the merger; after all but a page it says no more.
enum Read {
    Page(Vec<PinInfo>),
    Failed(Error),
    End,
}

impl Read {
    fn broke_off() -> Self {
        Self::Failed(Error::internal("reading its answer broke off").component("cluster"))
    }
}

async fn read(mut pages: BoxStream<'static, Result<Vec<PinInfo>>>, sender: mpsc::Sender<Read>) {
    loop {
        let (read, is_last) = match pages.next().await {
            Some(Ok(page)) => (Read::Page(page), false),
            Some(Err(error)) => (Read::Failed(error), true),
            None => (Read::End, true),
        };
        if sender.send(read).await.is_err() || is_last {
            return;
        }
    }
}

/// Where the merger stands in one member's answer.
struct Cursor {
    peer: PeerId,
    receiver: mpsc::Receiver<Read>,
    page: std::vec::IntoIter<PinInfo>,
    head: Option<(CidKey, PinInfo)>,
    last: Option<CidKey>,
}

impl Cursor {
    fn new(peer: PeerId, receiver: mpsc::Receiver<Read>) -> Self {
        Self { peer, receiver, page: Vec::new().into_iter(), head: None, last: None }
    }

    /// Whether there is a head, of the page in hand if it was taken.
    fn has_head(&mut self) -> Result<bool> {
        if self.head.is_none()
            && let Some(mut info) = self.page.next()
        {
            let key = CidKey::from(&info.cid);
            if self.last.as_ref().is_some_and(|last| *last >= key) {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} does not list its pins in order: {} came late", self.peer, info.cid),
                )
                .component("cluster"));
            }
            // Nobody speaks for others.
            info.peer = self.peer;
            self.head = Some((key, info));
        }
        Ok(self.head.is_some())
    }
}

struct Merger {
    /// Of the members that have more to say.
    cursors: Vec<Cursor>,
    /// What is shown of those that failed.
    failed: Vec<(PeerId, PinStatus)>,
    first_error: Option<Error>,
    /// Whether anybody said everything.
    any_ended: bool,
}

impl Merger {
    /// The first member of whom the next item is not known.
    fn starved(&mut self) -> Option<usize> {
        self.cursors.iter_mut().position(|cursor| match cursor.has_head() {
            Ok(has_head) => !has_head,
            Err(error) => {
                // It is told as if the member had: the page in hand and all that follow are worth nothing.
                cursor.page = Vec::new().into_iter();
                let (sender, receiver) = mpsc::channel(1);
                // A channel made just now has room.
                let _ = sender.try_send(Read::Failed(error));
                cursor.receiver = receiver;
                true
            }
        })
    }

    fn take(&mut self, number: usize, read: Read, failed_status: impl Fn(&PeerId, &Error) -> PinStatus) {
        match read {
            Read::Page(page) => self.cursors[number].page = page.into_iter(),
            Read::End => {
                self.any_ended = true;
                self.cursors.remove(number);
            }
            Read::Failed(error) => {
                let peer = self.cursors.remove(number).peer;
                if error.kind() == ErrorKind::Unauthorized {
                    debug!(%peer, %error, "left out: it does not answer to us");
                    return;
                }
                // The answer says so; a listing every second would fill the log.
                debug!(%peer, %error, "could not be asked for its pins");
                self.failed.push((peer, failed_status(&peer, &error)));
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn next_line(&mut self) -> Option<GlobalPinInfo> {
        let heads = self.cursors.iter().filter_map(|cursor| cursor.head.as_ref());
        let least = heads.map(|(key, _)| key).min()?.clone();
        let mut line: Option<GlobalPinInfo> = None;
        for cursor in &mut self.cursors {
            if let Some((key, info)) = cursor.head.take_if(|(key, _)| *key == least) {
                cursor.last = Some(key);
                match &mut line {
                    None => line = Some(info.into()),
                    Some(line) => line.add(info),
                }
            }
        }
        let mut line = line?;
        line.peer_map.extend(self.failed.iter().cloned());
        Some(line)
    }
}

#[cfg(test)]
mod tests;
