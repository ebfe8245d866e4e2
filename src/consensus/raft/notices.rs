//! What operators are told of who leads.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::node::{Inner, Standing};
use crate::types::PeerId;

/// Election timeouts without a leader after which it is told: most often there is another one before that.
const ELECTION_TIMEOUTS: u32 = 4;

/// Says who leads whenever that is another one, and that nobody does when it has been so for a while, until it is dropped.
pub(super) async fn tell(inner: Arc<Inner>) {
    let mut notices = Notices::default();
    loop {
        sleep(inner.config.heartbeat_interval()).await;
        let is_member = inner.voters().contains(&inner.peer);
        if !is_member || !matches!(*inner.standing.borrow(), Standing::Working) {
            continue;
        }
        let patience = inner.config.election_timeout.saturating_mul(ELECTION_TIMEOUTS);
        match notices.look(inner.leader(), Instant::now(), patience) {
            // As the reference says it.
            Some(Notice::Leads(peer)) => info!("Current Raft Leader: {peer}"),
            Some(Notice::NobodyLeads) => warn!(
                "there is no raft leader: nothing can be written until more than half of the {} members run and reach each \
                 other; if they never will again, see \"state raft recover --help\"",
                inner.voters().len()
            ),
            None => {}
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Notice {
    Leads(PeerId),
    NobodyLeads,
}

/// What was said last.
#[derive(Debug, Default)]
struct Notices {
    leader: Option<PeerId>,
    is_nobody: bool,
    /// Since when nobody leads.
    lost_at: Option<Instant>,
}

impl Notices {
    /// What is news. In the beginning nobody leads, which is none until it has been so for a while.
    fn look(&mut self, leader: Option<PeerId>, now: Instant, patience: Duration) -> Option<Notice> {
        let Some(peer) = leader else {
            let lost_at = *self.lost_at.get_or_insert(now);
            let is_news = !self.is_nobody && now.duration_since(lost_at) >= patience;
            self.is_nobody |= is_news;
            return is_news.then_some(Notice::NobodyLeads);
        };
        let is_news = self.leader != leader || self.is_nobody;
        *self = Self { leader, is_nobody: false, lost_at: None };
        is_news.then_some(Notice::Leads(peer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_leader_is_told_once_and_its_loss_when_nobody_follows_soon() {
        let (one, other) = (PeerId::random(), PeerId::random());
        let patience = Duration::from_secs(4);
        let mut notices = Notices::default();
        let start = Instant::now();
        for (second, leader, expected) in [
            (0, None, None),
            (3, None, None),
            (4, None, Some(Notice::NobodyLeads)),
            (5, None, None),
            (6, Some(one), Some(Notice::Leads(one))),
            (20, Some(one), None),
            // The next leader comes in time, so nothing was lost.
            (21, None, None),
            (24, None, None),
            (25, Some(other), Some(Notice::Leads(other))),
            // And so does the same one.
            (26, None, None),
            (29, Some(other), None),
            (30, None, None),
            (34, None, Some(Notice::NobodyLeads)),
            (99, None, None),
            (100, Some(other), Some(Notice::Leads(other))),
        ] {
            let now = start + Duration::from_secs(second);
            assert_eq!(notices.look(leader, now, patience), expected, "second {second}");
        }
    }
}
