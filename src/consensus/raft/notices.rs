//! What operators are told of who leads.

use std::sync::Arc;

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::node::{Inner, Standing};
use crate::types::PeerId;

/// Says who leads whenever that is another one, and that nobody does when it has been so for a while, until it is dropped.
pub(super) async fn tell(inner: Arc<Inner>) {
    let mut notices = Notices::default();
    let begun = Instant::now();
    loop {
        sleep(inner.config.heartbeat_interval()).await;
        let is_member = inner.voters().contains(&inner.peer);
        if !is_member || !matches!(*inner.standing.borrow(), Standing::Working) {
            continue;
        }
        let patience = inner.config.wait_for_leader_timeout;
        match notices.look(inner.leader(), begun.elapsed() >= patience) {
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
}

impl Notices {
    /// What is news. In the beginning nobody leads, which is none.
    fn look(&mut self, leader: Option<PeerId>, is_late: bool) -> Option<Notice> {
        match leader {
            Some(peer) if self.leader != leader || self.is_nobody => {
                *self = Self { leader, is_nobody: false };
                Some(Notice::Leads(peer))
            }
            None if !self.is_nobody && (self.leader.is_some() || is_late) => {
                self.is_nobody = true;
                Some(Notice::NobodyLeads)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_is_told_once_and_its_loss_too() {
        let (one, other) = (PeerId::random(), PeerId::random());
        let mut notices = Notices::default();
        for (leader, is_late, expected) in [
            (None, false, None),
            (Some(one), false, Some(Notice::Leads(one))),
            (Some(one), true, None),
            (Some(other), true, Some(Notice::Leads(other))),
            (None, true, Some(Notice::NobodyLeads)),
            (None, true, None),
            (Some(other), true, Some(Notice::Leads(other))),
        ] {
            assert_eq!(notices.look(leader, is_late), expected, "{leader:?}");
        }
        let mut late = Notices::default();
        assert_eq!(late.look(None, true), Some(Notice::NobodyLeads));
    }
}
