//! Members, leaders and trust.

use super::*;

/// In a cluster of itself alone it is the only one.
pub async fn this_peer_is_a_member_and_trusted(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.ready().await.unwrap();
    assert_eq!(consensus.peers().await.unwrap(), [fixture.peer()]);
    assert!(consensus.is_trusted(&fixture.peer()));
}

/// And in a cluster of one it is this peer, before long.
pub async fn only_with_a_leader_there_is_one(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    if !consensus.capabilities().leader {
        assert_eq!(consensus.leader().await.unwrap_err().kind(), ErrorKind::Unsupported);
        return;
    }
    consensus.ready().await.unwrap();
    let elected = async {
        while consensus.leader().await.unwrap() != Some(fixture.peer()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(FACT_TIMEOUT, elected).await.expect("a leader in time");
}

/// Only what needs no second peer is asked here.
pub async fn only_with_membership_changes_members_change(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    consensus.ready().await.unwrap();
    let (own, stranger) = (fixture.peer(), crate::testing::peer(u64::MAX));
    if consensus.capabilities().membership_changes {
        consensus.add_peer(&own).await.unwrap();
        consensus.remove_peer(&stranger).await.unwrap();
        assert_eq!(consensus.remove_peer(&own).await.unwrap_err().kind(), ErrorKind::Conflict);
    } else {
        assert_eq!(consensus.add_peer(&stranger).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(consensus.remove_peer(&stranger).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    assert_eq!(consensus.peers().await.unwrap(), [own]);
}

/// And never ourselves not.
pub async fn only_with_trust_others_are_trusted(fixture: impl Fixture) {
    let (_guard, consensus) = fixture.create().await;
    let (own, stranger) = (fixture.peer(), crate::testing::peer(u64::MAX));
    if consensus.capabilities().trust {
        consensus.trust(&stranger).await.unwrap();
        assert!(consensus.is_trusted(&stranger));
        consensus.distrust(&stranger).await.unwrap();
        assert!(!consensus.is_trusted(&stranger));
        assert_eq!(consensus.distrust(&own).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    } else {
        assert_eq!(consensus.trust(&stranger).await.unwrap_err().kind(), ErrorKind::Unsupported);
        assert_eq!(consensus.distrust(&stranger).await.unwrap_err().kind(), ErrorKind::Unsupported);
    }
    assert!(consensus.is_trusted(&own));
}
