use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::types::Added;

/// Who wants to hear of lines. What is sent waits for room; that nobody listens is no error.
#[derive(Clone, Debug)]
pub struct Lines {
    listener: mpsc::Sender<Added>,
    /// Lines that tell what became of something, and lines about progress: the order among both is not always the same.
    told: Arc<Mutex<[Told; 2]>>,
}

/// What was told, so that it is not told again.
#[derive(Debug, Default)]
struct Told {
    count: u64,
    /// Of all of them, in their order.
    sum: u64,
    /// How far the same lines have come this time, and their sum by now.
    again: u64,
    again_sum: u64,
}

impl Told {
    /// Notes a line, and says whether it is a new one.
    fn note(&mut self, line: &Added) -> bool {
        let mut hasher = DefaultHasher::new();
        // Who gets the blocks may be different this time.
        (self.again_sum, &line.name, line.cid.map(|cid| cid.to_bytes()), line.bytes, line.size)
            .hash(&mut hasher);
        self.again_sum = hasher.finish();
        self.again += 1;
        if self.again <= self.count {
            return false;
        }
        (self.count, self.sum) = (self.again, self.again_sum);
        true
    }

    fn begin_again(&mut self) {
        (self.again, self.again_sum) = (0, 0);
    }

    /// Whether what came again is what came before.
    fn is_same(&self) -> bool {
        (self.again, self.again_sum) == (self.count, self.sum)
    }
}

impl Lines {
    /// Lines, and where they arrive; `room` of them wait at most.
    pub fn new(room: usize) -> (Self, mpsc::Receiver<Added>) {
        let (listener, receive) = mpsc::channel(room.max(1));
        (Self { listener, told: Arc::default() }, receive)
    }

    /// Tells a line.
    pub async fn tell(&self, line: Added) {
        let is_new = self.told()[usize::from(line.cid.is_none())].note(&line);
        if is_new {
            // Whoever asked may have left; the add ends when its future is dropped, not here.
            let _ = self.listener.send(line).await;
        }
    }

    /// The same lines come once more, from the first one: those that were told are not told again.
    pub(crate) fn begin_again(&self) {
        self.told().iter_mut().for_each(Told::begin_again);
    }

    /// Whether the lines that came again were those that had been told. To be asked at the end.
    pub(crate) fn is_same(&self) -> bool {
        self.told().iter().all(Told::is_same)
    }

    fn told(&self) -> MutexGuard<'_, [Told; 2]> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Block;

    fn line(name: &str, data: &'static str) -> Added {
        Added { name: name.to_owned(), cid: Some(Block::raw(data).cid), ..Added::default() }
    }

    fn progress(bytes: u64) -> Added {
        Added { bytes, ..Added::default() }
    }

    #[tokio::test]
    async fn what_was_told_is_not_told_again_in_whichever_order_the_two_kinds_come() {
        let (lines, mut told) = Lines::new(16);
        for line in [progress(1), line("a", "a"), progress(2), line("b", "b")] {
            lines.tell(line).await;
        }
        lines.begin_again();
        for line in [line("a", "a"), line("b", "b"), progress(1), progress(2), progress(3), line("c", "c")] {
            lines.tell(line).await;
        }
        assert!(lines.is_same());
        lines.begin_again();
        lines.tell(line("a", "a")).await;
        assert!(!lines.is_same(), "not all has come again");
        drop(lines);
        let mut all = Vec::new();
        while let Some(line) = told.recv().await {
            all.push(line);
        }
        let first = [progress(1), line("a", "a"), progress(2), line("b", "b")];
        assert_eq!(all, [&first[..], &[progress(3), line("c", "c")]].concat());
    }

    #[tokio::test]
    async fn content_that_changed_meanwhile_is_noticed() {
        let (lines, _told) = Lines::new(16);
        lines.tell(line("a", "a")).await;
        lines.begin_again();
        lines.tell(line("a", "changed")).await;
        assert!(!lines.is_same());
    }
}
