//! What is kept of the log of what nobody needs any more: so many entries, and no more than so many bytes, since an entry
//! may have a hundred of them or some millions.
//!
//! openraft would count entries alone. Its own removal is switched off; what it does here is to say what a snapshot has, and
//! to wait until an entry that goes is not being sent.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::LogIdOptionExt as _;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{debug, info};

use super::node::Inner;

/// About how many bytes of entries are counted together, and the least that may be kept.
pub(super) const PIECE_BYTES: u64 = 64 * 1024;
/// What goes when there are too many bytes: this part of the most.
const STEP: u64 = 8;
/// Entries that go together at least, where so many are kept: one by one would be one sync each.
const TOGETHER_MAX: u64 = 256;
/// How long openraft may take to hear of a snapshot that was built.
const HEARD_TIMEOUT: Duration = Duration::from_secs(5);

/// How many bytes the entries of a log have, piece by piece.
#[derive(Debug, Default)]
pub(super) struct Weights {
    pieces: VecDeque<Piece>,
    total: u64,
}

/// Entries that follow each other.
#[derive(Clone, Copy, Debug)]
struct Piece {
    first: u64,
    last: u64,
    bytes: u64,
}

impl Weights {
    /// A new last entry; whether it begins a piece.
    pub(super) fn add(&mut self, index: u64, bytes: u64) -> bool {
        self.total += bytes;
        match self.pieces.back_mut().filter(|piece| piece.bytes < PIECE_BYTES) {
            Some(piece) => {
                (piece.last, piece.bytes) = (index, piece.bytes + bytes);
                false
            }
            None => {
                self.pieces.push_back(Piece { first: index, last: index, bytes });
                true
            }
        }
    }

    /// The entries from this one on are gone. What is left of a piece still counts as all of it.
    pub(super) fn cut(&mut self, from: u64) {
        while let Some(piece) = self.pieces.pop_back_if(|piece| piece.first >= from) {
            self.total -= piece.bytes;
        }
        if let Some(piece) = self.pieces.back_mut() {
            piece.last = piece.last.min(from.saturating_sub(1));
        }
    }

    /// The entries up to this one are gone. What is left of a piece still counts as all of it.
    pub(super) fn drop_until(&mut self, upto: u64) {
        while let Some(piece) = self.pieces.pop_front_if(|piece| piece.last <= upto) {
            self.total -= piece.bytes;
        }
        if let Some(piece) = self.pieces.front_mut() {
            piece.first = piece.first.max(upto.saturating_add(1));
        }
    }

    /// The first entry that stays, when there are more bytes than this and some of them go. The newest piece always stays.
    pub(super) fn surplus(&self, max: u64) -> Option<u64> {
        if self.total <= max {
            return None;
        }
        let (mut left, mut first) = (self.total, None);
        for (piece, next) in self.pieces.iter().zip(self.pieces.iter().skip(1)) {
            if left <= max - max / STEP {
                break;
            }
            left -= piece.bytes;
            first = Some(next.first);
        }
        first
    }
}

/// Says when it is time to look.
#[derive(Debug)]
pub(super) struct Trim {
    bytes_max: u64,
    /// The first entry that is not in the last snapshot.
    built: AtomicU64,
    news: Notify,
}

impl Trim {
    pub(super) const fn new(bytes_max: u64) -> Self {
        Self { bytes_max, built: AtomicU64::new(0), news: Notify::const_new() }
    }

    /// A snapshot was built that has all entries before this one.
    pub(super) fn built(&self, next: u64) {
        self.built.store(next, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// The log has become larger.
    pub(super) fn grown(&self, weights: &Weights) {
        if weights.total > self.bytes_max {
            self.news.notify_one();
        }
    }
}

/// What is known of a log.
#[derive(Clone, Copy, Debug)]
struct Ends {
    /// The first entry that is there.
    first: u64,
    /// The first one that is not in a snapshot.
    unbuilt: u64,
    /// The first one that would stay if bytes alone counted, when there are too many.
    light: Option<u64>,
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Plan {
    /// The entry that is to be the first one.
    first: Option<u64>,
    /// More would go if a snapshot had it.
    needs_snapshot: bool,
}

fn plan(ends: Ends, trailing: u64) -> Plan {
    let together = (trailing / 8).clamp(1, TOGETHER_MAX);
    let enough = ends.unbuilt.saturating_sub(trailing);
    let by_count = (enough >= ends.first.saturating_add(together)).then_some(enough);
    let wanted = by_count.max(ends.light);
    Plan {
        first: wanted.map(|first| first.min(ends.unbuilt)).filter(|first| *first > ends.first),
        needs_snapshot: ends.light.is_some_and(|first| first > ends.unbuilt),
    }
}

/// Removes entries whenever there is something to remove.
pub(super) async fn drive(inner: Arc<Inner>) {
    loop {
        inner.trim.news.notified().await;
        let Some(core) = inner.core() else { continue };
        let built = inner.trim.built.load(Ordering::Relaxed);
        let mut metrics = core.raft.metrics();
        let heard = metrics.wait_for(|now| now.snapshot.next_index() >= built || now.running_state.is_err());
        if timeout(HEARD_TIMEOUT, heard).await.is_err() {
            // It was built in a log that was forgotten since.
            inner.trim.built.store(0, Ordering::Relaxed);
        }
        let unbuilt = metrics.borrow().snapshot.next_index();
        let (first, light) = core.log.too_much(inner.config.max_log_bytes);
        let plan = plan(Ends { first, unbuilt, light }, inner.config.trailing_logs);
        let trigger = core.raft.trigger();
        if let Some(first) = plan.first {
            debug!(first, "the log is to begin later");
            if let Err(fatal) = trigger.purge_log(first - 1).await {
                info!(%fatal, "entries were not removed");
            }
        }
        if plan.needs_snapshot
            && let Err(fatal) = trigger.snapshot().await
        {
            info!(%fatal, "no snapshot was built");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(entries: &[u64]) -> Weights {
        let mut weights = Weights::default();
        for (index, bytes) in (10..).zip(entries) {
            weights.add(index, *bytes);
        }
        weights
    }

    #[test]
    fn what_is_too_much_goes_from_the_front_and_the_newest_stays() {
        const P: u64 = PIECE_BYTES;
        for (entries, max, expected) in [
            (&[P; 10][..], 10 * P, None),
            (&[P; 10], 8 * P, Some(13)),
            (&[P; 10], P, Some(19)),
            (&[P; 10], 0, Some(19)),
            (&[100 * P, P, P], 8 * P, Some(11)),
            (&[P, P, 100 * P], 8 * P, Some(12)),
            (&[100 * P], 8 * P, None),
            // Small ones are counted together.
            (&[P / 4; 40], 8 * P, Some(22)),
            (&[], 0, None),
        ] {
            assert_eq!(weights(entries).surplus(max), expected, "{} entries, {max}", entries.len());
        }
    }

    #[test]
    fn both_ends_can_be_taken_away() {
        let mut weights = weights(&[PIECE_BYTES / 2; 10]);
        assert_eq!(weights.total, 5 * PIECE_BYTES);
        weights.drop_until(10);
        assert_eq!(weights.total, 5 * PIECE_BYTES, "half of a piece is left");
        weights.drop_until(13);
        weights.drop_until(12);
        assert_eq!(weights.total, 3 * PIECE_BYTES);
        weights.cut(17);
        assert_eq!(weights.total, 2 * PIECE_BYTES, "half of a piece is left");
        assert_eq!(weights.surplus(PIECE_BYTES), Some(16));
        weights.cut(12);
        assert_eq!(weights.total, 0);
        assert!(weights.add(12, 7));
        weights.drop_until(100);
        assert_eq!(weights.total, 0);
    }

    #[test]
    fn what_goes_is_in_a_snapshot_and_more_than_what_is_kept() {
        for (first, unbuilt, light, trailing, expected, needs_snapshot) in [
            (0, 100, None, 100, None, false),
            // Not one by one.
            (0, 111, None, 100, None, false),
            (0, 112, None, 100, Some(12), false),
            (0, 1, None, 0, Some(1), false),
            (0, 0, None, 0, None, false),
            // Too many bytes, whatever their number.
            (5, 100, Some(50), 1_000, Some(50), false),
            (5, 100, Some(50), 10, Some(90), false),
            (5, 100, Some(150), 1_000, Some(100), true),
            (100, 100, Some(150), 1_000, None, true),
        ] {
            let ends = Ends { first, unbuilt, light };
            assert_eq!(plan(ends, trailing), Plan { first: expected, needs_snapshot }, "{ends:?} {trailing}");
        }
    }
}
